"""One lane: a plain diffusers call on a shallow copy of the pipeline, stopped after every step.

The copy shares all weights and has its own place for hooks, its own block-list entry, scheduler and pipeline
state, so any number of lanes can be under way on one model, and the model itself is never touched.
"""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sencache.engine.attach import attach
from sencache.engine.run import Observer
from sencache.engine.trace import Record, Trace
from sencache.errors import SencacheError
from sencache.interleave import Stepwise
from sencache.policies.base import Policy

Frames = np.ndarray[Any, np.dtype[np.float32]]
Generate = Callable[[Any, Callable[..., dict[str, Any]]], Frames]


@dataclass(frozen=True)
class Stepped:
    """One step of a lane: its record with the time it took, and the latent after it."""

    record: Record
    latent: torch.Tensor


@dataclass(frozen=True)
class Finished:
    """A whole lane. `setup_seconds` passed before the first step, `decode_seconds` after the last."""

    frames: Frames
    trace: Trace
    setup_seconds: float
    decode_seconds: float


class Clock:
    """Seconds of work on one device between `start` and `stop`; on a GPU by events, so that only this lane is
    counted.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._start: Any = None

    def start(self) -> None:
        """Begin, or begin again."""
        self._start = self._mark()

    def stop(self) -> float:
        """Seconds since `start`; waits for the device."""
        end = self._mark()
        if not self._cuda:
            return float(end - self._start)
        end.synchronize()
        return float(self._start.elapsed_time(end)) / 1000

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def lane(
    pipe: Any, policy: Policy, generate: Generate, device: torch.device, observer: Observer | None = None
) -> Stepwise[Stepped | Finished]:
    """A lane of `pipe` under `policy`, not yet begun.

    `generate(pipe, callback)` makes the diffusers call. Items are the steps and, last, the finished lane.
    """

    def run(emit: Callable[[Stepped | Finished], None]) -> None:
        shell, clock, laps = shallow_pipeline(pipe), Clock(device), _Laps()

        def begin(*_: Any) -> None:
            if laps.setup is None:
                laps.setup = clock.stop()
                clock.start()

        def on_step(_: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            record = trace.records[-1].model_copy(update={"seconds": clock.stop()})
            emit(Stepped(record, tensors["latents"]))
            clock.start()
            return {}

        with attach(shell, policy, observer=observer) as trace:
            shell.transformer.register_forward_pre_hook(begin, prepend=True)
            clock.start()
            frames = generate(shell, on_step)
            decode = clock.stop()
        emit(Finished(frames, trace, laps.setup or 0.0, decode))

    return Stepwise(run)


@dataclass
class _Laps:
    setup: float | None = None


def shallow_pipeline(pipe: Any) -> Any:
    """A pipeline with the same components, its own scheduler and its own shells of the transformers."""
    shell = copy.copy(pipe)
    shell.__dict__["scheduler"] = copy.deepcopy(pipe.scheduler)
    for name in ("transformer", "transformer_2"):
        if getattr(pipe, name, None) is not None:
            shell.__dict__[name] = shallow_module(getattr(pipe, name))
    return shell


def shallow_module(module: torch.nn.Module) -> Any:
    """A module that shares every parameter, buffer and child, and owns the dictionaries that hold them and
    its hooks.

    Raises SencacheError where `forward` was replaced on the instance (offloading does that): it would lead
    back to the original.
    """
    if "forward" in module.__dict__:
        raise SencacheError(
            f"{type(module).__name__} has an offloading hook on its forward, which lanes cannot share; "
            "remove the hook, or attach to the pipeline instead"
        )
    shell = copy.copy(module)
    for name, value in module.__dict__.items():
        if type(value) in (dict, OrderedDict):
            shell.__dict__[name] = type(value)(value)
    # diffusers' hook registry points at the module it was made for.
    shell.__dict__.pop("_diffusers_hook", None)
    return shell
