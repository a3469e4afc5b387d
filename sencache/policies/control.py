"""Control: our own method. Reuse while the forecast is expected to miss little, as the run reveals it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import field, replace
from typing import Any, ClassVar

from pydantic import model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from sencache.errors import SencacheError
from sencache.forecasts import FORECASTS, Forecast
from sencache.policies.base import (
    STRICT,
    AtLeastOne,
    ForecastName,
    Fraction,
    NonNegative,
    Policy,
    Reason,
    RepairName,
    Rule,
    Schedule,
    Signals,
    Step,
    TargetName,
    Verdict,
    register,
)
from sencache.policies.look import Look
from sencache.policies.senses import ForecastError, Sense

# Computed first: what follows stands on them, and on the misses that they reveal.
WARMUP = 3
# Weight of the newest miss in the factor between expected and revealed errors.
SHARE = 0.2
# A single miss says no more than this of how far the table is off.
LEAST, MOST = 0.1, 10.0


@register
@dataclass(frozen=True, config=STRICT)
class Control(Policy):
    """Error control, in the manner of step-size control for ODE solvers: our own method.

    A profile's table tells the relative error rho that a forecast of step i from the computed steps n is
    expected to have (`docs/replay.md`). Every computed step reveals the error e that each forecast on one,
    two or three nodes would have had there: the one that missed least of late serves next, and what it was
    off by, e / rho, averaged in logarithms, scales what is expected of it. Reuse while factor * rho <=
    `tolerance` and fewer than `max_reuses` in a row; with a `budget`, exactly that share of the steps is
    computed, and the tolerance is the one that spends what is left of it, set anew at every computed step.
    The reused steps are replayed once the next one is computed.

    With any other forecast, and so without a table, the rule of version 0.1: when step c is computed and e is
    its forecast's error, the error at t is predicted as `e * |t-t_c| |t-t_b| / (|t_c-t_b| |t_c-t_a|)` for
    nodes a, b, c and `linear`, a factor less for `hold`, one more for `taylor`; no budget. The first steps,
    three or as many as the forecast takes to know its error, and the last are computed.
    """

    name: ClassVar[str] = "control"
    summary: ClassVar[str] = (
        "forecasts by a table, expects its own error, corrects it by what computed steps reveal, and repairs"
    )
    senses: ClassVar[tuple[type[Sense], ...]] = (ForecastError,)
    words: ClassVar[Mapping[str, str]] = {"predicted_error": "predicted error"}
    knob: ClassVar[str | None] = "tolerance"
    look: ClassVar[Look | None] = Look("Control", "#bb4d2a", "#f59570")
    preselected: ClassVar[bool] = True

    budget: Fraction | None = None
    tolerance: NonNegative = 0.06
    max_reuses: AtLeastOne = 6
    target: TargetName = field(default="prediction", kw_only=True)
    forecast: ForecastName = field(default="hold", kw_only=True)
    repair: RepairName = field(default="replay", kw_only=True)

    @model_validator(mode="before")
    @classmethod
    def _fitted_where_there_is_a_table(cls, given: Any) -> Any:
        named = dict(given.kwargs or {}) if isinstance(given, ArgsKwargs) else {}
        if named.get("profile") is None or "forecast" in named:
            return given
        if named["profile"].forecast is not None:
            return ArgsKwargs(given.args, {**named, "forecast": "fitted"})
        del named["profile"]
        return ArgsKwargs(given.args, named)

    @classmethod
    def fits(cls, config: Mapping[str, Any]) -> bool:
        return bool(config.get("forecast", "fitted") == "fitted")

    @property
    def extrapolates(self) -> bool:
        """Always: also with `hold` the error is."""
        return True

    def check(self, steps: int) -> None:
        """Raises SencacheError for a budget without a table to plan it on."""
        super().check(steps)
        if self.budget is not None and not FORECASTS[self.forecast].several:
            raise SencacheError(
                f"control.budget needs forecast=fitted and a profile, not forecast={self.forecast}; "
                "leave it out, or calibrate this model"
            )

    def spread(self, steps: int, nfe: int, handovers: Collection[int] = ()) -> Policy | None:
        """A budget is kept exactly; the cap on reuses in a row gives way where it stands in between."""
        if not FORECASTS[self.forecast].several or nfe <= WARMUP:
            return None
        cap = math.ceil(1.5 * steps / nfe)
        return replace(self, budget=nfe / steps, max_reuses=max(self.max_reuses, cap))

    def _rule(self, schedule: Schedule) -> Rule:
        forecast = self.forecaster(schedule)
        return _Choosing(self, schedule, forecast) if forecast.several else _Single(self, forecast)


class _Choosing(Rule):
    def __init__(self, policy: Control, schedule: Schedule, forecast: Forecast) -> None:
        super().__init__()
        self.policy, self.forecast = policy, forecast
        self.steps = list(schedule)
        self.nodes: deque[Step] = deque(maxlen=forecast.order + 1)
        self.before: tuple[Step, ...] = ()
        self.factors = [0.0] * 3
        self.revealed: Signals = {}
        self.computed_steps = self.next = 0
        self.tolerance = policy.tolerance

    def reason_to_compute(self, step: Step) -> Reason | None:
        if len(self.nodes) < WARMUP:
            return "warmup"
        if step.index == step.total - 1:
            return "last_step"
        waits = self.policy.budget is not None and self._left(step.total) <= 1
        return "max_reuses" if self.reuses >= self.policy.max_reuses and not waits else None

    def judge(self, step: Step, signals: Signals) -> Verdict:
        if not self.reuses:
            self.revealed = signals
            self._learn([signals[f"miss_{k}"] for k in (1, 2, 3)])
            if self.policy.budget is not None:
                self._plan(step, int(signals["choice"]))
        error = self._error(int(self.revealed["choice"]), step.index)
        seen = {**self.revealed, "predicted_error": error}
        if self.policy.budget is not None:
            return Verdict(step.index < self.next, "scheduled", error, self.tolerance, seen)
        reuse = error <= self.tolerance
        return Verdict(reuse, "within_tolerance" if reuse else "above_tolerance", error, self.tolerance, seen)

    def _error(self, serving: int, index: int) -> float:
        return math.exp(self.factors[serving]) * self.forecast.error(
            serving, tuple(self.nodes), self.steps[index]
        )

    def _learn(self, misses: Sequence[float]) -> None:
        """How far the newest computed step was from what was expected of each forecast."""
        if len(self.before) < 2:
            return
        expected = [self.forecast.error(k, self.before, self.nodes[-1]) for k in range(3)]
        off = [
            math.log(max(miss, 1e-9) / max(error, 1e-9)) for miss, error in zip(misses, expected, strict=True)
        ]
        off = [min(max(value, math.log(LEAST)), math.log(MOST)) for value in off]
        self.factors = [(1 - SHARE) * a + SHARE * b for a, b in zip(self.factors, off, strict=True)]

    def _left(self, total: int) -> int:
        assert self.policy.budget is not None
        return round(self.policy.budget * total) - self.computed_steps

    def _plan(self, step: Step, serving: int) -> None:
        """The next step to compute, and the tolerance under which the budget is spent at the end."""
        left, last = self._left(step.total), step.total - 1
        low, high = 1e-4, 10.0
        found = (math.inf, 0.0, last)
        for _ in range(20):
            tolerance = math.sqrt(low * high)
            following = self._first(step.index, serving, tolerance)
            count = 1 + self._count(following, tolerance) if following < last else 1
            found = min(found, (abs(count - left), tolerance, following))
            if count == left:
                break
            low, high = (tolerance, high) if count > left else (low, tolerance)
        _, self.tolerance, following = found
        # No later than that the rest can be spent; if it pays for the last step alone, that one.
        self.next = min(following, last - left + 1) if left > 1 else last

    def _first(self, start: int, serving: int, tolerance: float) -> int:
        """The first step from `start` that is computed under `tolerance`."""
        cap = min(start + self.policy.max_reuses, len(self.steps) - 1)
        within = (index for index in range(start, cap) if self._error(serving, index) > tolerance)
        return next(within, cap)

    def _count(self, node: int, tolerance: float) -> int:
        """Steps computed after `node`, by the table alone, on two nodes."""
        nodes = deque([*self.nodes, self.steps[node]], maxlen=self.nodes.maxlen)
        count = 0
        for step in self.steps[node + 1 :]:
            reuses, last = step.index - nodes[-1].index - 1, step.index == len(self.steps) - 1
            error = self.forecast.error(1, tuple(nodes), step)
            if last or reuses >= self.policy.max_reuses or error > tolerance:
                nodes.append(step)
                count += 1
        return count

    def note_computed(self, step: Step) -> None:
        self.before = tuple(self.nodes)
        self.nodes.append(step)
        self.computed_steps += 1

    def forget(self) -> None:
        self.nodes.clear()


class _Single(Rule):
    """The rule of version 0.1, for a forecast that is no choice of several."""

    def __init__(self, policy: Control, forecast: Forecast) -> None:
        super().__init__()
        self.policy, self.forecast = policy, forecast
        self.order = forecast.order + 1
        self.nodes: deque[float] = deque(maxlen=self.order + 1)

    def reason_to_compute(self, step: Step) -> Reason | None:
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

    def note_computed(self, step: Step) -> None:
        self.nodes.append(self.forecast.position(step))

    def forget(self) -> None:
        self.nodes.clear()
