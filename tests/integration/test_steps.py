"""Steps are told by what the pipeline does: its windows, skips, guiders and schedulers."""

from __future__ import annotations

import copy
from functools import partial
from types import SimpleNamespace
from typing import Any

import pipelines
import pytest
import torch
from diffusers import (
    ClassifierFreeGuidance,
    LTXI2VLongMultiPromptPipeline,
    WanModularPipeline,
)
from diffusers.modular_pipelines.modular_pipeline import SequentialPipelineBlocks
from diffusers.modular_pipelines.wan import before_denoise, denoise
from measuring import pattern
from pipelines import STEPS, Tiny

from sencache.engine.attach import attach
from sencache.engine.scheduler import SchedulerWatch
from sencache.errors import SencacheError
from sencache.policies import Fixed, Full, Policy

# ---- timesteps


def got(tiny: Tiny) -> list[float]:
    """The timesteps that the transformer is given from now on: of the tokens that are not an image's."""
    seen: list[float] = []
    tiny.pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["timestep"].max().item()), with_kwargs=True
    )
    return seen


def ltx_long(policy: Policy, **changes: Any) -> tuple[torch.Tensor, torch.Tensor, Any, list[float]]:
    """A long video plain and under `policy`, the trace, and the timesteps of the transformer."""
    tiny = pipelines.ltx(pipeline=LTXI2VLongMultiPromptPipeline)
    embeds = {name: value for name, value in tiny.arguments(1).items() if "prompt" in name}
    names = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds")
    tiny.pipe.encode_prompt = lambda **_: [
        *(embeds[name] for name in names),
        embeds["negative_prompt_attention_mask"],
    ]

    def call() -> torch.Tensor:
        sizes = {"height": 64, "width": 64, "num_inference_steps": 10, "seed": 1, "guidance_scale": 3.0}
        frames: torch.Tensor = tiny.pipe(prompt="a | b", **{**sizes, **changes}).frames
        return frames

    plain, seen = call(), got(tiny)
    with attach(tiny.pipe, policy) as trace:
        cached = call()
    return plain, cached, trace, seen


@pytest.mark.parametrize("threshold", [1, 0.7])
def test_steps_that_a_pipeline_skips_by_sigma_are_not_on_record(threshold: float) -> None:
    """Records start where the transformer does, and hold its own timesteps."""
    plain, cached, trace, seen = ltx_long(Full(), num_frames=17, skip_steps_sigma_threshold=threshold)
    assert torch.equal(cached, plain)
    assert [record.timestep for record in trace] == pytest.approx(seen)
    assert [record.sigma for record in trace] == pytest.approx([t / 1000 for t in seen])
    assert [record.step for record in trace] == list(range(len(seen)))
    assert (seen[0] < 700) == (threshold < 1)


def test_the_trace_shows_every_window_of_a_long_video() -> None:
    windows = {"num_frames": 65, "temporal_tile_size": 40, "temporal_overlap": 16}
    plain, cached, trace, seen = ltx_long(Full(), **windows)
    assert torch.equal(cached, plain)
    assert [record.timestep for record in trace] == pytest.approx(seen)
    assert [record.step for record in trace].count(0) > 1
    *_, trace, _ = ltx_long(Fixed(interval=3), **windows)
    first = [record.reason for record in trace if record.step == 0]
    assert first == ["first_step"] * len(first) and len(first) > 1
    assert trace.cache_bytes > 0


def test_the_next_call_is_no_window(tiny: Tiny) -> None:
    """Also where the call before it was broken off with a timestep under way."""
    with attach(tiny.pipe, Full()) as trace:
        tiny()
        tiny.pipe._current_timestep = torch.tensor(1.0)
        tiny()
    assert len(trace) == STEPS


def rising() -> torch.Tensor:
    return torch.linspace(0, 1000, 11)[:-1]


@pytest.mark.parametrize(
    ("first", "dtype"), [(0, torch.float32), (3, torch.bfloat16), (0, torch.int64), (3, torch.int64)]
)
@pytest.mark.parametrize(
    "form",
    [
        lambda t: t.expand(2),
        lambda t: t.expand(1, 5) * torch.tensor([0, 0, 1, 1, 1]),
        lambda t: t.clone(),
    ],
    ids=["doubled", "tokens", "scalar"],
)
@pytest.mark.parametrize("schedule", [rising(), rising().flip(0)], ids=["rising", "falling"])
def test_a_run_begins_at_the_timestep_that_the_transformer_got(
    schedule: torch.Tensor, form: Any, first: int, dtype: torch.dtype
) -> None:
    """Whatever became of it on the way: several samples, tokens of an image at 0, another precision."""
    watch = SchedulerWatch()
    watch.pipe = SimpleNamespace(scheduler=SimpleNamespace(timesteps=schedule))
    found, left_out = watch.begin(form(schedule[first]).to(dtype))
    assert left_out == first and list(found.timesteps) == schedule[first:].tolist()
    assert [watch.place(t.expand(3)) for t in schedule] == list(range(10))
    assert watch.place(schedule[4].clone(), None, schedule, schedule[5:][2]) == 7


def replacing_step(after: int, step: Any) -> Any:
    """A callback that puts `step` in the place of the scheduler's own once `after` steps are done."""

    def callback(pipe: Any, index: int, *_: Any) -> dict[str, Any]:
        if index == after - 1:
            pipe.scheduler.step = partial(step, pipe.scheduler.step, pipe.scheduler.timesteps)
        return {}

    return callback


def test_a_scheduler_that_takes_another_step_than_the_transformer_is_refused(tiny: Tiny) -> None:
    def late(
        step: Any, timesteps: torch.Tensor, noise: torch.Tensor, t: Any, *args: Any, **kwargs: Any
    ) -> Any:
        return step(noise, timesteps[6], *args, **kwargs)

    refused = pytest.raises(SencacheError, match="took step 6 where the transformer was called for step 5")
    with attach(tiny.pipe, Full()), refused:
        tiny(callback_on_step_end=replacing_step(5, late))


# ---- branches


def wan_modular(stop: float, start: float = 0.0) -> tuple[Tiny, Any]:
    """Wan by blocks, whose guider starts and stops within a run and names no call; a call of it."""
    tiny = pipelines.wan()
    blocks = SequentialPipelineBlocks.from_blocks_dict(
        {
            "input": before_denoise.WanTextInputStep(),
            "timesteps": before_denoise.WanSetTimestepsStep(),
            "latents": before_denoise.WanPrepareLatentsStep(),
            "denoise": denoise.WanDenoiseStep(),
        }
    )
    pipe = WanModularPipeline(blocks=blocks)
    guider = ClassifierFreeGuidance(guidance_scale=5.0, start=start, stop=stop)
    pipe.update_components(transformer=tiny.pipe.transformer, scheduler=tiny.pipe.scheduler, guider=guider)
    pipe.set_progress_bar_config(disable=True)

    def call() -> torch.Tensor:
        made: torch.Tensor = pipe(
            **tiny.arguments(1),
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(0),
            output="latents",
        )
        return made

    tiny.pipe = pipe
    return tiny, call


@pytest.mark.parametrize(("start", "stop"), [(0, 1.0), (0, 0.5), (0.5, 1.0)])
def test_a_guider_that_starts_and_stops(start: float, stop: float) -> None:
    """Every call belongs to its own step and branch; a branch that begins is computed until it is cached."""
    tiny, call = wan_modular(stop, start)
    plain, seen = call(), got(tiny)
    calls = [2 if start * STEPS <= i < stop * STEPS else 1 for i in range(STEPS)]
    for policy in (Full(), pipelines.exact("wan")["easycache"]):
        seen.clear()
        with attach(tiny.pipe, policy) as trace:
            assert torch.equal(call(), plain)
        assert [record.step for record in trace] == list(range(STEPS))
        assert trace.transformer_calls == sum(calls) == len(seen)
        steps = [t for t, count in zip(trace, calls, strict=True) for _ in range(count)]
        assert [record.timestep for record in steps] == pytest.approx(seen)
    with attach(tiny.pipe, Fixed(interval=4)) as trace:
        call()
    assert pattern(trace) == "CRRR" * 3
    # Where guidance begins within three reused steps, its own branch is computed in the first of them only.
    assert trace.transformer_calls == sum(calls[::4]) + (start > 0)


def test_a_branch_reuses_its_own_value() -> None:
    """With the last step of both branches cached, the steps of one branch reuse that branch."""
    tiny, call = wan_modular(0.5)
    outputs: list[torch.Tensor] = []
    with attach(tiny.pipe, Fixed(steps=(0, 4, 5), target="output")):
        # After the attachment's own.
        tiny.pipe.transformer.register_forward_hook(lambda *seen: outputs.append(seen[-1][0].clone()))
        call()
    # Twelve calls of six guided steps; the last of them was computed.
    cond, uncond, *after = outputs[10:]
    assert not torch.equal(cond, uncond)
    assert all(torch.equal(reused, cond) for reused in after) and len(after) == STEPS // 2


def test_steps_that_the_scheduler_does_not_end_are_refused(tiny: Tiny) -> None:
    """As of a pipeline that steps schedulers of its own."""

    def foreign(_: Any, __: torch.Tensor, noise: Any, t: Any, latents: Any, **kwargs: Any) -> Any:
        return (latents,)

    refused = pytest.raises(SencacheError, match="called 3 times in step 4 before the pipeline's scheduler")
    with attach(tiny.pipe, Full()), refused:
        tiny(callback_on_step_end=replacing_step(4, foreign))


# ---- what happens to a pipeline inside the block


def test_a_copy_made_inside_the_block_is_plain(tiny: Tiny) -> None:
    """Then and afterwards; it takes an attachment of its own, and steps its own scheduler."""
    plain, original = tiny(), tiny.pipe
    with attach(original, Fixed(interval=3)) as trace:
        cached = tiny()
        copied = copy.deepcopy(original)
        records = trace.records
        tiny.pipe = copied
        assert torch.equal(tiny(), plain)
        with attach(copied, Fixed(interval=3)):
            assert torch.equal(tiny(), cached)
        assert trace.records is records
        tiny.pipe = original
        assert torch.equal(tiny(), cached)
    for pipe in (original, copied):
        tiny.pipe = pipe
        assert torch.equal(tiny(), plain)
        assert not {"step", "set_timesteps"} & set(original.scheduler.__dict__)


def test_a_block_list_replaced_inside_the_block_runs(tiny: Tiny) -> None:
    transformer, name = tiny.pipe.transformer, pipelines.BLOCKS[tiny.name]
    first = torch.nn.ModuleList(list(tiny.blocks)[:2])
    with attach(tiny.pipe, Full()):
        whole = tiny()
        setattr(transformer, name, first)
        short = tiny()
        again = torch.nn.ModuleList(first)
        setattr(transformer, name, again)
    assert getattr(transformer, name) is again
    assert torch.equal(tiny(), short) and not torch.equal(short, whole)


def test_a_cache_of_diffusers_enabled_inside_the_block_is_refused(tiny: Tiny) -> None:
    from diffusers import FirstBlockCacheConfig

    transformer = tiny.pipe.transformer
    with attach(tiny.pipe, Full()):
        expected = tiny()
        transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
        with pytest.raises(SencacheError, match="disable_cache"):
            tiny()
        transformer.disable_cache()
        assert torch.equal(tiny(), expected)


def test_a_transformer_inside_a_compiled_one_is_refused_with_the_remedy(tiny: Tiny) -> None:
    tiny.pipe.transformer = torch.compile(tiny.pipe.transformer)
    with (
        pytest.raises(SencacheError, match=r"pipe\.transformer\.compile_repeated_blocks"),
        attach(tiny.pipe, Full()),
    ):
        pass


@pytest.mark.parametrize("policy", ["sencache", Fixed, None])
def test_what_is_no_policy_is_refused(policy: Any) -> None:
    refused = pytest.raises(SencacheError, match="is not a policy; pass an object")
    with refused, attach(pipelines.wan().pipe, policy):
        pytest.fail("the block was entered")
