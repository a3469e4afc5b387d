"""The full run: every step computed."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from sencache.policies.base import STRICT, Policy, Reason, Rule, Schedule, Signals, Step, Verdict, register
from sencache.policies.look import Look


@register
@dataclass(frozen=True, config=STRICT)
class Full(Policy):
    """Compute every step: the run that all others are compared with."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "every step computed: the reference"
    caches: ClassVar[bool] = False
    look: ClassVar[Look | None] = Look("Full run", "#445163", "#c3ccd8")

    def _rule(self, schedule: Schedule) -> Rule:
        return _Always()


class _Always(Rule):
    def reason_to_compute(self, step: Step) -> Reason:
        return "forced"

    def judge(self, step: Step, signals: Signals) -> Verdict:
        return Verdict(False, "forced")
