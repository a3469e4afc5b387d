"""SeaCache: reuse while the accumulated change of the latent's denoised part is small."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic.dataclasses import dataclass

from sencache.policies.base import (
    STRICT,
    AtLeastOne,
    Count,
    NonNegative,
    Policy,
    Reason,
    Rule,
    Schedule,
    Signals,
    Step,
    Verdict,
    register,
)
from sencache.policies.look import Look
from sencache.policies.senses import Seen, Sense, StepChange

if TYPE_CHECKING:
    from torch import Tensor

POWER = 3.0


def filter_latent(latent: Tensor, sigma: float) -> Tensor:
    """[B, C, T, H, W] -> the same, by the Wiener-type gain `(1 - sigma) P / ((1 - sigma)^2 P + sigma^2)` with
    the clean signal's power `P = |f|^-3`, along T, H and W, normalised to a mean of 1.
    """
    import torch

    sigma = max(1e-6, min(1 - 1e-6, sigma))
    gain = torch.ones((), device=latent.device)
    for axis in (2, 3, 4):
        frequencies = torch.fft.fftfreq(latent.shape[axis], device=latent.device, dtype=torch.float32)
        power = 1 / (frequencies.abs().pow(POWER) + 1e-16)
        along = (1 - sigma) * power / ((1 - sigma) ** 2 * power + sigma**2 + 1e-16)
        gain = gain * along.reshape([-1 if other == axis else 1 for other in range(5)])
    spectrum = torch.fft.fftn(latent.float(), dim=(2, 3, 4))
    found: Tensor = torch.fft.ifftn(spectrum * (gain / gain.mean()), dim=(2, 3, 4)).real
    return found.to(latent.dtype)


class SpectralChange(StepChange):
    """`spectral_change`: that of the filtered latent."""

    words: ClassVar[Mapping[str, str]] = {"spectral_change": "change of the filtered latent"}
    table = "spectral_change"

    @staticmethod
    def look(seen: Seen) -> Tensor | None:
        # Packed latents and samplers off the flow have nothing to filter by; recording goes on without.
        sigma = seen.step.sigma
        if sigma is None or not 0 <= sigma <= 1 or seen.latent.ndim != 5:
            return None
        return filter_latent(seen.latent, sigma)


@register
@dataclass(frozen=True, config=STRICT)
class SeaCache(Policy):
    """Spectral-evolution-aware caching (arXiv 2602.18993; `SeaCacheConfig` of diffusers).

    `A += mean|s_i - s_{i-1}| / mean|s_{i-1}|` with s the latent through a filter that lets pass what is
    denoised by now; reuse while `A < threshold` and fewer than `max_reuses` in a row, else compute and
    `A = 0`. As in diffusers the filter sees the raw latent (the authors': block 0's modulated input), and the
    model must be a flow on latents with frames, height and width: Wan. diffusers extrapolates the residual
    over steps by default; here that is the `forecast`. Nothing to calibrate.
    """

    name: ClassVar[str] = "seacache"
    summary: ClassVar[str] = "follows the change of the part of the latent that is denoised by now"
    senses: ClassVar[tuple[type[Sense], ...]] = (SpectralChange,)
    words: ClassVar[Mapping[str, str]] = {"accumulated": "accumulated"}
    architectures: ClassVar[tuple[str, ...]] = ("wan",)
    knob: ClassVar[str | None] = "threshold"
    look: ClassVar[Look | None] = Look("SeaCache", "#0b7285", "#4cc3d9")

    threshold: NonNegative = 0.25
    max_reuses: AtLeastOne = 2
    forced_first: Count = 1
    forced_last: Count = 1

    def _rule(self, schedule: Schedule) -> Rule:
        return _Rule(self)


class _Rule(Rule):
    def __init__(self, policy: SeaCache) -> None:
        super().__init__()
        self.policy, self.accumulated = policy, 0.0

    def reason_to_compute(self, step: Step) -> Reason | None:
        if step.index < self.policy.forced_first:
            return "warmup"
        if step.index >= step.total - self.policy.forced_last:
            return "last_step"
        return "max_reuses" if self.reuses >= self.policy.max_reuses else None

    def judge(self, step: Step, signals: Signals) -> Verdict:
        change = signals["spectral_change"]
        self.accumulated += change
        reuse = self.accumulated < self.policy.threshold
        seen = {"spectral_change": change, "accumulated": self.accumulated}
        reason: Reason = "within_tolerance" if reuse else "above_tolerance"
        return Verdict(reuse, reason, self.accumulated, self.policy.threshold, seen)

    def note_computed(self, step: Step) -> None:
        self.accumulated = 0.0
