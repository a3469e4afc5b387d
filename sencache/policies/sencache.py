"""SenCache: reuse while the predicted change of the network is below a tolerance."""

from __future__ import annotations

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
from sencache.policies.senses import LatentDistance, Sense
from sencache.profiles.constants import Sensitivities
from sencache.profiles.profile import Profile


@register
@dataclass(frozen=True, config=STRICT)
class SenCache(Policy):
    """Sensitivity-aware caching (arXiv 2602.24208, Algorithm 1, eqs 6-12).

    `score = alpha_x(t_r) * rms(x - x_r) + alpha_t(t_r) * |t - t_r|`, with r the last computed step and both
    alphas frozen there; reuse when `score <= tolerance` and fewer than `max_reuses` in a row. Everything is
    per latent element (RMS), so one tolerance fits every resolution. In the first `early_fraction` of the
    steps the tolerance is the smaller of `early_tolerance` and `tolerance`, so tolerance 0 never reuses
    anything that moved. `compute_last` forces the last step (the official CogVideoX and LTX code does, the
    paper and the Wan code do not).
    """

    name: ClassVar[str] = "sencache"
    summary: ClassVar[str] = "predicts the change of the network from how far latent and timestep have moved"
    senses: ClassVar[tuple[type[Sense], ...]] = (LatentDistance,)
    knob: ClassVar[str | None] = "tolerance"
    look: ClassVar[Look | None] = Look("SenCache", "#0f766e", "#35bcab")
    preselected: ClassVar[bool] = True

    profile: Profile
    tolerance: NonNegative = 0.1
    max_reuses: AtLeastOne = 3
    early_tolerance: NonNegative = 0.01
    early_fraction: Fraction = 0.2
    compute_last: bool = False

    def check(self, steps: int) -> None:
        """Raises SencacheError when the profile lacks what the method needs."""
        super().check(steps)
        self.profile.sensitivities()

    def _rule(self, schedule: Schedule) -> Rule:
        return _Rule(self, self.profile.sensitivities())


class _Rule(Rule):
    def __init__(self, policy: SenCache, table: Sensitivities) -> None:
        super().__init__()
        self.policy, self.table = policy, table
        self.alpha_x = self.alpha_t = 0.0

    def reason_to_compute(self, step: Step) -> Reason | None:
        if self.policy.compute_last and step.index == step.total - 1:
            return "last_step"
        return "max_reuses" if self.reuses >= self.policy.max_reuses else None

    def judge(self, step: Step, signals: Signals) -> Verdict:
        assert self.reference is not None
        dx, dt = signals["dx_rms"], abs(step.timestep - self.reference.timestep)
        score = self.alpha_x * dx + self.alpha_t * dt
        tolerance = self._tolerance(step)
        # At tolerance 0 a table that holds a 0 must not pass a latent that has moved.
        reuse = score <= tolerance and (tolerance > 0 or (dx == 0 and dt == 0))
        seen = {"dx_rms": dx, "dt": dt, "alpha_x": self.alpha_x, "alpha_t": self.alpha_t}
        return Verdict(reuse, "within_tolerance" if reuse else "above_tolerance", score, tolerance, seen)

    def note_computed(self, step: Step) -> None:
        self.alpha_x, self.alpha_t = self.table.at(step.timestep)

    def _tolerance(self, step: Step) -> float:
        early = step.index < round(self.policy.early_fraction * step.total)
        return min(self.policy.early_tolerance, self.policy.tolerance) if early else self.policy.tolerance
