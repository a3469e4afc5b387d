"""Control: reuse a forecast while its error, extrapolated from the last one observed, is below a
tolerance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import field
from typing import ClassVar

from pydantic.dataclasses import dataclass

from sencache.forecasts import FORECASTS
from sencache.policies.base import (
    STRICT,
    AtLeastOne,
    ForecastName,
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
from sencache.policies.senses import ForecastError, Sense


@register
@dataclass(frozen=True, config=STRICT)
class Control(Policy):
    """Error-controlled forecasting: our own method, in the manner of step-size control for ODE solvers. No
    profile.

    When step c is computed, the truth is compared with what would have been forecast from the computed steps
    a, b before it: `e = |v_c - v_hat(t_c)| / |v_c|`. The remainder of a linear extrapolation grows with the
    product of the distances to its nodes, so from b, c the error at t is predicted as `e * |t-t_c| |t-t_b| /
    (|t_c-t_b| |t_c-t_a|)`; with forecast `hold` as `e * |t-t_c| / |t_c-t_b|`. Reuse while that is `<=
    tolerance` and fewer than `max_reuses` in a row. The first two steps (three until an error is known,
    one more with `taylor`) and the last are computed.
    """

    name: ClassVar[str] = "control"
    summary: ClassVar[str] = (
        "extrapolates, and controls the error that each computed step reveals; needs no profile"
    )
    senses: ClassVar[tuple[type[Sense], ...]] = (ForecastError,)
    words: ClassVar[Mapping[str, str]] = {"predicted_error": "predicted error"}
    knob: ClassVar[str | None] = "tolerance"
    look: ClassVar[Look | None] = Look("Control", "#bb4d2a", "#f59570")
    preselected: ClassVar[bool] = True

    tolerance: NonNegative = 0.03
    max_reuses: AtLeastOne = 6
    forecast: ForecastName = field(default="linear", kw_only=True)

    @property
    def extrapolates(self) -> bool:
        """Always: also with `hold` the error is."""
        return True

    def _rule(self, schedule: Schedule) -> Rule:
        return _Rule(self)


class _Rule(Rule):
    def __init__(self, policy: Control) -> None:
        super().__init__()
        self.policy = policy
        self.forecast = FORECASTS[policy.forecast]
        self.order = self.forecast.order + 1
        self.nodes: deque[float] = deque(maxlen=self.order + 1)

    def required(self, step: Step) -> Reason | None:
        if len(self.nodes) <= self.order:
            return "warmup"
        if step.index == step.total - 1:
            return "last_step"
        return "max_reuses" if self.reuses >= self.policy.max_reuses else None

    def judge(self, step: Step, signals: Signals) -> Verdict:
        error = signals["forecast_error"]
        predicted = error * self._growth(self.forecast.position(step))
        reuse = predicted <= self.policy.tolerance
        seen = {"forecast_error": error, "predicted_error": predicted}
        reason: Reason = "within_tolerance" if reuse else "above_tolerance"
        return Verdict(reuse, reason, predicted, self.policy.tolerance, seen)

    def _growth(self, t: float) -> float:
        """How much larger the remainder is at `t` than it was at the newest node, when that was forecast from
        the others.
        """
        newest, older = self.nodes[-1], tuple(self.nodes)[:-1]
        growth = 1.0
        for node, nearer in zip(older, tuple(self.nodes)[1:], strict=True):
            growth *= abs(t - nearer) / abs(newest - node)
        return growth

    def computed(self, step: Step) -> None:
        self.nodes.append(self.forecast.position(step))

    def forget(self) -> None:
        self.nodes.clear()
