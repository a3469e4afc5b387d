"""What a trace says was computed is what the network computed: a probe of our own counts inside a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pipelines
import pytest
from pipelines import Tiny

from sencache.engine.attach import attach
from sencache.engine.trace import Trace
from sencache.policies import Full, Policy

METHODS = ("fixed", "sencache", "magcache", "teacache", "easycache", "control")


@contextmanager
def probed(tiny: Tiny) -> Iterator[list[float]]:
    """The timestep of every call of the attention in a middle block, read off the pipeline itself."""
    seen: list[float] = []
    block: Any = tiny.blocks[2]
    handle = block.attn1.register_forward_hook(lambda *_: seen.append(float(tiny.pipe.current_timestep)))
    try:
        yield seen
    finally:
        handle.remove()


def run(tiny: Tiny, policy: Policy, **changes: Any) -> tuple[Trace, list[float]]:
    with probed(tiny) as seen, attach(tiny.pipe, policy) as trace:
        tiny(**changes)
    return trace, seen


def check(trace: Trace, seen: list[float], branches: int) -> None:
    computed = [record.timestep for record in trace if record.decision == "compute"]
    assert seen == [timestep for timestep in computed for _ in range(branches)]
    assert trace.transformer_calls == len(seen)
    assert trace.nfe == len(computed)
    assert trace.cache_ratio == pytest.approx(1 - len(computed) / len(trace))


@pytest.mark.parametrize("forecast", ["hold", "linear"])
@pytest.mark.parametrize("target", ["residual", "output", "delta"])
@pytest.mark.parametrize("method", METHODS)
def test_the_network_ran_as_often_as_the_trace_says(
    tiny: Tiny, method: str, target: Any, forecast: Any
) -> None:
    policy = replace(pipelines.lively(tiny.name)[method], target=target, forecast=forecast)
    trace, seen = run(tiny, policy)
    assert 1 < trace.nfe < pipelines.STEPS
    check(trace, seen, tiny.branches)


def test_without_a_cache_every_step_runs(tiny: Tiny) -> None:
    trace, seen = run(tiny, Full())
    assert trace.nfe == pipelines.STEPS
    check(trace, seen, tiny.branches)


@pytest.mark.parametrize("method", METHODS)
def test_without_guidance_a_step_is_one_call(tiny: Tiny, method: str) -> None:
    trace, seen = run(tiny, pipelines.lively(tiny.name)[method], guidance_scale=1.0)
    check(trace, seen, branches=1)


@pytest.mark.parametrize("method", METHODS)
def test_records_tell_the_steps_of_the_scheduler(tiny: Tiny, method: str) -> None:
    """Indices, timesteps and sigmas are the scheduler's; the books follow from the decisions alone."""
    trace, _ = run(tiny, pipelines.lively(tiny.name)[method])
    scheduler = tiny.pipe.scheduler
    assert [record.step for record in trace] == list(range(pipelines.STEPS))
    assert [record.timestep for record in trace] == scheduler.timesteps.tolist()
    sigmas = getattr(scheduler, "sigmas", [None] * pipelines.STEPS)
    assert [record.sigma for record in trace] == [
        None if sigma is None else float(sigma) for sigma in sigmas[: pipelines.STEPS]
    ]
    reference, reuses = None, 0
    for record in trace:
        reuses = reuses + 1 if record.decision == "reuse" else 0
        assert (record.reference_step, record.reuses) == (reference, reuses)
        reference = record.step if record.decision == "compute" else reference


def test_a_record_is_there_before_its_callback(tiny: Tiny) -> None:
    lengths = []
    with attach(tiny.pipe, pipelines.lively(tiny.name)["fixed"]) as trace:
        tiny(callback_on_step_end=lambda *_: lengths.append(len(trace)) or {})
    assert lengths == list(range(1, pipelines.STEPS + 1))
