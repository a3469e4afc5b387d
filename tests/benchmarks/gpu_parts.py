"""The parts of the GPU benchmark; each fills in some values."""

from __future__ import annotations

import copy
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import pipelines
import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig
from diffusers.hooks.first_block_cache import FBCHeadBlockHook
from diffusers.video_processor import VideoProcessor
from gpu_bench import ENTRIES, Bench, Timing, make_subject, make_vae

from sencache.comparison.compare import Compared, LaneDone, compare
from sencache.comparison.lanes import Finished, Stepped, lane
from sencache.comparison.plan import parse_lanes
from sencache.comparison.stepping import round_robin
from sencache.engine.attach import attach
from sencache.models.loading import bring_blocks_one_by_one
from sencache.policies import Control, EasyCache, Fixed, Full, Policy, SenCache
from sencache.schema import Request
from sencache.video import write_mp4

Values = dict[str, float]


def costs(bench: Bench, values: Values) -> None:
    """Computed and reused steps, overhead, speed-up: plain and attached runs in turn, medians of steps."""
    variants: dict[str, Policy | None] = {
        "plain": None,
        "none": Full(),
        "caching": Fixed(interval=1),
        "scoring": _sencache(bench),
    }
    runs: dict[str, list[Timing]] = {name: [] for name in variants}
    for order in (list(variants), list(variants)[::-1]):
        for name in order:
            runs[name].append(bench.run(variants[name]))
    # A run's first step meets cold caches.
    step = {name: median(ms for one in timed for ms in one.steps[1:]) for name, timed in runs.items()}
    values["computed step, ms"] = step["plain"]
    _note_peak(values, "peak", runs["plain"][0].peak)
    for name in ("none", "caching", "scoring"):
        values[f"overhead, {name}"] = step[name] / step["plain"] - 1
        values[f"bit-identical, {name}"] = float(torch.equal(runs[name][0].latents, runs["plain"][0].latents))
    values["reused step, ms"] = median(bench.run(Fixed(steps=(0,))).steps[1:])
    values["reused over computed"] = values["reused step, ms"] / step["plain"]
    reused = bench.run(Fixed(steps=(0,), target="output"))
    values["reused step of target output, ms"] = median(reused.steps[1:])
    cached = bench.run(Fixed(steps=bench.schedule))
    values["ceiling"] = bench.steps / len(bench.schedule)
    values["speed-up"] = median(one.seconds for one in runs["plain"]) / cached.seconds
    values["speed-up over ceiling"] = values["speed-up"] / values["ceiling"]
    _note_peak(values, "peak cached", cached.peak)


def _sencache(bench: Bench) -> SenCache:
    profile = pipelines.profile(bench.subject.name, bench.steps)
    return SenCache(profile, tolerance=0.0, early_tolerance=0.0)


def _note_peak(values: Values, name: str, size: int | None) -> None:
    if size is not None:
        values[f"{name}, GB"] = size / 1e9


def syncs(bench: Bench, values: Values) -> None:
    """Times that the host waits for the device, beyond those of the pipeline itself."""
    if not bench.cuda:
        raise NotImplementedError("counted on CUDA only")
    plain, attached = _syncs(bench), 0
    policies: dict[str, Policy] = {
        "none": Full(),
        "sencache": _sencache(bench),
        "easycache": EasyCache(threshold=0.0, forced_first=2),
        "control": Control(tolerance=0.0),
    }
    values["syncs per plain step"] = plain / bench.steps
    for name, policy in policies.items():
        with attach(bench.subject.pipe, policy) as trace:
            made = _syncs(bench)
        values[f"syncs of a {name} run"] = made - plain
        scored = sum(bool(record.signals) for record in trace)
        if scored:
            # Any attachment brings the schedule to the host, once a run.
            per_step = (made - attached) / scored
            values["syncs per scored step"] = max(values.get("syncs per scored step", 0.0), per_step)
        else:
            attached = made


def _syncs(bench: Bench) -> int:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            bench.call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def lanes(bench: Bench, values: Values) -> None:
    """Four lanes interleaved: their memory, and whether each one's steps take what they take alone."""
    policies = (Full(), Fixed(steps=bench.schedule), Fixed(interval=3), Fixed(interval=2, target="output"))

    def generate(pipe: Any, callback: Any) -> Any:
        return bench.call(pipe, callback).float().cpu().numpy()

    running = [lane(bench.subject.pipe, policy, generate, bench.device) for policy in policies]
    full, peaks = list[float](), list[int]()
    for index, item in round_robin(running):
        if isinstance(item, Stepped) and index == 0:
            full.append((item.record.seconds or 0.0) * 1000)
        elif isinstance(item, Finished):
            peaks.append(item.peak_bytes or 0)
    values["computed step among four lanes, ms"] = median(full[1:])
    if max(peaks):
        work = bench.work(lanes=3)
        _note_peak(values, "peak of four lanes", max(peaks))
        values["peak of four lanes over plan"] = max(peaks) / (bench.weights + work.step + work.lanes)


def offloading(bench: Bench, values: Values) -> None:
    """Blocks that wait in RAM, moved in when they are called or one ahead on a stream: milliseconds of a step
    and peak, of a second copy of the model.
    """
    name, dtype = bench.subject.name, bench.subject.pipe.transformer.dtype
    resident = Bench(bench.subject, bench.scale, 3).run()
    values["step with all blocks there, ms"] = median(resident.steps[1:])
    for way in ("moved", "streamed"):
        if way == "streamed" and not bench.cuda:
            raise NotImplementedError("streams are CUDA's only")
        before = torch.cuda.memory_allocated() if bench.cuda else 0
        subject = make_subject(name, bench.scale, bench.device, dtype)
        waiting = Bench(subject, bench.scale, 3)
        subject.pipe.transformer.to("cpu")
        bring_blocks_one_by_one(subject.pipe.transformer, bench.device, way == "streamed")
        timing = waiting.run()
        values[f"step with blocks {way}, ms"] = median(timing.steps[1:])
        values[f"bit-identical, blocks {way}"] = float(torch.equal(timing.latents, resident.latents))
        _note_peak(values, f"peak with blocks {way}", timing.peak and timing.peak - before)


def decoding(bench: Bench, values: Values) -> None:
    """At the model's own size, whole and in tiles: the second of two runs each; the first one chooses
    kernels.
    """
    vae, work = make_vae(bench.subject.name, bench.scale, bench.device), bench.work()
    name, size = bench.subject.name, bench.subject.arguments(1)
    frames = (size["num_frames"] - 1) // ENTRIES[name].spec.temporal_compression + 1
    height, width = (size[side] // (32 if name == "ltx" else 8) for side in ("height", "width"))
    channels = vae.config.z_dim if name == "wan" else vae.config.latent_channels
    latents = torch.randn((1, channels, frames, height, width), device=bench.device, dtype=vae.dtype)
    for way, planned in (("decoding", work.decode), ("decoding in tiles", work.decode_tiled)):
        if way == "decoding in tiles":
            vae.enable_tiling()
        _decode(vae, latents)
        if bench.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if bench.cuda else 0
        began = time.perf_counter()
        _decode(vae, latents)
        # Frames are on the host when this ends.
        values[f"{way}, s"] = time.perf_counter() - began
        if bench.cuda:
            peak = torch.cuda.max_memory_allocated() - before
            _note_peak(values, f"{way}, peak", peak)
            values[f"{way}, peak over plan"] = peak / planned


@torch.no_grad()
def _decode(vae: Any, latents: torch.Tensor) -> None:
    """As the pipelines do."""
    VideoProcessor().postprocess_video(vae.decode(latents, return_dict=False)[0], "np")


def comparison(bench: Bench, values: Values) -> None:
    """What a visitor waits for: five lanes of a random Wan on a budget, with metrics and videos."""
    size, spec = bench.subject.arguments(1), ENTRIES[bench.subject.name].spec
    pipe, steps = copy.copy(bench.subject.pipe), 20
    pipe.register_modules(vae=make_vae(bench.subject.name, bench.scale, bench.device))
    model = replace(
        pipelines.model_of(replace(bench.subject, pipe=pipe)),
        spec=replace(spec, min_side=16),
        device=bench.device,
        dtype=pipe.transformer.dtype,
    )
    # Metrics need 32 pixels.
    sides = {side: max(size[side], 32) for side in ("height", "width")}
    request = Request(
        **{"prompt": "anything", "steps": steps, "nfe": 10, "guidance_scale": spec.guidance_scale},
        **{**sides, "frames": min(33, size["num_frames"])},
    )
    peaks, encoding, began = list[int](), 0.0, time.perf_counter()
    chosen = parse_lanes("none,fewer-steps,fixed,easycache:forced_first=4,control")
    with TemporaryDirectory() as folder:
        for event in compare(model, request, chosen):
            if isinstance(event, LaneDone):
                peaks.append(event.lane.peak_bytes or 0)
                at = time.perf_counter()
                write_mp4(Path(folder, "video.mp4"), event.frames, spec.fps)
                encoding += time.perf_counter() - at
            elif isinstance(event, Compared):
                values["comparison, denoising s"] = sum(lane.denoise_seconds for lane in event.report.lanes)
                values["comparison, decoding s"] = sum(lane.decode_seconds for lane in event.report.lanes)
    values["comparison, s"] = time.perf_counter() - began
    values["comparison, MP4 s"] = encoding
    values["comparison, resident GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    if bench.cuda:
        _note_peak(values, "comparison, peak", max(peaks))
        vae = sum(p.numel() * p.element_size() for p in pipe.vae.parameters())
        planned = bench.weights + vae + bench.work(lanes=3, steps=steps, frames=request.frames).peak()
        values["comparison, peak over plan"] = max(peaks) / planned


# ---- diffusers' own caches


def peers(bench: Bench, values: Values) -> None:
    """diffusers' own caches, made to compute the very steps of our schedule."""
    ours = bench.run(Fixed(steps=bench.schedule))
    values["schedule, s"] = ours.seconds
    for name, make in (("MagCacheConfig", _magcache), ("FirstBlockCacheConfig", _first_block)):
        calls: list[int] = []
        counter = bench.subject.blocks[1].attn1.register_forward_hook(lambda *_, c=calls: c.append(1))
        # The first run compiles what the peer lets compile.
        bench.run(around=make(bench))
        counter.remove()
        expected = len(bench.schedule) * bench.subject.branches
        # A hook within a compiled block is not called every time.
        if not bench.compiled and len(calls) != expected:
            raise RuntimeError(f"{name} made {len(calls)} calls of its second block, not {expected}")
        theirs = bench.run(around=make(bench))
        values[f"{name}, s"] = theirs.seconds
        values[f"faster than {name} by"] = theirs.seconds / ours.seconds - 1
        values[f"same latents as {name}"] = float(torch.equal(theirs.latents, ours.latents))
        if ours.peak and theirs.peak:
            values[f"peak over that of {name}"] = ours.peak / theirs.peak


@contextmanager
def _enabled(bench: Bench, config: Any) -> Iterator[None]:
    bench.subject.pipe.transformer.enable_cache(config)
    try:
        yield
    finally:
        bench.subject.pipe.transformer.disable_cache()


def _magcache(bench: Bench) -> AbstractContextManager[None]:
    ratios = [0.0 if step in bench.schedule else 1.0 for step in range(bench.steps)]
    config = MagCacheConfig(
        threshold=0.5,
        max_skip_steps=bench.steps,
        retention_ratio=0.0,
        num_inference_steps=bench.steps,
        mag_ratios=torch.tensor(ratios),
    )
    return _enabled(bench, config)


@contextmanager
def _first_block(bench: Bench) -> Iterator[None]:
    """It measures as ever, and waits for the result as ever; then the schedule decides."""
    asked, measured = 0, FBCHeadBlockHook._should_compute_remaining_blocks

    def scheduled(self: Any, residual: torch.Tensor) -> bool:
        nonlocal asked
        measured(self, residual)
        step, asked = asked // bench.subject.branches, asked + 1
        return step in bench.schedule

    FBCHeadBlockHook._should_compute_remaining_blocks = torch.compiler.disable(scheduled)
    try:
        with _enabled(bench, FirstBlockCacheConfig(threshold=0.1)):
            yield
    finally:
        FBCHeadBlockHook._should_compute_remaining_blocks = measured


@dataclass(frozen=True)
class Part:
    """`run` fills in values. It takes `steps(S)` computed steps, where a run has S, and `seconds` besides,
    which are guessed; `eager_only` where compiled blocks would make no difference, `only` for one model.
    """

    run: Callable[[Bench, Values], None]
    steps: Callable[[int], float]
    seconds: float = 0.0
    eager_only: bool = False
    only: str | None = None


PARTS = {
    "costs": Part(costs, lambda steps: 8.5 * steps + 3),
    "syncs": Part(syncs, lambda steps: 5 * steps),
    "peers": Part(peers, lambda steps: 2.5 * steps + 5),
    "lanes": Part(lanes, lambda steps: 2.5 * steps + 3),
    "offloading": Part(offloading, lambda steps: 9, seconds=60, eager_only=True),
    "decoding": Part(decoding, lambda steps: 0, seconds=120, eager_only=True),
    "comparison": Part(comparison, lambda steps: 20, seconds=200, eager_only=True, only="wan"),
}
