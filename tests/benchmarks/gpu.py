"""What the engine costs and gains on a GPU, at the real sizes of three models: random weights, bfloat16.

    python tests/benchmarks/gpu.py [--models wan,cogvideox,ltx] [--steps 16] [--out FILE.json]
    python tests/benchmarks/gpu.py --scale tiny --device cpu     the same code in seconds

Prints one table with the targets beside the figures, and writes them as JSON. diffusers' MagCache and
FirstBlockCache run the same schedule on the same weights as peers. A part that runs out of memory, or fails,
is reported and the next one begins. Run it on a GPU that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from gpu_models import ENTRIES, Subject, made_up_profile, make_subject

from sencache.engine.attach import attach
from sencache.interleave import round_robin
from sencache.lanes import Finished, Stepped, lane
from sencache.policies import Control, EasyCache, Fixed, Full, Policy, SenCache

RESULTS = Path(__file__).parent / "results"
TARGETS = {
    "overhead": ("<=", 0.001),
    "reused over computed": ("<=", 0.01),
    "speed-up over ceiling": (">=", 0.99),
    "syncs per scored step": ("<=", 1.0),
    "bit-identical": (">=", 1.0),
    # Equal, but for the noise of two runs.
    "faster than": (">=", -0.005),
    "peak over that of": ("<=", 1.0),
}


@dataclass
class Figures:
    """One model's, eager or compiled; what could not be measured is in `failed` with the reason."""

    model: str
    compiled: bool
    values: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Timing:
    """One run: milliseconds of every step, seconds of all, peak bytes, and its latents."""

    steps: tuple[float, ...]
    seconds: float
    peak: int | None
    latents: torch.Tensor


class Bench:
    """Runs of one subject."""

    def __init__(self, subject: Subject, steps: int, compiled: bool) -> None:
        self.subject, self.steps, self.compiled = subject, steps, compiled
        self.cuda = subject.device.type == "cuda"
        # The first step, then every other one: about half of all, as caches compute at their usual settings.
        self.schedule = tuple(sorted({0, *range(1, steps, 2)}))

    def mark(self) -> Any:
        """A point in time on the device."""
        if not self.cuda:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def between(self, start: Any, end: Any) -> float:
        """Milliseconds."""
        return float(start.elapsed_time(end)) if self.cuda else float(end - start) * 1000

    def run(self, policy: Policy | None = None, around: AbstractContextManager[Any] | None = None) -> Timing:
        """One generation, plain or under `policy`, timed without waiting for the device in between."""
        attached: Any = attach(self.subject.pipe, policy) if policy else (around or nullcontext())
        marks: list[Any] = []
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        with attached:
            first = self.subject.transformer.register_forward_pre_hook(
                lambda *_: None if marks else marks.append(self.mark())
            )
            try:
                latents = self.call(self.subject.pipe, lambda *_: marks.append(self.mark()) or {})
            finally:
                first.remove()
        if self.cuda:
            torch.cuda.synchronize()
        spans = tuple(self.between(a, b) for a, b in pairwise(marks))
        peak = torch.cuda.max_memory_allocated() if self.cuda else None
        return Timing(spans, sum(spans) / 1000, peak, latents)

    def call(self, pipe: Any, callback: Any) -> torch.Tensor:
        """The pipeline's own loop."""
        generator = torch.Generator().manual_seed(0)
        arguments = {**self.subject.arguments, "num_inference_steps": self.steps, "generator": generator}
        frames: torch.Tensor = pipe(**arguments, callback_on_step_end=callback).frames
        return frames


# ---- parts: each fills in some values


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


def peers(bench: Bench, values: dict[str, float]) -> None:
    """diffusers' own caches, made to compute the very steps of our schedule."""
    ours = bench.run(Fixed(steps=bench.schedule))
    values["schedule, s"] = ours.seconds
    for name, make in PEERS.items():
        # The first run compiles what the peer lets compile.
        counted, theirs = _calls(bench, make), bench.run(around=_enabled(bench, make))
        expected = len(bench.schedule) * bench.subject.branches
        if not bench.compiled and counted != expected:
            raise RuntimeError(f"{name} made {counted} calls of its second block, not {expected}")
        values[f"{name}, s"] = theirs.seconds
        values[f"faster than {name} by"] = theirs.seconds / ours.seconds - 1
        values[f"same latents as {name}"] = float(torch.equal(theirs.latents, ours.latents))
        if ours.peak and theirs.peak:
            values[f"peak over that of {name}"] = ours.peak / theirs.peak


def _calls(bench: Bench, make: Callable[[Bench], AbstractContextManager[Any]]) -> int:
    """How often the second block runs; a hook within a compiled block is not called every time."""
    calls: list[int] = []
    counter = bench.subject.blocks[1].attn1.register_forward_hook(lambda *_: calls.append(1))
    try:
        bench.run(around=_enabled(bench, make))
    finally:
        counter.remove()
    return len(calls)


@contextmanager
def _enabled(bench: Bench, make: Callable[[Bench], AbstractContextManager[Any]]) -> Iterator[None]:
    with make(bench) as config:
        bench.subject.transformer.enable_cache(config)
        try:
            yield
        finally:
            bench.subject.transformer.disable_cache()


@contextmanager
def _magcache(bench: Bench) -> Iterator[Any]:
    from diffusers import MagCacheConfig

    ratios = [0.0 if step in bench.schedule else 1.0 for step in range(bench.steps)]
    yield MagCacheConfig(
        threshold=0.5,
        max_skip_steps=bench.steps,
        retention_ratio=0.0,
        num_inference_steps=bench.steps,
        mag_ratios=torch.tensor(ratios),
    )


@contextmanager
def _first_block(bench: Bench) -> Iterator[Any]:
    """It measures as ever, and waits for the result as ever; then the schedule decides."""
    from diffusers import FirstBlockCacheConfig
    from diffusers.hooks.first_block_cache import FBCHeadBlockHook

    asked, measured = 0, FBCHeadBlockHook._should_compute_remaining_blocks

    def scheduled(self: Any, residual: torch.Tensor) -> bool:
        nonlocal asked
        measured(self, residual)
        step, asked = asked // bench.subject.branches, asked + 1
        return step in bench.schedule

    FBCHeadBlockHook._should_compute_remaining_blocks = torch.compiler.disable(scheduled)
    try:
        yield FirstBlockCacheConfig(threshold=0.1)
    finally:
        FBCHeadBlockHook._should_compute_remaining_blocks = measured


PEERS = {"MagCacheConfig": _magcache, "FirstBlockCacheConfig": _first_block}


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
    _note_peak(values, "peak of four lanes", max((peak for peak in peaks if peak), default=None))


PARTS = {"costs": costs, "syncs": syncs, "peers": peers, "lanes": lanes}


# ---- all of it


def measure(subject: Subject, steps: int, backend: str | None) -> Figures:
    """All parts; with `backend` the blocks are compiled before."""
    compiled = backend is not None
    figures, bench = Figures(subject.name, compiled), Bench(subject, steps, compiled)
    if backend is not None:
        for block in subject.blocks:
            block.compile(backend=backend)
    _attempt(figures, "warm-up", lambda: Bench(subject, 2, compiled).run(Fixed(interval=2)))
    for name, part in PARTS.items():
        _attempt(figures, name, partial(part, bench, figures.values))
    return figures


def _attempt(figures: Figures, name: str, part: Callable[[], object]) -> None:
    try:
        part()
    except torch.OutOfMemoryError:
        figures.failed[name] = "out of memory"
    except Exception as error:
        figures.failed[name] = f"{type(error).__name__}: {error}".partition("\n")[0]
    # Outside the handler: the error's frames hold the tensors.
    if name in figures.failed and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _note_peak(values: dict[str, float], name: str, size: int | None) -> None:
    if size is not None:
        values[f"{name}, GB"] = size / 1e9


def machine(device: torch.device) -> dict[str, str]:
    """Named in the results."""
    from importlib.metadata import version

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
    cuda = torch.version.cuda or "none"
    return {"device": name, "cuda": cuda, "torch": torch.__version__, "diffusers": version("diffusers")}


def table(figures: list[Figures]) -> str:
    """All models beside one another, a line per value, the target at its end."""
    titles = [f"{f.model}{' compiled' if f.compiled else ''}" for f in figures]
    lines = [f"{'':38s}" + "".join(f"{title:>20s}" for title in titles) + "   target"]
    for name in dict.fromkeys(name for one in figures for name in one.values):
        sign, limit = next((t for key, t in TARGETS.items() if name.startswith(key)), ("", 0.0))
        cells = [_cell(one.values.get(name), sign, limit) for one in figures]
        target = f"   {sign} {limit:g}" if sign else ""
        lines.append(f"{name:38s}" + "".join(f"{cell:>20s}" for cell in cells) + target)
    lines += [f"{f.model}: {part} failed: {reason}" for f in figures for part, reason in f.failed.items()]
    return "\n".join(lines)


def _cell(value: float | None, sign: str, limit: float) -> str:
    if value is None:
        return "-"
    missed = (sign == "<=" and value > limit) or (sign == ">=" and value < limit)
    return f"{value:.4g}{' missed' if missed else ''}"


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(ENTRIES))
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--backend", default="inductor", help="of torch.compile; none leaves compiling out")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device, figures = torch.device(options.device), []
    if device.type == "cuda":
        torch.cuda.set_device(device)
    for name in options.models.split(","):
        for backend in (None, *([options.backend] if options.backend != "none" else [])):
            subject = make_subject(name, options.scale, device, torch.bfloat16)
            figures.append(measure(subject, options.steps, backend))
            del subject
            torch._dynamo.reset()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    print(f"{machine(device)}, {options.steps} steps, {options.scale}\n{table(figures)}")
    out = options.out or RESULTS / f"gpu-{machine(device)['device'].lower().replace(' ', '-')}.json"
    content = {
        "machine": machine(device),
        "scale": options.scale,
        "steps": options.steps,
        "models": [asdict(one) for one in figures],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"written to {out}")
    return 1 if any(one.failed for one in figures) and device.type == "cuda" else 0


if __name__ == "__main__":
    sys.exit(main())
