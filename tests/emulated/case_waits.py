"""How often the host waits for the device: once a scored step, whatever the method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import emulation
import pipelines
import pytest
import torch
from pipelines import Tiny, on_gpu

from sencache.engine.attach import attach
from sencache.policies import Full, Policy, SenCache


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
