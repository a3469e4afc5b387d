"""One lane: a plain diffusers call on a shallow copy of the pipeline, stopped after every step.

The copy shares all weights and has its own place for hooks, its own block-list entry, scheduler and pipeline
state, so any number of lanes can be under way on one model, and the model itself is never touched.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from sencache.comparison.devices import Clock
from sencache.comparison.stepping import Stepwise
from sencache.engine.attach import attach
from sencache.engine.run import Observer
from sencache.engine.step import StepState
from sencache.errors import SencacheError
from sencache.policies.base import Policy, Step
from sencache.repair import SamplerStep
from sencache.trace import StepRecord, Trace

Frames = np.ndarray[Any, np.dtype[np.float32]]
Generate = Callable[[Any, Callable[..., dict[str, Any]]], Frames]


@dataclass(frozen=True)
class Stepped:
    """One step of a lane: its record with the time it took, and on its device the latent after it."""

    record: StepRecord
    latent: torch.Tensor


@dataclass(frozen=True)
class Finished:
    """A whole lane. `setup_seconds` passed before the first step, `decode_seconds` after the last;
    `peak_bytes` of GPU memory were allocated at most during its turns, None on a CPU.
    """

    frames: Frames
    trace: Trace
    setup_seconds: float
    decode_seconds: float
    peak_bytes: int | None


def lane(
    pipe: Any, policy: Policy, generate: Generate, device: torch.device, observer: Observer | None = None
) -> Stepwise[Stepped | Finished]:
    """A lane of `pipe` under `policy`, not yet begun.

    `generate(pipe, callback)` makes the diffusers call. Items are the steps and, last, the finished lane.
    """

    def run(emit: Callable[[Stepped | Finished], None]) -> None:
        shell, clock, setup = shallow_pipeline(pipe), Clock(device), list[float]()
        watching = None if observer is None else _OffTheClock(observer, clock)

        def begin(*_: Any) -> None:
            if not setup:
                setup.append(clock.stop())
                clock.start()

        def on_step(_: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            record = trace.records[-1].model_copy(update={"seconds": clock.stop()})
            emit(Stepped(record, tensors["latents"].clone()))
            clock.start()
            return {}

        with attach(shell, policy, observer=watching) as trace:
            shell.transformer.register_forward_pre_hook(begin, prepend=True)
            clock.start()
            frames = generate(shell, on_step)
            decode = clock.stop()
        emit(Finished(frames, trace, sum(setup), decode, clock.peak_bytes))

    return Stepwise(run)


class _OffTheClock:
    """An observer whose own work is not the lane's."""

    def __init__(self, observer: Observer, clock: Clock) -> None:
        self.signal = observer.signal
        self._observer, self._clock = observer, clock

    def observe(self, state: StepState) -> None:
        with self._clock.pause():
            self._observer.observe(state)

    def note_prediction(self, step: Step, call: SamplerStep) -> None:
        with self._clock.pause():
            self._observer.note_prediction(step, call)


def shallow_pipeline(pipe: Any) -> Any:
    """A pipeline with the same components, its own scheduler and its own shells of the transformers."""
    shell = copy.copy(pipe)
    shell.__dict__["scheduler"] = copy.deepcopy(pipe.scheduler)
    for name in ("transformer", "transformer_2"):
        if getattr(pipe, name, None) is not None:
            shell.__dict__[name] = _shallow_module(getattr(pipe, name))
    return shell


def _shallow_module(module: torch.nn.Module) -> Any:
    """A module that shares every parameter, buffer and child, and owns the dictionaries that hold them and
    its hooks.

    Group offloading goes on serving the copy: diffusers' own hooks around `forward` act only before and after
    it. Raises SencacheError where anything else replaced `forward` on the instance, as accelerate's
    offloading does: it would lead back to the original.
    """
    shell = copy.copy(module)
    for name, value in module.__dict__.items():
        if type(value) in (dict, OrderedDict):
            shell.__dict__[name] = type(value)(value)
    # diffusers' hook registry points at the module it was made for.
    registry = shell.__dict__.pop("_diffusers_hook", None)
    if "forward" in module.__dict__:
        hooks = [] if registry is None else registry.hooks.values()
        if registry is None or hasattr(module, "_hf_hook") or any(hasattr(h, "new_forward") for h in hooks):
            raise SencacheError(
                f"{type(module).__name__} has an offloading hook on its forward that lanes cannot share; "
                "use group offloading, or attach to the pipeline instead"
            )
        shell.__dict__["forward"] = partial(_forward_between_hooks, module, registry, shell)
    return shell


def _forward_between_hooks(module: torch.nn.Module, registry: Any, shell: Any, *args: Any, **kw: Any) -> Any:
    """The shell's own forward, with the hooks that were registered for `module`: they move the weights that
    both share, and know `module` by identity.
    """
    # A prefetching hook removes itself after the first forward.
    hooks = list(registry.hooks.values())
    for hook in reversed(hooks):
        args, kw = hook.pre_forward(module, *args, **kw)
    own: Any = type(shell).forward
    output = own(shell, *args, **kw)
    for hook in hooks:
        output = hook.post_forward(module, output)
    return output
