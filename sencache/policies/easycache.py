"""EasyCache: reuse while the accumulated change of the output, predicted from the input's, is small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
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
    TargetName,
    Verdict,
    register,
)
from sencache.policies.look import Look
from sencache.policies.senses import OutputRate, Sense


@register
@dataclass(frozen=True, config=STRICT)
class EasyCache(Policy):
    """Runtime-adaptive caching (arXiv 2507.02860; H-EmbodVis/EasyCache).

    `E += k * mean|x_i - x_{i-1}| / mean|y_r|` with `k = mean|y_r - y_r'| / mean|x_r - x_r'|` from the last
    two computed steps; reuse while `E < threshold`, else compute and `E = 0`. The first `forced_first` and
    last `forced_last` steps are computed. What the authors reuse is `y - x`, hence target `delta`. Nothing to
    calibrate.
    """

    name: ClassVar[str] = "easycache"
    summary: ClassVar[str] = (
        "predicts the output's change from the latent's, with a rate learnt during the run"
    )
    senses: ClassVar[tuple[type[Sense], ...]] = (OutputRate,)
    words: ClassVar[Mapping[str, str]] = {"accumulated": "accumulated"}
    knob: ClassVar[str | None] = "threshold"
    look: ClassVar[Look | None] = Look("EasyCache", "#2867ad", "#6fb0f2")
    preselected: ClassVar[bool] = True

    threshold: NonNegative = 0.05
    forced_first: Count = 10
    forced_last: Count = 1
    target: TargetName = field(default="delta", kw_only=True)

    def _rule(self, schedule: Schedule) -> Rule:
        return _Rule(self)


class _Rule(Rule):
    def __init__(self, policy: EasyCache) -> None:
        super().__init__()
        self.policy = policy
        self.accumulated, self.runs = 0.0, 0

    def reason_to_compute(self, step: Step) -> Reason | None:
        if step.index < self.policy.forced_first or self.runs < 2:
            return "warmup"
        return "last_step" if step.index >= step.total - self.policy.forced_last else None

    def judge(self, step: Step, signals: Signals) -> Verdict:
        seen = {name: signals[name] for name in ("input_change", "output_norm", "rate")}
        self.accumulated += seen["rate"] * seen["input_change"] / seen["output_norm"]
        reuse = self.accumulated < self.policy.threshold
        seen["accumulated"] = self.accumulated
        reason: Reason = "within_tolerance" if reuse else "above_tolerance"
        return Verdict(reuse, reason, self.accumulated, self.policy.threshold, seen)

    def note_computed(self, step: Step) -> None:
        self.accumulated = 0.0
        self.runs += 1

    def forget(self) -> None:
        self.runs = 0
