"""Runs in new pipelines, what may be found of an attachment, and what goes wrong under one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pipelines
import torch
from pipelines import Tiny

from sencache.comparison.lanes import Finished, Stepped, lane
from sencache.comparison.stepping import Stepwise
from sencache.engine.attach import attach
from sencache.policies import Policy
from sencache.trace import StepRecord

CPU = torch.device("cpu")
METHODS = ("sencache", "magcache", "teacache", "easycache", "control")
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "same": {name: {} for name in pipelines.ALL},
    "steps": {name: {"steps": 9} for name in pipelines.ALL},
    "unguided": {name: {"guidance_scale": 1.0} for name in pipelines.ALL},
    "prompts": {name: {"batch": 2} for name in pipelines.ALL},
    "shape": {
        "wan": {"num_frames": 5},
        "cogvideox": {"height": 32},
        "ltx": {"width": 96},
    },
}


def policy_of(name: str, method: str) -> Policy:
    """Every caching method, extrapolating, so that the cache holds as much as it ever does."""
    return replace(pipelines.lively(name)[method], forecast="linear")


@cache
def in_a_new_pipeline(name: str, method: str, change: str) -> tuple[torch.Tensor, list[StepRecord]]:
    tiny = pipelines.ALL[name]()
    with attach(tiny.pipe, policy_of(name, method)) as trace:
        return tiny(**CHANGES[change][name]), trace.records


def contents(module: torch.nn.Module) -> list[Any]:
    """Every attribute of every module below, the entries of dictionaries one by one: objects, not their
    values.
    """
    found: list[Any] = []
    for path, child in module.named_modules():
        for name, value in child.__dict__.items():
            found.append((path, name, value))
            if isinstance(value, dict):
                found += [(path, name, key, entry) for key, entry in value.items()]
    return found


@contextmanager
def untouched(tiny: Tiny) -> Iterator[Callable[[], None]]:
    """The transformer and the pipeline at the end hold the very objects that they held at the start."""
    transformer = tiny.pipe.transformer
    kept, keys, shell = contents(transformer), list(transformer.state_dict()), dict(tiny.pipe.__dict__)

    def check() -> None:
        now = contents(transformer)
        assert len(now) == len(kept)
        assert all(a[-1] is b[-1] and a[:-1] == b[:-1] for a, b in zip(now, kept, strict=True))
        assert list(transformer.state_dict()) == keys
        assert "forward" not in transformer.__dict__
        assert not {"step", "set_timesteps"} & set(tiny.pipe.scheduler.__dict__)
        components = [key for key in shell if not key.startswith("_")]
        assert all(tiny.pipe.__dict__[key] is shell[key] for key in components)

    yield check
    check()


class Mishap(Exception):
    """What goes wrong in these tests."""


def lane_of(tiny: Tiny, policy: Policy, **changes: Any) -> Stepwise[Stepped | Finished]:
    def generate(pipe: Any, callback: Any) -> np.ndarray[Any, Any]:
        return replace(tiny, pipe=pipe)(callback_on_step_end=callback, **changes).numpy()

    return lane(tiny.pipe, policy, generate, CPU)


def counting(log: list[str], upto: int = 3) -> Callable[[Callable[[int], None]], None]:
    def function(emit: Callable[[int], None]) -> None:
        log.append("begin")
        try:
            for i in range(upto):
                emit(i)
            log.append("end")
        finally:
            log.append("finally")

    return function
