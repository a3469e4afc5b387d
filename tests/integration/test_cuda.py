"""On a GPU: clocks, precision, waits, memory, and that lanes are bit for bit what separate calls are.

Small random models; how fast real ones are is the business of tests/benchmarks/gpu.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
from diffusers.hooks import apply_group_offloading
from pipelines import STEPS, Tiny, on_gpu

import sencache
from sencache.calibration.profiling import CalibrationPlan, calibrate
from sencache.comparison.compare import Compared, LaneDone, compare
from sencache.comparison.devices import Clock
from sencache.comparison.lanes import Finished, Stepped, lane
from sencache.comparison.metrics import compare_frames
from sencache.comparison.plan import parse_lanes
from sencache.comparison.stepping import round_robin
from sencache.comparison.verify import profiles_at_hand, verify
from sencache.engine.attach import attach
from sencache.models.loading import bring_blocks_one_by_one
from sencache.policies import Fixed, Full, Policy, SenCache
from sencache.profiles.profile import Profile
from sencache.schema import Request
from sencache.video import write_mp4

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")

GPU = torch.device("cuda:0")
HALVES = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    """Kernels that add in any order they like would make two equal runs differ."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)


def under(tiny: Tiny, policy: Policy, **changes: Any) -> tuple[torch.Tensor, Any]:
    with attach(tiny.pipe, policy) as trace:
        return tiny(**changes), trace


def lanes_of(tiny: Tiny, chosen: list[Policy]) -> list[Any]:
    def generate(pipe: Any, callback: Any) -> np.ndarray[Any, Any]:
        return replace(tiny, pipe=pipe)(callback_on_step_end=callback).float().cpu().numpy()

    return [lane(tiny.pipe, policy, generate, GPU) for policy in chosen]


# --- Bit for bit ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_nothing_reused_is_the_plain_pipeline(tiny: Tiny, dtype: torch.dtype) -> None:
    tiny = on_gpu(tiny, dtype)
    plain = tiny()
    assert plain.is_cuda and torch.isfinite(plain.float()).all()
    for policy in (Full(), *pipelines.exact(tiny.name).values()):
        assert torch.equal(under(tiny, policy)[0], plain)


@pytest.mark.parametrize("dtype", HALVES)
def test_interleaved_lanes_are_what_separate_calls_are(tiny: Tiny, dtype: torch.dtype) -> None:
    tiny = on_gpu(tiny, dtype)
    chosen = [Full(), *pipelines.lively(tiny.name).values()]
    done = {i: item for i, item in round_robin(lanes_of(tiny, chosen)) if isinstance(item, Finished)}
    for index, policy in enumerate(chosen):
        latents, trace = under(tiny, policy)
        assert np.array_equal(done[index].frames, latents.float().cpu().numpy()), policy.name
        assert done[index].trace.records == trace.records


@pytest.mark.parametrize("dtype", HALVES)
def test_distances_are_those_of_unrounded_latents(dtype: torch.dtype) -> None:
    tiny, latents = on_gpu(pipelines.wan(), dtype), []

    def keep(*arguments: Any) -> dict[str, Any]:
        latents.append(arguments[3]["latents"].double().clone())
        return {}

    policy = SenCache(pipelines.profile("wan"), tolerance=0.0, early_tolerance=0.0)
    _, trace = under(tiny, policy, callback_on_step_end=keep, steps=100)
    for record in trace.records[2:]:
        apart = (latents[record.step - 1] - latents[record.step - 2]).pow(2).mean().sqrt()
        assert record.signals["dx_rms"] == pytest.approx(float(apart), rel=1e-3, abs=1e-7)


def offload_all(transformer: Any) -> None:
    """diffusers learns the order in the first forward."""
    apply_group_offloading(
        transformer,
        onload_device=GPU,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=True,
    )


def stream_blocks(transformer: Any) -> None:
    """As a placement does."""
    bring_blocks_one_by_one(transformer, GPU, ahead=True)


@pytest.mark.parametrize("offload", [offload_all, stream_blocks])
def test_group_offloading_serves_lanes_bit_for_bit(tiny: Tiny, offload: Callable[[Any], None]) -> None:
    """Prefetching on a stream of its own; a reuse runs no block."""
    tiny = on_gpu(tiny)
    chosen: list[Policy] = [Full(), Fixed(interval=3)]
    expected = [under(tiny, policy)[0].cpu().numpy() for policy in chosen]
    tiny.pipe.transformer.to("cpu")
    offload(tiny.pipe.transformer)
    done = {i: item for i, item in round_robin(lanes_of(tiny, chosen)) if isinstance(item, Finished)}
    for index, latents in enumerate(expected):
        assert np.array_equal(done[index].frames, latents)
    # TeaCache on LTX reads a block's table while the block is offloaded.
    latents, _ = under(tiny, pipelines.lively(tiny.name)["teacache"])
    assert torch.isfinite(latents).all()


# --- Clocks ---------------------------------------------------------------------------------------


def busy(seconds: float) -> None:
    """Work queued on the GPU, not on the host."""
    torch.cuda._sleep(int(seconds * 1e9))


def test_a_clock_counts_work_that_the_host_has_left_behind() -> None:
    """`busy` counts cycles, so its seconds are taken from events first."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    busy(0.05)
    end.record()
    end.synchronize()
    taken = start.elapsed_time(end) / 1000
    clock = Clock(GPU)
    busy(0.05)
    clock.start()
    busy(0.05)
    assert clock.stop() == pytest.approx(taken, rel=0.2), "not the work queued before it"


def test_a_lane_is_not_charged_for_another_ones_work() -> None:
    """A lane that reuses all but its first step, beside one whose every step is long and one that decodes
    long: its steps stay far below theirs.
    """
    tiny = on_gpu(pipelines.wan())
    heavy = tiny.blocks[0].register_forward_hook(lambda *_: busy(0.02))
    lanes = lanes_of(tiny, [Full(), Fixed(steps=(0,))])
    reused, computed = [], []
    for _, item in round_robin(lanes):
        if isinstance(item, Stepped):
            busy(0.05)
            (reused if item.record.decision == "reuse" else computed).append(item.record.seconds)
    heavy.remove()
    assert len(reused) == STEPS - 1
    assert sorted(reused)[len(reused) // 2] < min(computed) / 2


def test_every_device_has_its_own_clock() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU only")
    clock = Clock(torch.device("cuda:1"))
    other = Clock(GPU)
    clock.start()
    other.start()
    busy(0.2)
    assert clock.stop() < other.stop() / 2, "the work was on cuda:0"


# --- Waits ----------------------------------------------------------------------------------------


def waits(call: Callable[[], Any]) -> int:
    """How often the host waits for the GPU during `call`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_wait_per_scored_step(tiny: Tiny, dtype: torch.dtype) -> None:
    tiny = on_gpu(tiny, dtype)
    tiny()
    base = waits(lambda: under(tiny, Full()))
    assert base - waits(tiny) <= 2, "the schedule is brought to the host once a run"
    scored = SenCache(pipelines.profile(tiny.name), tolerance=0.0, early_tolerance=0.0)
    for policy in (scored, *pipelines.lively(tiny.name).values()):
        traces: list[Any] = []
        made = waits(lambda p=policy, t=traces: t.append(under(tiny, p)[1]))
        assert made - base == sum(bool(record.signals and policy.senses) for record in traces[0]), policy


# --- Memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sencache", "control", "easycache"])
def test_memory_is_given_back(tiny: Tiny, method: str) -> None:
    tiny = on_gpu(tiny, torch.bfloat16)
    policy = pipelines.lively(tiny.name)[method]
    with attach(tiny.pipe, policy):
        tiny()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        under(tiny, policy)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


def test_lanes_add_their_caches_and_no_weights() -> None:
    tiny = on_gpu(pipelines.wan())
    weights = sum(p.numel() * p.element_size() for p in tiny.pipe.transformer.parameters())
    tiny()
    peaks = {}
    for count in (1, 4):
        chosen: list[Policy] = [Full(), *(Fixed(interval=2) for _ in range(count - 1))]
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        done = [item for _, item in round_robin(lanes_of(tiny, chosen)) if isinstance(item, Finished)]
        assert torch.cuda.memory_allocated() == before
        peaks[count] = max(item.peak_bytes or 0 for item in done)
    assert peaks[1] >= weights
    assert peaks[4] - peaks[1] < weights


# --- A whole comparison ---------------------------------------------------------------------------

REQUEST = Request(prompt="a red circle", steps=8, height=64, width=64, frames=9, guidance_scale=4.0)


def told(device: list[str], profile: Profile, nfe: int | None = None) -> tuple[dict[str, Any], Any]:
    model, *copies = [sencache.load("tiny-wan", one) for one in device]
    frames, request = {}, REQUEST.model_copy(update={"nfe": nfe})
    for event in compare(model, request, parse_lanes("sencache,teacache,fixed,control"), profile, copies):
        if isinstance(event, LaneDone):
            frames[event.lane.name] = event.frames
        elif isinstance(event, Compared):
            return frames, event.report
    raise AssertionError


def test_a_comparison_says_how_much_memory_its_lanes_took(bundled_profile: Profile) -> None:
    _, report = told(["cuda:0"], bundled_profile)
    assert report.model.dtype == "float32"
    for one in report.lanes:
        assert one.peak_bytes is not None and one.peak_bytes > one.cache_bytes
    assert '"peak_bytes"' in report.to_json()


def test_a_budget_is_met(bundled_profile: Profile) -> None:
    """The full run is recorded on the GPU, and every other lane's knob is set on the record."""
    frames, report = told(["cuda:0"], bundled_profile, nfe=5)
    assert [lane.nfe for lane in report.lanes if lane.method != "none"] == [5] * 5
    assert verify(report, profiles_at_hand([bundled_profile])) == []
    assert all(video.std() > 0 for video in frames.values())


@pytest.mark.parametrize("on_clips", [False, True], ids=["trajectory", "clips"])
def test_a_calibration_is_that_of_a_cpu(on_clips: bool, tmp_path: Path) -> None:
    """But for the order in which a GPU adds."""
    frames = np.random.default_rng(0).random((9, 64, 64, 3), np.float32)
    write_mp4(tmp_path / "clip.mp4", frames, 8)
    clips = [tmp_path / "clip.mp4"] if on_clips else []
    tables = []
    for device in ("cuda:0", "cpu"):
        plan = CalibrationPlan(sencache.load("tiny-wan", device), REQUEST, ["a red circle"], 1, clips=clips)
        profile = calibrate(plan)
        assert profile.sensitivity is not None and profile.magcache is not None
        tables.append([*profile.sensitivity.alpha_x, *profile.sensitivity.alpha_t, *profile.magcache.ratios])
    assert tables[0] == pytest.approx(tables[1], rel=0.01)


def test_two_gpus_make_the_videos_of_one(bundled_profile: Profile) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU only")
    alone, report = told(["cuda:0"], bundled_profile)
    spread, other = told(["cuda:0", "cuda:1"], bundled_profile)
    assert other.model.device == "cuda:0,cuda:1"
    for name, frames in alone.items():
        assert np.array_equal(spread[name], frames), name
    for one, two in zip(report.lanes, other.lanes, strict=True):
        assert [r.drift for r in one.trace] == [r.drift for r in two.trace]


def test_metrics_are_those_of_a_cpu() -> None:
    """But for the order in which a GPU adds; half precision would be off by a hundred times as much."""
    reference = torch.rand(3, 64, 96, 3, generator=torch.Generator().manual_seed(0)).numpy()
    frames = np.clip(reference + 0.01, 0, 1)
    here, there = compare_frames(frames, reference), compare_frames(frames, reference, device=GPU)
    assert there.psnr == here.psnr
    assert there.lpips == pytest.approx(here.lpips, abs=1e-5)
    assert there.ssim == pytest.approx(here.ssim, abs=1e-5)
