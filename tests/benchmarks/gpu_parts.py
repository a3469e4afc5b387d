"""The parts of the GPU benchmark; each fills in some values."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from gpu_bench import Bench, Timing
from gpu_compare import whole_comparison
from gpu_decode import decoding
from gpu_models import made_up_profile, work_of
from gpu_offload import offloading
from gpu_peers import peers

from sencache.comparison.lanes import Finished, Stepped, lane
from sencache.comparison.stepping import round_robin
from sencache.engine.attach import attach
from sencache.policies import Control, EasyCache, Fixed, Full, Policy, SenCache


def costs(bench: Bench, values: dict[str, float]) -> None:
    """Computed and reused steps, overhead, speed-up: plain and attached runs in turn, medians of steps."""
    scored = _sencache(bench)
    variants: dict[str, Policy | None] = {
        "plain": None,
        "none": Full(),
        "caching": Fixed(interval=1),
        "scoring": scored,
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
    reused = bench.run(Fixed(steps=(0,)))
    values["reused step, ms"] = median(reused.steps[1:])
    values["reused over computed"] = values["reused step, ms"] / step["plain"]
    values["reused step of target output, ms"] = median(
        bench.run(Fixed(steps=(0,), target="output")).steps[1:]
    )
    cached = bench.run(Fixed(steps=bench.schedule))
    plain = median(one.seconds for one in runs["plain"])
    values["ceiling"] = bench.steps / len(bench.schedule)
    values["speed-up"] = plain / cached.seconds
    values["speed-up over ceiling"] = values["speed-up"] / values["ceiling"]
    _note_peak(values, "peak cached", cached.peak)


def _sencache(bench: Bench) -> Any:
    return SenCache(made_up_profile(bench.subject.name, bench.steps), tolerance=0.0, early_tolerance=0.0)


def syncs(bench: Bench, values: dict[str, float]) -> None:
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
            bench.call(bench.subject.pipe, lambda *_: {})
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def lanes(bench: Bench, values: dict[str, float]) -> None:
    """Four lanes interleaved: their memory, and whether each one's steps take what they take alone."""
    policies = (Full(), Fixed(steps=bench.schedule), Fixed(interval=3), Fixed(interval=2, target="output"))

    def generate(pipe: Any, callback: Any) -> Any:
        return bench.call(pipe, callback).float().cpu().numpy()

    running = [lane(bench.subject.pipe, policy, generate, bench.subject.device) for policy in policies]
    full: list[float] = []
    peaks: list[int | None] = []
    for index, item in round_robin(running):
        if isinstance(item, Stepped) and index == 0:
            full.append((item.record.seconds or 0.0) * 1000)
        elif isinstance(item, Finished):
            peaks.append(item.peak_bytes)
    values["computed step among four lanes, ms"] = median(full[1:])
    peak = max((peak for peak in peaks if peak), default=None)
    _note_peak(values, "peak of four lanes", peak)
    if peak is not None:
        work, network = work_of(bench.subject, bench.steps, lanes=3), bench.subject.transformer
        weights = sum(p.numel() * p.element_size() for p in network.parameters())
        values["peak of four lanes over plan"] = peak / (weights + work.step + work.lanes)


@dataclass(frozen=True)
class Part:
    """`run` fills in values. It takes `steps(S)` computed steps, where a run has S, and `seconds` besides,
    which are guessed; `eager_only` where compiled blocks would make no difference, `only` for one model.
    """

    run: Callable[[Bench, dict[str, float]], None]
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
    "comparison": Part(whole_comparison, lambda steps: 20, seconds=200, eager_only=True, only="wan"),
}


def _note_peak(values: dict[str, float], name: str, size: int | None) -> None:
    if size is not None:
        values[f"{name}, GB"] = size / 1e9
