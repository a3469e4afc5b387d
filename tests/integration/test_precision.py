"""Half precision: distances between latents are those of the sampler's own float32 latents."""

from __future__ import annotations

from typing import Any

import pipelines
import pytest
import torch
from pipelines import STEPS, Tiny

from sencache.engine.attach import attach
from sencache.policies import EasyCache, SenCache
from sencache.trace import Trace

SHIFT = 40.0


def half(tiny: Tiny) -> Tiny:
    """The same pipeline in bfloat16."""
    tiny.pipe.transformer.to(torch.bfloat16)
    embeds = tiny.arguments

    def arguments(batch: int) -> dict[str, Any]:
        return {
            name: value.bfloat16() if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in embeds(batch).items()
        }

    return Tiny(tiny.name, tiny.pipe, arguments, tiny.guidance)


def record_run(tiny: Tiny, policy: Any, swap: bool = False) -> tuple[Trace, list[torch.Tensor]]:
    """The trace, and the latent that enters every step but the first. `swap`: the callback moves them."""
    latents: list[torch.Tensor] = []

    def keep(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        latent = tensors["latents"] + (SHIFT if swap else 0)
        latents.append(latent.double().clone())
        return {"latents": latent} if swap else {}

    with attach(tiny.pipe, policy) as trace:
        tiny(callback_on_step_end=keep, steps=60)
    return trace, latents


def close_steps(tiny: Tiny) -> SenCache:
    """Scores every step, reuses none."""
    return SenCache(pipelines.profile(tiny.name), tolerance=0.0, max_reuses=1)


@pytest.mark.parametrize("name", ["wan", "ltx"])
def test_distances_are_those_of_the_unrounded_latents(name: str) -> None:
    tiny = half(pipelines.ALL[name]())
    trace, latents = record_run(tiny, close_steps(tiny))
    assert latents[0].dtype == torch.float64
    inflated = []
    for record in trace.records[2:]:
        now, before = latents[record.step - 1], latents[record.step - 2]
        expected = float((now - before).pow(2).mean().sqrt())
        assert record.signals["dx_rms"] == pytest.approx(expected, rel=1e-3, abs=1e-7), record.step
        rounded = (now.bfloat16().double() - before.bfloat16().double()).pow(2).mean().sqrt()
        inflated.append(float(rounded) / max(expected, 1e-12))
    assert max(inflated) > 1.02, "otherwise this shows nothing"


def test_a_latent_that_the_callback_replaced_is_measured_as_it_is_seen() -> None:
    """The scheduler's own result is no longer what the transformer gets."""
    tiny = half(pipelines.wan())
    trace, latents = record_run(tiny, close_steps(tiny), swap=True)
    for record in trace.records[2:20]:
        now, before = (latents[record.step - back].bfloat16().double() for back in (1, 2))
        expected = float((now - before).pow(2).mean().sqrt())
        assert record.signals["dx_rms"] == pytest.approx(expected, rel=1e-3)


def test_other_sensors_see_them_too() -> None:
    tiny = half(pipelines.wan())
    trace, latents = record_run(tiny, EasyCache(threshold=0.0, forced_first=1))
    for record in trace.records[3:]:
        if "input_change" in record.signals:
            change = (latents[record.step - 1] - latents[record.step - 2]).abs().mean()
            assert record.signals["input_change"] == pytest.approx(float(change), rel=1e-3)


def test_float32_runs_are_untouched_and_the_scheduler_is_given_back(tiny: Tiny) -> None:
    """Bit-identical latents where nothing is rounded, the same records twice; then its own method."""
    scheduler, plain = tiny.pipe.scheduler, tiny()
    with attach(tiny.pipe, close_steps(tiny)) as trace:
        assert torch.equal(tiny(), plain)
        first = list(trace.records)
        assert "step" in scheduler.__dict__
        assert torch.equal(tiny(), plain)
    assert trace.records == first and len(first) == STEPS
    assert "step" not in scheduler.__dict__
    with pytest.raises(ZeroDivisionError), attach(tiny.pipe, close_steps(tiny)):
        tiny(callback_on_step_end=lambda *_: 1 / 0)
    assert "step" not in scheduler.__dict__
