"""Runs of one model for the GPU benchmark, timed without waiting for the device."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from gpu_models import Subject

from sencache.engine.attach import attach
from sencache.policies import Policy


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
