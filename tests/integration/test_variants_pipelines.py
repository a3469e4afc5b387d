"""Pipelines as they come: two transformers, any scheduler, no names for the branches."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pipelines
import pytest
import torch
from diffusers import (
    CogVideoXDPMScheduler,
    FlowMatchHeunDiscreteScheduler,
    WanPipeline,
    WanVideoToVideoPipeline,
)
from measuring import pattern, under
from pipelines import METHODS, STEPS

from sencache.engine.attach import attach
from sencache.errors import SencacheError
from sencache.policies import Control, EasyCache

# --- Wan 2.2: two transformers --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "forecast"), [("residual", "hold"), ("output", "linear"), ("delta", "linear")]
)
def test_two_experts_at_tolerance_zero(target: Any, forecast: Any) -> None:
    tiny = pipelines.wan(two=True)
    policy = replace(pipelines.exact("wan")["sencache"], target=target, forecast=forecast)
    latents, trace = under(tiny, policy)
    assert torch.equal(latents, tiny())
    assert trace.transformer_calls == 2 * STEPS


@pytest.mark.parametrize("method", ["fixed", "sencache", "easycache"])
def test_the_second_expert_begins_with_a_computed_step(method: str) -> None:
    """Whatever the method would have liked: what the first expert cached says nothing about the second."""
    tiny = pipelines.wan(two=True)
    with attach(tiny.pipe, pipelines.lively("wan")[method]) as trace:
        latents = tiny()
        records = trace.records
        again = tiny()
    assert torch.equal(latents, again) and trace.records == records
    assert [record.step for record in trace] == list(range(STEPS))
    assert [record.timestep for record in trace] == tiny.pipe.scheduler.timesteps.tolist()
    handover = next(record for record in trace if record.timestep < 875)
    assert (handover.decision, handover.reason) == ("compute", "no_cache")
    assert [record.reason for record in trace].count("no_cache") == 1
    assert trace.transformer_calls == 2 * trace.nfe < 2 * STEPS


def test_methods_that_learn_start_afresh_with_the_second_expert() -> None:
    """EasyCache needs two computed steps of the same network, extrapolating control three."""
    tiny = pipelines.wan(two=True)
    control = Control(tolerance=1e9, forecast="linear", target="residual", repair="none")
    for policy, needed in ((EasyCache(threshold=1e9, forced_first=0), 2), (control, 3)):
        _, trace = under(tiny, policy)
        handover = next(record.step for record in trace if record.timestep < 875)
        assert pattern(trace)[handover : handover + needed + 1] == "C" * needed + "R"


# --- Schedulers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fixed", "easycache"])
def test_a_scheduler_that_repeats_timesteps_at_tolerance_zero(method: str) -> None:
    tiny = pipelines.wan(FlowMatchHeunDiscreteScheduler())
    latents, trace = under(tiny, replace(pipelines.exact("wan")[method], forecast="hold"))
    timesteps = tiny.pipe.scheduler.timesteps.tolist()
    assert len(set(timesteps)) < len(timesteps) == len(trace) == trace.nfe
    assert torch.equal(latents, tiny())


@pytest.mark.parametrize(
    ("method", "forecast"), [*((method, "linear") for method in METHODS), ("control", "hold")]
)
def test_what_reckons_in_t_refuses_a_scheduler_that_repeats_timesteps(method: str, forecast: Any) -> None:
    tiny = pipelines.wan(FlowMatchHeunDiscreteScheduler())
    policy = replace(pipelines.lively("wan")[method], forecast=forecast)
    with pytest.raises(SencacheError, match="repeats timesteps"):
        under(tiny, policy)


@pytest.mark.parametrize("method", ["magcache", "sencache", "control"])
def test_a_stochastic_scheduler(method: str) -> None:
    """CogVideoX's DPM draws noise at every step."""
    tiny = pipelines.cogvideox(CogVideoXDPMScheduler())
    latents, trace = under(tiny, pipelines.exact("cogvideox")[method])
    assert torch.equal(latents, tiny())
    assert trace.nfe == STEPS
    first, trace = under(tiny, pipelines.lively("cogvideox")[method])
    assert trace.nfe < STEPS
    assert torch.equal(first, under(tiny, pipelines.lively("cogvideox")[method])[0])


@pytest.mark.parametrize("method", ["sencache", "teacache", "control"])
def test_a_timestep_for_every_token(method: str) -> None:
    """Wan 2.2 5B: the network gets one timestep per token."""
    tiny = pipelines.wan(pipeline=partial(WanPipeline, expand_timesteps=True))
    latents, _ = under(tiny, pipelines.exact("wan")[method])
    assert torch.equal(latents, tiny())
    _, trace = under(tiny, pipelines.lively("wan")[method])
    assert 1 < trace.nfe < STEPS and trace.transformer_calls == 2 * trace.nfe


# --- Pipelines that name no branches ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "guidance"), [("fixed", 1.0), ("sencache", 5.0), ("easycache", 5.0), ("control", 1.0)]
)
def test_a_pipeline_without_cache_context(method: str, guidance: float) -> None:
    """Wan's video-to-video never names its calls; at full strength it is text-to-video."""
    tiny, other = pipelines.wan(), pipelines.wan(pipeline=WanVideoToVideoPipeline)
    latents = torch.randn(1, 16, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    policy = pipelines.lively("wan")[method]
    named, expected = under(tiny, policy, latents=latents, guidance_scale=guidance)
    arguments = {name: value for name, value in tiny.arguments(1).items() if name != "num_frames"}
    with attach(other.pipe, policy) as trace:
        unnamed = other.pipe(
            **arguments,
            latents=latents,
            strength=1.0,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            output_type="latent",
        ).frames
    assert torch.equal(named, unnamed)
    assert trace.records == expected.records
    assert trace.transformer_calls == expected.transformer_calls


def test_part_of_a_schedule() -> None:
    """Video-to-video starts on the way down; steps count from where it starts."""
    tiny = pipelines.wan(pipeline=WanVideoToVideoPipeline)
    latents = torch.randn(1, 16, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    arguments = {name: value for name, value in tiny.arguments(1).items() if name != "num_frames"}
    call = partial(tiny.pipe, **arguments, latents=latents, strength=0.7, output_type="latent")
    with attach(tiny.pipe, pipelines.exact("wan")["sencache"]) as trace:
        cached = call(num_inference_steps=STEPS).frames
    assert torch.equal(cached, call(num_inference_steps=STEPS).frames)
    scheduler = tiny.pipe.scheduler
    assert [record.step for record in trace] == list(range(8))
    assert [record.timestep for record in trace] == scheduler.timesteps.tolist()[-8:]
    assert [record.sigma for record in trace] == scheduler.sigmas.tolist()[STEPS - 8 : STEPS]
