"""MagCache: reuse while the accumulated change of the residual's magnitude is small."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic.dataclasses import dataclass

from sencache.policies.base import (
    STRICT,
    AtLeastOne,
    Fraction,
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
from sencache.profiles.profile import Profile


@register
@dataclass(frozen=True, config=STRICT)
class MagCache(Policy):
    """Magnitude-aware caching (arXiv 2506.09045; Zehong-Ma/MagCache).

    From the calibrated ratios of residual norms `gamma_i` (step i to step i-1): since the last computed step
    `g = prod gamma` and `E = sum |1 - g|`; reuse while `E < threshold` and at most `max_reuses` in a row. The
    first `retention` of the steps is computed and moves no counter. The schedule depends on the ratios alone:
    it is the same for every prompt and seed.
    """

    name: ClassVar[str] = "magcache"
    summary: ClassVar[str] = (
        "follows calibrated ratios of residual magnitudes; same schedule for every prompt"
    )
    words: ClassVar[Mapping[str, str]] = {
        "ratio": "magnitude ratio",
        "accumulated_ratio": "accumulated ratio",
        "accumulated_error": "accumulated error",
    }
    knob: ClassVar[str | None] = "threshold"
    look: ClassVar[Look | None] = Look("MagCache", "#6a57c8", "#a99bff")
    preselected: ClassVar[bool] = True

    profile: Profile
    threshold: NonNegative = 0.12
    max_reuses: AtLeastOne = 2
    retention: Fraction = 0.2

    def check(self, steps: int) -> None:
        """Raises SencacheError when the profile lacks what the method needs."""
        super().check(steps)
        self.profile.magnitude_ratios(steps)

    def _rule(self, schedule: Schedule) -> Rule:
        return _Rule(self, self.profile.magnitude_ratios(len(schedule)))


class _Rule(Rule):
    def __init__(self, policy: MagCache, ratios: tuple[float, ...]) -> None:
        super().__init__()
        self.policy, self.ratios = policy, ratios
        self.ratio, self.error, self.skipped = 1.0, 0.0, 0

    def reason_to_compute(self, step: Step) -> Reason | None:
        # The official counters run per call (2i + branch >= int(2N * retention)); for whole steps that is
        # rounding half up.
        return "warmup" if step.index < int(step.total * self.policy.retention + 0.5) else None

    def judge(self, step: Step, signals: Signals) -> Verdict:
        gamma = self.ratios[step.index]
        self.ratio *= gamma
        self.skipped += 1
        self.error += abs(1 - self.ratio)
        seen = {"ratio": gamma, "accumulated_ratio": self.ratio, "accumulated_error": self.error}
        return self._verdict(seen)

    def _verdict(self, seen: Signals) -> Verdict:
        threshold = self.policy.threshold
        if self.error >= threshold:
            return Verdict(False, "above_tolerance", self.error, threshold, seen)
        if self.skipped > self.policy.max_reuses:
            return Verdict(False, "max_reuses", self.error, threshold, seen)
        return Verdict(True, "within_tolerance", self.error, threshold, seen)

    def note_computed(self, step: Step) -> None:
        self.ratio, self.error, self.skipped = 1.0, 0.0, 0
