"""Pipelines off the beaten track: two experts, repeated timesteps, conditions, batches, offloading."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import accelerate
import numpy as np
import pipelines
import pytest
import torch
from diffusers import (
    CogVideoXDPMScheduler,
    FlowMatchHeunDiscreteScheduler,
    WanPipeline,
    WanVideoToVideoPipeline,
)
from diffusers.hooks import apply_group_offloading
from pipelines import STEPS, Tiny

from sencache.engine.attach import attach
from sencache.engine.trace import Record, Trace
from sencache.errors import SencacheError
from sencache.lanes import Finished, lane, shallow_pipeline
from sencache.policies import Control, EasyCache, Fixed, Full, Policy, SenCache

METHODS = ("fixed", "sencache", "magcache", "teacache", "easycache", "control")
TARGETS = ("residual", "output", "delta")
CPU = torch.device("cpu")


def under(tiny: Tiny, policy: Policy, **changes: Any) -> tuple[torch.Tensor, Trace]:
    with attach(tiny.pipe, policy) as trace:
        return tiny(**changes), trace


def pattern(trace: Trace) -> str:
    return "".join("C" if record.decision == "compute" else "R" for record in trace)


def own_rms(difference: torch.Tensor) -> torch.Tensor:
    """Per sample, in double precision."""
    return difference.double().flatten(1).pow(2).mean(dim=1).sqrt()


# --- Wan 2.2: two transformers --------------------------------------------------------------------


@pytest.mark.parametrize("forecast", ["hold", "linear"])
@pytest.mark.parametrize("target", TARGETS)
def test_two_experts_at_tolerance_zero(target: Any, forecast: Any) -> None:
    tiny = pipelines.wan(two=True)
    policy = replace(pipelines.exact("wan")["sencache"], target=target, forecast=forecast)
    latents, trace = under(tiny, policy)
    assert torch.equal(latents, tiny())
    assert trace.transformer_calls == 2 * STEPS


@pytest.mark.parametrize("method", METHODS)
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
    for policy, needed in ((EasyCache(threshold=1e9, forced_first=0), 2), (Control(tolerance=1e9), 3)):
        _, trace = under(tiny, policy)
        handover = next(record.step for record in trace if record.timestep < 875)
        assert pattern(trace)[handover : handover + needed + 1] == "C" * needed + "R"


# --- Schedulers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fixed", "sencache", "magcache", "teacache", "easycache"])
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


@pytest.mark.parametrize("method", METHODS)
def test_a_stochastic_scheduler(method: str) -> None:
    """CogVideoX's DPM draws noise at every step."""
    tiny = pipelines.cogvideox(CogVideoXDPMScheduler())
    latents, trace = under(tiny, pipelines.exact("cogvideox")[method])
    assert torch.equal(latents, tiny())
    assert trace.nfe == STEPS
    first, trace = under(tiny, pipelines.lively("cogvideox")[method])
    assert trace.nfe < STEPS
    assert torch.equal(first, under(tiny, pipelines.lively("cogvideox")[method])[0])


@pytest.mark.parametrize("method", METHODS)
def test_a_timestep_for_every_token(method: str) -> None:
    """Wan 2.2 5B: the network gets one timestep per token."""
    tiny = pipelines.wan(pipeline=partial(WanPipeline, expand_timesteps=True))
    latents, _ = under(tiny, pipelines.exact("wan")[method])
    assert torch.equal(latents, tiny())
    _, trace = under(tiny, pipelines.lively("wan")[method])
    assert 1 < trace.nfe < STEPS and trace.transformer_calls == 2 * trace.nfe


# --- What the distance is measured on -------------------------------------------------------------


def distances(tiny: Tiny, policy: Policy, **changes: Any) -> tuple[list[Record], list[torch.Tensor]]:
    """The records, and what the network was given at every step, by a hook of our own on its input."""
    seen: dict[int, torch.Tensor] = {}

    def look(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        step = tiny.pipe.scheduler.timesteps.tolist().index(float(tiny.pipe.current_timestep))
        seen.setdefault(step, kwargs["hidden_states"].clone())

    handle = tiny.pipe.transformer.register_forward_pre_hook(look, with_kwargs=True)
    _, trace = under(tiny, policy, **changes)
    handle.remove()
    return trace.records, [seen[step] for step in sorted(seen)]


def check_distances(records: list[Record], latents: list[torch.Tensor]) -> None:
    checked = 0
    for record in records:
        if "dx_rms" in record.signals:
            moved = latents[record.step] - latents[record.reference_step or 0]
            assert record.signals["dx_rms"] == pytest.approx(own_rms(moved).max().item(), rel=1e-4)
            assert record.signals["dt"] == pytest.approx(
                records[record.reference_step or 0].timestep - record.timestep
            )
            checked += 1
    assert checked > STEPS / 2


@pytest.mark.parametrize("changes", [{}, {"batch": 2}, {"guidance_scale": 1.0}], ids=str)
def test_the_distance_is_that_of_the_latents(tiny: Tiny, changes: dict[str, Any]) -> None:
    """Per element of one sample, of the sample that moved most: both from the last computed step."""
    policy = replace(pipelines.lively(tiny.name)["sencache"], max_reuses=9)
    records, latents = distances(tiny, policy, **changes)
    assert {record.decision for record in records} == {"compute", "reuse"}
    check_distances(records, latents)


def in_one_buffer() -> Any:
    """A callback that keeps every latent in the same memory, and nudges it."""
    buffer: list[torch.Tensor] = []

    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if not buffer:
            buffer.append(tensors["latents"].clone())
        buffer[0].copy_(tensors["latents"]).mul_(1.01)
        return {"latents": buffer[0]}

    return callback


def test_a_callback_may_write_over_the_latents(tiny: Tiny) -> None:
    """The distance is to the latent as it was at the last computed step, not to what became of its memory."""
    policy = replace(pipelines.lively(tiny.name)["sencache"], max_reuses=9)
    check_distances(*distances(tiny, policy, callback_on_step_end=in_one_buffer()))
    for target in TARGETS:
        exact = replace(pipelines.exact(tiny.name)["sencache"], target=target)
        latents, _ = under(tiny, exact, callback_on_step_end=in_one_buffer())
        assert torch.equal(latents, tiny(callback_on_step_end=in_one_buffer()))


@pytest.mark.parametrize("name", pipelines.FROM_IMAGE)
@pytest.mark.parametrize("method", METHODS)
def test_from_an_image_at_tolerance_zero(name: str, method: str) -> None:
    tiny = pipelines.FROM_IMAGE[name]()
    plain = tiny()
    for target in TARGETS if method == "sencache" else ("residual",):
        latents, trace = under(tiny, replace(pipelines.exact(name)[method], target=target))
        assert torch.equal(latents, plain)
        assert trace.nfe == STEPS


@pytest.mark.parametrize("name", ["wan", "cogvideox"])
@pytest.mark.parametrize("method", ["sencache", "easycache"])
def test_the_condition_is_not_part_of_the_latent(name: str, method: str) -> None:
    """Noise on the condition's channels, new at every step: the network sees it, the distance does not."""
    tiny = pipelines.FROM_IMAGE[name]()
    axis, channels = {"wan": (1, 16), "cogvideox": (2, 4)}[name]
    noise = torch.Generator().manual_seed(0)
    inputs: list[torch.Tensor] = []

    def disturb(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        hidden = kwargs["hidden_states"].clone()
        condition = hidden.narrow(axis, channels, hidden.shape[axis] - channels)
        condition += 100 * torch.randn(condition.shape, generator=noise)
        inputs.append(hidden.narrow(axis, 0, channels))
        return args, {**kwargs, "hidden_states": hidden}

    tiny.pipe.transformer.register_forward_pre_hook(disturb, with_kwargs=True)
    _, trace = under(tiny, pipelines.exact(name)[method])
    per_step = inputs[:: tiny.branches]
    for (before, now), record in zip(pairwise(per_step), trace.records[1:], strict=True):
        if method == "sencache":
            assert record.signals["dx_rms"] == pytest.approx(own_rms(now - before).max().item(), rel=1e-4)
        elif record.signals:
            moved = (now - before).abs().mean().item()
            assert record.signals["input_change"] == pytest.approx(moved, rel=1e-4)
    assert any(record.signals for record in trace)


# --- Batches --------------------------------------------------------------------------------------


def sample(tiny: Tiny, which: slice) -> dict[str, Any]:
    """Of two prompts with noise of their own, those in `which`."""
    arguments = tiny.arguments(2)
    shape = {"wan": (2, 16, 3, 2, 2), "cogvideox": (2, 2, 4, 2, 2), "ltx": (2, 8, 8)}[tiny.name]
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    latents[1] *= 3
    both = {"latents": latents, **arguments}
    return {name: value[which] if isinstance(value, torch.Tensor) else value for name, value in both.items()}


FIRST, SECOND, BOTH = slice(0, 1), slice(1, 2), slice(None)


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("method", ["sencache", "easycache", "control"])
def test_a_batch_scores_as_its_worst_sample(tiny: Tiny, method: str, guided: bool) -> None:
    """At tolerance 0 all runs stay together, so that scores can be compared step by step."""
    policy = pipelines.exact(tiny.name)[method]
    changes = {} if guided else {"guidance_scale": 1.0}

    def scores(which: slice) -> list[float]:
        _, trace = under(tiny, policy, **sample(tiny, which), **changes)
        return [record.score for record in trace if record.score is not None]

    first, second, both = scores(FIRST), scores(SECOND), scores(BOTH)
    assert len(both) >= STEPS - 4
    assert both == pytest.approx([max(pair) for pair in zip(first, second, strict=True)], rel=1e-3)
    assert max(abs(a - b) / b for a, b in zip(first, second, strict=True)) > 0.05


def test_one_restless_sample_keeps_a_batch_from_reusing(tiny: Tiny) -> None:
    """One sample alone would reuse, the other not; together they do not, in either order."""
    exact = pipelines.exact(tiny.name)["sencache"]
    scores = {}
    for which in (FIRST, SECOND):
        _, trace = under(tiny, exact, **sample(tiny, which))
        scores[which.start] = trace.records[1].score or 0.0
    between = sum(scores.values()) / 2
    alone = ["reuse" if score < between else "compute" for score in scores.values()]
    assert set(alone) == {"reuse", "compute"}
    policy = replace(exact, tolerance=between, early_tolerance=between)
    backwards = {
        name: value.flip(0) if isinstance(value, torch.Tensor) else value
        for name, value in sample(tiny, BOTH).items()
    }
    decisions = [
        under(tiny, policy, **arguments)[1].records[1].decision
        for arguments in (sample(tiny, FIRST), sample(tiny, SECOND), sample(tiny, BOTH), backwards)
    ]
    assert decisions == [*alone, "compute", "compute"]


# --- Guidance -------------------------------------------------------------------------------------


def switching(step: int, scale: float) -> Any:
    def callback(pipe: Any, index: int, *_: Any) -> dict[str, Any]:
        if index == step:
            pipe._guidance_scale = scale
        return {}

    return callback


@pytest.mark.parametrize("method", METHODS)
def test_guidance_on_off_and_on_again_between_runs(tiny: Tiny, method: str) -> None:
    policy = pipelines.lively(tiny.name)[method]
    fresh = {scale: under(pipelines.ALL[tiny.name](), policy, guidance_scale=scale) for scale in (1.0, 5.0)}
    with attach(tiny.pipe, policy) as trace:
        for scale in (5.0, 1.0, 5.0):
            latents, expected = fresh[scale]
            assert torch.equal(tiny(guidance_scale=scale), latents)
            assert trace.records == expected.records
            assert trace.transformer_calls == expected.transformer_calls


@pytest.mark.parametrize(("start", "end"), [(5.0, 1.0), (1.0, 5.0), (5.0, 2.0)])
@pytest.mark.parametrize("method", METHODS)
def test_wan_with_guidance_changed_in_mid_run(method: str, start: float, end: float) -> None:
    tiny = pipelines.wan()
    changes = {"guidance_scale": start, "callback_on_step_end": switching(4, end)}
    latents, trace = under(tiny, pipelines.exact("wan")[method], **changes)
    assert torch.equal(latents, tiny(**changes))
    assert trace.transformer_calls == sum(2 if (start if i < 5 else end) > 1 else 1 for i in range(STEPS))
    _, trace = under(tiny, pipelines.lively("wan")[method], **changes)
    assert trace.transformer_calls == sum(
        2 if (start if record.step < 5 else end) > 1 else 1
        for record in trace
        if record.decision == "compute"
    )
    if start == 1:
        # Nothing is cached of the branch that begins here.
        assert (trace.records[5].decision, trace.records[5].reason) == ("compute", "no_cache")


@pytest.mark.parametrize(
    "method",
    [
        *("fixed", "magcache", "teacache", "control"),
        "sencache",
        "easycache",
    ],
)
def test_cogvideox_with_guidance_set_to_1_in_mid_run(method: str) -> None:
    tiny = pipelines.cogvideox()
    changes = {"callback_on_step_end": switching(4, 1.0)}
    latents, trace = under(tiny, pipelines.exact("cogvideox")[method], **changes)
    assert torch.equal(latents, tiny(**changes))
    assert trace.nfe == STEPS


@pytest.mark.parametrize("method", ["sencache", "control"])
def test_cogvideox_with_dynamic_guidance(method: str) -> None:
    """An option of the pipeline itself; its cosine passes through a scale of exactly 1."""
    tiny = pipelines.cogvideox()
    scales: list[float] = []

    def callback(pipe: Any, *_: Any) -> dict[str, Any]:
        scales.append(pipe.guidance_scale)
        return {}

    changes = {"steps": 20, "use_dynamic_cfg": True}
    latents, _ = under(tiny, pipelines.exact("cogvideox")[method], callback_on_step_end=callback, **changes)
    assert 1.0 in scales[:-1] and max(scales) > 1
    assert torch.equal(latents, tiny(**changes))


def test_cogvideox_with_guidance_raised_in_mid_run() -> None:
    """A batch of two that was never doubled: both its halves count."""
    tiny = pipelines.cogvideox()
    changes = {"batch": 2, "guidance_scale": 1.0, "callback_on_step_end": switching(4, 6.0)}
    check_distances(*distances(tiny, pipelines.exact("cogvideox")["sencache"], **changes))


# --- Pipelines that name no branches ---------------------------------------------------------------


@pytest.mark.parametrize("guidance", [5.0, 1.0])
@pytest.mark.parametrize("method", METHODS)
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


def test_without_names_on_every_architecture(tiny: Tiny) -> None:
    policy = pipelines.lively(tiny.name)["sencache"]
    named, expected = under(tiny, policy)
    with attach(tiny.pipe, policy) as trace:
        tiny.pipe.transformer.__dict__["cache_context"] = lambda *_, **__: contextlib.nullcontext()
        unnamed = tiny()
    assert torch.equal(named, unnamed)
    assert trace.records == expected.records


# --- Refusals and offloading ----------------------------------------------------------------------


class Unheard(torch.nn.Linear):
    """A transformer of which no one has told the engine."""


def test_an_unknown_transformer_is_refused_with_the_known_ones() -> None:
    pipe = SimpleNamespace(transformer=Unheard(2, 2), scheduler=None)
    with pytest.raises(SencacheError) as refused, attach(pipe, Full()):
        pass
    for name in (
        "Unheard",
        "WanTransformer3DModel",
        "CogVideoXTransformer3DModel",
        "LTXVideoTransformer3DModel",
    ):
        assert name in str(refused.value)


def test_a_subclass_of_a_known_transformer_is_known(tiny: Tiny) -> None:
    transformer = tiny.pipe.transformer
    plain = tiny()
    transformer.__class__ = type("Derived", (type(transformer),), {})
    latents, trace = under(tiny, pipelines.exact(tiny.name)["sencache"])
    assert torch.equal(latents, plain) and trace.nfe == STEPS


def test_a_signal_that_the_architecture_has_not() -> None:
    profile = pipelines.profile("wan")
    fit = profile.teacache_fit().model_copy(update={"signal": "modulated_input"})
    policy = replace(
        pipelines.lively("wan")["teacache"], profile=profile.model_copy(update={"teacache": fit})
    )
    with (
        pytest.raises(SencacheError, match=r"no signal 'modulated_input'.*time_projection"),
        attach(pipelines.wan().pipe, policy),
    ):
        pass


def offload_blocks(transformer: torch.nn.Module) -> None:
    apply_group_offloading(
        transformer,
        onload_device=CPU,
        offload_device=CPU,
        offload_type="block_level",
        num_blocks_per_group=1,
    )


def offload_leaves(transformer: torch.nn.Module) -> None:
    apply_group_offloading(transformer, onload_device=CPU, offload_device=CPU, offload_type="leaf_level")


def offload_by_accelerate(transformer: torch.nn.Module) -> None:
    accelerate.cpu_offload(transformer, execution_device="cpu")


@pytest.mark.parametrize("offload", [offload_blocks, offload_leaves, offload_by_accelerate])
def test_an_offloaded_model_takes_an_attachment_in_place(tiny: Tiny, offload: Any) -> None:
    """Twice under one attachment, and plain afterwards: no hook of theirs or ours gets lost."""
    if tiny.name == "cogvideox" and offload is offload_by_accelerate:
        pytest.skip("accelerate cannot offload this transformer, with or without a cache")
    policy = pipelines.lively(tiny.name)["sencache"]
    plain, (latents, expected) = tiny(), under(tiny, policy)
    offload(tiny.pipe.transformer)
    with attach(tiny.pipe, policy) as trace:
        for _ in range(2):
            assert torch.equal(tiny(), latents)
            assert trace.records == expected.records
            assert trace.transformer_calls == expected.transformer_calls
    assert torch.equal(tiny(), plain)


@pytest.mark.parametrize("offload", [offload_blocks, offload_leaves, offload_by_accelerate])
def test_an_offloaded_model_takes_lanes_or_refuses_them(tiny: Tiny, offload: Any) -> None:
    """Group offloading serves the copy as well; accelerate's `forward` would run the original's."""
    policy = pipelines.lively(tiny.name)["sencache"]
    latents, _ = under(tiny, policy)
    offload(tiny.pipe.transformer)

    def generate(pipe: Any, callback: Any) -> np.ndarray[Any, Any]:
        return replace(tiny, pipe=pipe)(callback_on_step_end=callback).numpy()

    if offload is offload_by_accelerate and "forward" in tiny.pipe.transformer.__dict__:
        with pytest.raises(SencacheError, match=r"offloading hook.*use group offloading, or attach"):
            shallow_pipeline(tiny.pipe)
        with pytest.raises(SencacheError, match="offloading hook"):
            list(lane(tiny.pipe, policy, generate, CPU))
    elif offload is not offload_by_accelerate:
        *_, done = lane(tiny.pipe, policy, generate, CPU)
        assert isinstance(done, Finished) and np.array_equal(done.frames, latents.numpy())


def test_a_profile_that_lacks_what_the_method_needs(tiny: Tiny) -> None:
    bare = pipelines.profile(tiny.name).model_copy(update={"sensitivity": None})
    with pytest.raises(SencacheError, match="holds no sensitivities"):
        under(tiny, SenCache(bare))


def test_a_list_of_steps_made_for_a_longer_run(tiny: Tiny) -> None:
    with pytest.raises(SencacheError, match="step 12"):
        under(tiny, Fixed(steps=(0, 12)))
