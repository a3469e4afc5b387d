"""What a trace says is what happened: probes of our own count inside a block and measure the signals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pipelines
import pytest
import torch
from pipelines import CROSSED, STEPS, Tiny

from sencache.engine.attach import attach
from sencache.policies import Control, EasyCache, Full, Policy, TeaCache
from sencache.profiles.constants import TeaCacheFit
from sencache.trace import Trace


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


def check(tiny: Tiny, trace: Trace, seen: list[float], branches: int) -> None:
    """Counts, indices, timesteps and sigmas are the scheduler's; the books follow from the decisions."""
    computed = [record.timestep for record in trace if record.decision == "compute"]
    assert seen == [timestep for timestep in computed for _ in range(branches)]
    assert (trace.transformer_calls, trace.nfe) == (len(seen), len(computed))
    assert trace.cache_ratio == pytest.approx(1 - len(computed) / len(trace))
    scheduler = tiny.pipe.scheduler
    assert [record.step for record in trace] == list(range(STEPS))
    assert [record.timestep for record in trace] == scheduler.timesteps.tolist()
    sigmas = getattr(scheduler, "sigmas", [None] * STEPS)[:STEPS]
    assert [record.sigma for record in trace] == [None if s is None else float(s) for s in sigmas]
    reference, reuses = None, 0
    for record in trace:
        reuses = reuses + 1 if record.decision == "reuse" else 0
        assert (record.reference_step, record.reuses) == (reference, reuses)
        reference = record.step if record.decision == "compute" else reference


@pytest.mark.parametrize(("name", "method", "target", "forecast"), CROSSED)
def test_the_network_ran_as_often_as_the_trace_says(
    name: str, method: str, target: Any, forecast: Any
) -> None:
    tiny = pipelines.ALL[name]()
    policy = replace(pipelines.lively(tiny.name)[method], target=target, forecast=forecast)
    trace, seen = run(tiny, policy)
    assert 1 < trace.nfe < STEPS
    check(tiny, trace, seen, tiny.branches)


def test_without_guidance_a_step_is_one_call(tiny: Tiny) -> None:
    for policy in (Full(), pipelines.lively(tiny.name)["sencache"]):
        trace, seen = run(tiny, policy, guidance_scale=1.0)
        assert (trace.nfe == STEPS) == isinstance(policy, Full)
        check(tiny, trace, seen, branches=1)


def test_a_record_is_there_before_its_callback(tiny: Tiny) -> None:
    lengths = []
    with attach(tiny.pipe, pipelines.lively(tiny.name)["fixed"]) as trace:
        tiny(callback_on_step_end=lambda *_: lengths.append(len(trace)) or {})
    assert lengths == list(range(1, STEPS + 1))


# --- Signals, measured from outside ---------------------------------------------------------------


def size(x: torch.Tensor) -> torch.Tensor:
    """Mean absolute value of every sample, in double precision."""
    return x.double().abs().flatten(1).mean(dim=1)


@contextmanager
def watched(module: torch.nn.Module, read: Callable[..., torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """What `read(kwargs, output)` finds in every call of `module`."""
    seen: list[torch.Tensor] = []

    def hook(_: Any, args: Any, kwargs: Any, output: Any) -> None:
        seen.append(read(kwargs, output).clone())

    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


# Where each signal can be seen from outside, and how it is read off a call of that module.
SEEN: dict[tuple[str, str], tuple[str, Callable[..., torch.Tensor]]] = {
    ("wan", "time_projection"): ("condition_embedder", lambda kwargs, out: out[1]),
    ("wan", "time_embedding"): ("condition_embedder", lambda kwargs, out: out[0]),
    ("cogvideox", "time_embedding"): ("time_embedding", lambda kwargs, out: out),
    # What the first block's attention is given.
    ("ltx", "modulated_input"): ("transformer_blocks.0.attn1", lambda kwargs, out: kwargs["hidden_states"]),
}


@pytest.mark.parametrize(("name", "signal"), SEEN)
def test_teacache_looks_at_what_the_network_sees(name: str, signal: str) -> None:
    """Its change from every step to the next; where it depends on t alone, across reused steps as well."""
    tiny = pipelines.ALL[name]()
    fit = TeaCacheFit(coefficients=(1.0, 0.0), signal=signal, forced_first=0, forced_last=0)
    profile = pipelines.profile(name).model_copy(update={"teacache": fit})
    path, read = SEEN[name, signal]
    with watched(tiny.pipe.transformer.get_submodule(path), read) as seen:
        tiny()
    pairs = list(pairwise(seen[:: tiny.branches]))
    expected = [(size(now - before) / size(before)).max().item() for before, now in pairs]
    for threshold in (0.0,) if name == "ltx" else (0.0, 1.0):
        with attach(tiny.pipe, TeaCache(profile, threshold=threshold)) as trace:
            tiny()
        assert (trace.nfe < STEPS) == (threshold > 0)
        measured = [record.signals["relative_l1"] for record in trace.records[1:]]
        assert measured == pytest.approx(expected, rel=1e-3)


def inputs_and_outputs(tiny: Tiny) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Of the prompt's own samples: the second half where guidance doubles the batch."""
    transformer = tiny.pipe.transformer
    with (
        watched(transformer, lambda kwargs, out: kwargs["hidden_states"]) as latents,
        watched(transformer, lambda kwargs, out: out[0]) as outputs,
    ):
        tiny(batch=2)
    own = slice(0, 2) if tiny.name == "wan" else slice(2, 4)
    return [x[own] for x in latents[:: tiny.branches]], [y[own] for y in outputs[:: tiny.branches]]


def test_easycache_learns_the_rate_of_the_network(tiny: Tiny) -> None:
    """Two prompts: the three numbers are those of the sample with the largest predicted change."""
    latents, outputs = inputs_and_outputs(tiny)
    with attach(tiny.pipe, EasyCache(threshold=0, forced_first=2)) as trace:
        tiny(batch=2)
    for i, record in list(enumerate(trace))[2:-1]:
        change = size(latents[i] - latents[i - 1])
        norm = size(outputs[i - 1])
        rate = size(outputs[i - 1] - outputs[i - 2]) / size(latents[i - 1] - latents[i - 2])
        worst = (rate * change / norm).argmax()
        expected = [x[worst].item() for x in (change, norm, rate)]
        names = ("input_change", "output_norm", "rate")
        assert [record.signals[name] for name in names] == pytest.approx(expected, rel=1e-3)
        assert record.score == pytest.approx((rate * change / norm).max().item(), rel=1e-3)


@pytest.mark.parametrize("forecast", ["hold", "linear"])
@pytest.mark.parametrize("target", ["output", "delta"])
def test_control_learns_the_error_of_its_forecast(tiny: Tiny, target: Any, forecast: Any) -> None:
    """Relative RMS, of the sample that was foretold worst."""
    latents, outputs = inputs_and_outputs(tiny)
    values = [y - x if target == "delta" else y for x, y in zip(latents, outputs, strict=True)]
    policy = Control(tolerance=0, target=target, forecast=forecast)
    with attach(tiny.pipe, policy) as trace:
        tiny(batch=2)
    t = [record.timestep for record in trace]
    judged = [(i, record) for i, record in enumerate(trace) if record.signals]
    assert len(judged) == STEPS - (4 if forecast == "linear" else 3)
    for i, record in judged:
        c, b, a = i - 1, i - 2, i - 3
        slope = (values[b] - values[a]).double() / (t[b] - t[a]) if forecast == "linear" else 0.0
        missed = values[c].double() - (values[b].double() + (t[c] - t[b]) * slope)
        relative = missed.flatten(1).norm(dim=1) / values[c].double().flatten(1).norm(dim=1)
        assert record.signals["forecast_error"] == pytest.approx(relative.max().item(), rel=1e-3)
