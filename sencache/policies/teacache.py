"""TeaCache: reuse while the accumulated, rescaled change of a modulated input is small."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic.dataclasses import dataclass

from sencache.policies.base import (
    STRICT,
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
from sencache.policies.senses import Sense, SignalChange
from sencache.profiles.constants import TeaCacheFit
from sencache.profiles.profile import Profile


@register
@dataclass(frozen=True, config=STRICT)
class TeaCache(Policy):
    """Timestep-embedding-aware caching (arXiv 2411.19108; ali-vilab/TeaCache).

    `A += P(mean|s_i - s_{i-1}| / mean|s_{i-1}|)` with the profile's polynomial P and signal s, at every step
    that is not forced; reuse while `A < threshold`, else compute and `A = 0`. Threshold 0 never reuses (the
    official rule would where its polynomial is negative). On Wan and CogVideoX s depends on t alone, so the
    schedule is the same for every prompt. `forced_first` and `forced_last` come from the profile unless
    given.
    """

    name: ClassVar[str] = "teacache"
    summary: ClassVar[str] = "follows the change of the timestep embedding through a fitted polynomial"
    senses: ClassVar[tuple[type[Sense], ...]] = (SignalChange,)
    words: ClassVar[Mapping[str, str]] = {
        "rescaled": "rescaled by the polynomial",
        "accumulated": "accumulated",
    }
    knob: ClassVar[str | None] = "threshold"
    look: ClassVar[Look | None] = Look("TeaCache", "#b03d76", "#f083b7")
    preselected: ClassVar[bool] = True

    profile: Profile
    threshold: NonNegative = 0.1
    forced_first: Count | None = None
    forced_last: Count | None = None

    @property
    def signal(self) -> str:
        """The signal that the profile's polynomial was fitted on; raises SencacheError when it has none."""
        return self.profile.teacache_fit().signal

    def check(self, steps: int) -> None:
        """Raises SencacheError when the profile lacks what the method needs."""
        super().check(steps)
        self.profile.teacache_fit()

    def _rule(self, schedule: Schedule) -> Rule:
        return _Rule(self, self.profile.teacache_fit())


class _Rule(Rule):
    def __init__(self, policy: TeaCache, fit: TeaCacheFit) -> None:
        super().__init__()
        self.threshold, self.fit = policy.threshold, fit
        self.first = fit.forced_first if policy.forced_first is None else policy.forced_first
        self.last = fit.forced_last if policy.forced_last is None else policy.forced_last
        self.accumulated = 0.0

    def reason_to_compute(self, step: Step) -> Reason | None:
        if step.index < self.first:
            return "warmup"
        return "last_step" if step.index >= step.total - self.last else None

    def judge(self, step: Step, signals: Signals) -> Verdict:
        change = signals["relative_l1"]
        rescaled = self.fit.rescale(change)
        self.accumulated += rescaled
        reuse = self.threshold > 0 and self.accumulated < self.threshold
        seen = {"relative_l1": change, "rescaled": rescaled, "accumulated": self.accumulated}
        reason: Reason = "within_tolerance" if reuse else "above_tolerance"
        return Verdict(reuse, reason, self.accumulated, self.threshold, seen)

    def note_computed(self, step: Step) -> None:
        self.accumulated = 0.0
