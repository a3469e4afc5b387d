"""Lanes held against the full run: the drift of their latents, the distance of their frames, their times."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sencache.calibration.budget import shortfalls
from sencache.comparison.lanes import Finished, Frames, Stepped
from sencache.comparison.metrics import compare_frames
from sencache.comparison.plan import FEWER_STEPS, REFERENCE, Planned
from sencache.comparison.report import Lane, ProfileRef
from sencache.measures import rms
from sencache.models.model import Model
from sencache.schema import Request
from sencache.trace import StepRecord


class Reference:
    """The full run as far as it has come. The lanes of other devices may be ahead of it, and look at it from
    threads of their own. `frames` are there once it has ended, `seconds` is what it denoised for.
    """

    def __init__(self) -> None:
        self._latents: list[torch.Tensor] = []
        self._copies: dict[torch.device, list[torch.Tensor]] = {}
        self.frames: Frames | None = None
        self.seconds = 0.0

    def follow(self, item: Stepped | Finished, seconds: float) -> None:
        """Take what the full run came to, which has denoised for `seconds` so far."""
        if isinstance(item, Stepped):
            self._latents.append(item.latent)
        else:
            self.seconds, self.frames = seconds, item.frames

    def serves(self, planned: Planned, item: Stepped | Finished) -> bool:
        """Whether the full run has come as far as `item` of another lane must be held against."""
        if planned.spec.method == REFERENCE:
            return True
        if isinstance(item, Finished):
            return self.frames is not None
        return planned.spec.method == FEWER_STEPS or item.record.step < len(self._latents)

    def record(self, planned: Planned, item: Stepped) -> StepRecord:
        """The step's record with its drift from the full run; lanes on another schedule have none."""
        if planned.spec.method == FEWER_STEPS:
            return item.record
        drift = 0.0 if planned.spec.method == REFERENCE else self._drift(item.record.step, item.latent)
        return item.record.model_copy(update={"drift": drift})

    def _drift(self, step: int, latent: torch.Tensor) -> float:
        copies = self._copies.setdefault(latent.device, [])
        while len(copies) <= step:
            copies.append(self._latents[len(copies)].to(latent.device))
        # In float32: the same number whatever precision made the latents.
        apart = latent.float() - copies[step].float()
        return float(rms(apart.flatten().unsqueeze(0)))


def lane_entry(
    planned: Planned,
    trace: Sequence[StepRecord],
    finished: Finished,
    reference: Reference,
    request: Request,
    model: Model,
) -> Lane:
    """A lane's entry in the report, measured on the device of its own `model`."""
    policy, caches, ended = planned.policy, planned.policy.caches, finished.trace
    is_reference = planned.spec.method == REFERENCE
    denoise = sum(record.seconds or 0.0 for record in trace)
    used = policy.profile
    elsewhere = used.elsewhere(model.spec.id) if used else []
    metrics = None
    if not is_reference:
        assert reference.frames is not None
        metrics = compare_frames(finished.frames, reference.frames, device=model.device)
    return Lane(
        name=planned.spec.name,
        method=planned.spec.method,
        config=policy.config() if caches else {},
        target=policy.target if caches else None,
        forecast=policy.forecast if caches else None,
        repair=policy.repair if caches else None,
        profile=ProfileRef.of(used) if used else None,
        steps=planned.steps,
        nfe=ended.nfe,
        cache_ratio=ended.cache_ratio,
        transformer_calls=ended.transformer_calls,
        denoise_seconds=denoise,
        decode_seconds=finished.decode_seconds,
        seconds=finished.setup_seconds + denoise + finished.decode_seconds,
        speedup=1.0 if is_reference else reference.seconds / denoise,
        cache_bytes=ended.cache_bytes,
        peak_bytes=finished.peak_bytes,
        notes=(*elsewhere, *ended.notes, *shortfalls(policy, ended, request.nfe)),
        trace=tuple(trace),
        metrics=metrics,
        video=None,
    )
