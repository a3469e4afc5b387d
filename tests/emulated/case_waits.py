"""How often the host waits for the device: once a scored step, whatever the method."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import emulation
import pipelines
import pytest
import torch
from pipelines import Tiny, on_gpu

from sencache.engine.attach import attach
from sencache.policies import Fixed, Full, Policy, SenCache


def waits(call: Callable[[], Any]) -> int:
    before = len(emulation.waits)
    call()
    return len(emulation.waits) - before


def under(tiny: Tiny, policy: Policy) -> Any:
    with attach(tiny.pipe, policy) as trace:
        tiny()
    return trace


@pytest.mark.parametrize(
    ("name", "dtype"), [("wan", torch.float32), ("cogvideox", torch.bfloat16), ("ltx", torch.bfloat16)]
)
def test_one_wait_per_scored_step(name: str, dtype: torch.dtype) -> None:
    tiny = on_gpu(pipelines.ALL[name](), dtype)
    base = waits(lambda: under(tiny, Full()))
    assert base - waits(tiny) <= 2, "the schedule is brought to the host once a run"
    tight = SenCache(pipelines.profile(name), tolerance=0.0, early_tolerance=0.0)
    for policy in (tight, *pipelines.lively(name).values()):
        traces: list[Any] = []
        made = waits(lambda p=policy, t=traces: t.append(under(tiny, p)))
        scored = [record for record in traces[0] if record.signals and policy.senses]
        assert made - base == len(scored), policy
        assert bool(scored) == bool(policy.senses)


@pytest.mark.parametrize("name", pipelines.ALL)
def test_replay_waits_for_nothing_but_its_sampler(name: str) -> None:
    """Steps that the sampler takes again cost what it waits for itself; corrections wait for a reader."""
    tiny = on_gpu(pipelines.ALL[name]())
    alone = waits_of_a_step(tiny)
    held = Fixed(steps=(0, 1, 4, 5, 8, 11), forced_first=1, target="prediction")
    traces: list[Any] = []
    made = [waits(lambda p=p: traces.append(under(tiny, p))) for p in (held, replace(held, repair="replay"))]
    assert made[1] - made[0] == 6 * alone
    records: list[Any] = []
    assert waits(lambda: records.extend(traces[1])) == 3
    assert [record.step for record in records if record.correction] == [4, 8, 11]
    assert waits(lambda: traces[1].records) == 0


def waits_of_a_step(tiny: Tiny) -> int:
    """How often this sampler itself waits for the device in one step between the first and the last."""
    own = tiny.pipe.scheduler.step
    inside: list[int] = []

    def step(*args: Any, **kwargs: Any) -> Any:
        result: list[Any] = []
        inside.append(waits(lambda: result.append(own(*args, **kwargs))))
        return result[0]

    tiny.pipe.scheduler.step = functools.wraps(own)(step)
    tiny()
    del tiny.pipe.scheduler.step
    (alone,) = set(inside[1:-1])
    return alone
