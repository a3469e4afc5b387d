"""Replay and the guided prediction on diffusers' own pipelines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pipelines
import pytest
import torch
from diffusers import (
    CogVideoXDPMScheduler,
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    LatteTransformer3DModel,
)
from measuring import Sampled, under
from pipelines import Tiny

from sencache.engine.attach import attach
from sencache.errors import SencacheError
from sencache.policies import Fixed, Policy
from sencache.policies.easycache import EasyCache

REPLAYED = Fixed(steps=(0, 1, 4, 5, 8, 11), forced_first=1, target="prediction", repair="replay")
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "unguided": {"guidance_scale": 1.0},
    "two-prompts": {"batch": 2},
}


def last_latent(tiny: Tiny, policy: Policy, **changes: Any) -> tuple[torch.Tensor, Any]:
    """As the sampler left it; pipelines pack and cut what they return."""
    seen: list[torch.Tensor] = []

    def see(_: Any, index: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(tensors["latents"])
        return {}

    _, trace = under(tiny, policy, callback_on_step_end=see, **changes)
    return seen[-1], trace


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_replayed_run_is_that_of_a_fresh_sampler_with_its_predictions(tiny: Tiny, variant: str) -> None:
    sampled = Sampled(tiny)
    latent, trace = last_latent(tiny, REPLAYED, **VARIANTS[variant])
    assert torch.equal(latent, sampled.afresh())
    assert [record.step for record in trace if record.correction] == [4, 8, 11]
    # Each reused step was taken twice, each computed one once.
    assert len(sampled.calls) == pipelines.STEPS + 6


@pytest.mark.parametrize("make", pipelines.FROM_IMAGE.values(), ids=pipelines.FROM_IMAGE)
def test_a_still_conditions_a_replayed_run_as_it_does_any(make: Any) -> None:
    tiny = make()
    sampled = Sampled(tiny)
    latent, trace = last_latent(tiny, REPLAYED)
    assert [record.step for record in trace if record.correction] == [4, 8, 11]
    fresh = sampled.afresh()
    if fresh.shape == latent.shape:
        assert torch.equal(latent, fresh)


def test_experts_are_not_interpolated_between() -> None:
    tiny = pipelines.wan(two=True)
    _, trace = under(tiny, REPLAYED)
    takeover = next(record.step for record in trace if record.reason == "no_cache")
    gaps = {record.step for record in trace if record.correction is not None}
    assert gaps
    assert takeover not in gaps


@pytest.mark.parametrize("method", pipelines.METHODS)
def test_with_nothing_reused_replay_changes_no_bit(tiny: Tiny, method: str) -> None:
    policy = replace(pipelines.exact(tiny.name)[method], target="prediction", repair="replay")
    latents, trace = under(tiny, policy)
    assert trace.nfe == pipelines.STEPS
    assert torch.equal(latents, tiny())


@pytest.mark.parametrize("target", ["residual", "output", "delta", "tail", "prediction"])
def test_every_target_is_replayed(tiny: Tiny, target: str) -> None:
    held, _ = under(tiny, replace(REPLAYED, target=target, repair="none"))
    replayed, trace = under(tiny, replace(REPLAYED, target=target))
    assert trace.nfe == len(REPLAYED.steps)
    assert not torch.equal(held, replayed)


def test_a_reused_prediction_costs_no_forward_and_a_latent_of_memory(tiny: Tiny) -> None:
    forwards: list[int] = []
    for block in tiny.blocks[:1]:
        block.register_forward_hook(lambda *_: forwards.append(1))
    embedded: list[int] = []
    first = next(module for module in tiny.pipe.transformer.modules() if isinstance(module, torch.nn.Linear))
    first.register_forward_hook(lambda *_: embedded.append(1))
    latent, trace = last_latent(tiny, replace(REPLAYED, repair="none"))
    assert len(forwards) == trace.nfe * tiny.branches
    assert len(embedded) % trace.nfe == 0
    assert trace.cache_bytes == latent.nbytes


def test_one_computed_step_more_repairs_the_last_gap() -> None:
    tiny = pipelines.wan()
    _, plain = under(tiny, Fixed(interval=5))
    _, replayed = under(tiny, Fixed(interval=5, repair="replay"))
    assert replayed.records[-1].reason == "last_step"
    assert replayed.nfe == plain.nfe + 1


def test_the_pipeline_gets_its_sampler_back_after_a_failure() -> None:
    tiny = pipelines.wan()

    def fail(_: Any, index: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if index == 6:
            raise RuntimeError("cancelled")
        return {}

    with pytest.raises(RuntimeError, match="cancelled"):
        under(tiny, REPLAYED, callback_on_step_end=fail)
    assert not {"step", "set_timesteps"} & vars(tiny.pipe.scheduler).keys()
    assert "forward" not in vars(tiny.pipe.transformer)
    again, _ = under(tiny, REPLAYED)
    assert torch.equal(again, under(pipelines.wan(), REPLAYED)[0])


def test_a_sampler_that_draws_noise_from_the_pipelines_generator_is_replayed() -> None:
    tiny = pipelines.cogvideox(CogVideoXDPMScheduler(prediction_type="v_prediction"))
    full = tiny()
    held, _ = under(tiny, replace(REPLAYED, repair="none"))
    replayed, _ = under(tiny, REPLAYED)
    assert torch.equal(replayed, under(tiny, REPLAYED)[0])
    assert (replayed - full).norm() < (held - full).norm()


def test_a_sampler_that_draws_noise_from_elsewhere_is_refused_by_name() -> None:
    tiny = pipelines.ltx(FlowMatchEulerDiscreteScheduler(stochastic_sampling=True))
    with pytest.raises(SencacheError, match="FlowMatchEulerDiscreteScheduler draws noise in its steps"):
        under(tiny, REPLAYED)


class Undescribed(DiffusionPipeline):
    """A loop around a transformer of which nobody has said what is inside."""

    def __init__(self, transformer: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, steps: int = 12) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        latent = torch.randn(1, 4, 2, 8, 8, generator=generator)
        text = torch.randn(1, 5, 24, generator=generator)
        self.scheduler.set_timesteps(steps)
        for t in self.scheduler.timesteps:
            out = self.transformer(latent, t.expand(1), encoder_hidden_states=text, return_dict=False)[0]
            latent = self.scheduler.step(out[:, :4], t, latent, return_dict=False)[0]
        return latent


def undescribed() -> Any:
    torch.manual_seed(0)
    transformer = LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        norm_type="ada_norm_single",
        caption_channels=24,
        cross_attention_dim=16,
        video_length=2,
    ).eval()
    return Undescribed(transformer, DDIMScheduler())


@pytest.mark.parametrize("policy", [REPLAYED, EasyCache(threshold=2.0, forced_first=3, target="prediction")])
def test_a_transformer_without_a_row_is_served_from_outside(policy: Policy) -> None:
    pipe = undescribed()
    full, forwards = pipe(), []
    pipe.transformer.register_forward_hook(lambda *_: forwards.append(1))
    inner: list[int] = []
    pipe.transformer.pos_embed.register_forward_hook(lambda *_: inner.append(1))
    with attach(pipe, policy) as trace:
        latent = pipe()
    assert len(inner) == trace.nfe < len(forwards) == len(trace)
    assert 0 < float((latent - full).abs().max()) < 2
    assert torch.equal(pipe(), full)


def test_a_transformer_without_a_row_cannot_be_looked_into() -> None:
    refused = pytest.raises(SencacheError, match=r"LatteTransformer3DModel; set target=prediction")
    with refused, attach(undescribed(), Fixed(interval=2)):
        pass
