"""Fixed schedules: every k-th step, or a list of steps fixed in advance."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from sencache.errors import SencacheError
from sencache.policies.base import (
    STRICT,
    AtLeastOne,
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
from sencache.repair import REPAIRS

StepIndex = Annotated[int, Field(ge=0, le=999)]


@register
@dataclass(frozen=True, config=STRICT)
class Fixed(Policy):
    """Compute the first `forced_first` steps and then every `interval`-th, or exactly the zero-based `steps`.

    The baseline that asks nothing of the model. `steps` also carries schedules found offline, such as those
    of LeMiCa (arXiv 2511.00090), which list the computed steps per model and budget. Step 0 is always
    computed.
    """

    name: ClassVar[str] = "fixed"
    summary: ClassVar[str] = "every k-th step, or a step list given in advance"
    look: ClassVar[Look | None] = Look("Fixed interval", "#9a6a0b", "#d9a84a")

    interval: AtLeastOne = 2
    forced_first: AtLeastOne = 1
    steps: tuple[StepIndex, ...] | None = None

    def spread(self, steps: int, nfe: int, handovers: Collection[int] = ()) -> Policy:
        """`nfe` steps: the first `forced_first`, the others at even distances over the rest, the nearest of
        them moved to every hand-over. Raises SencacheError when `forced_first` alone exceeds `nfe`.
        """
        first = self.forced_first
        if first > nfe:
            raise SencacheError(
                f"fixed.forced_first is {first}, more than the budget of {nfe} evaluations; "
                f"force at most {nfe} steps or raise the budget"
            )
        rest = nfe - first + 1
        free = {first - 1 + i * (steps - first + 1) // rest for i in range(1, rest)}
        due = set(handovers) - set(range(first))
        if REPAIRS[self.repair].closes:
            due |= {steps - 1}
        for step in sorted(due - free):
            free -= {min(free - due, key=lambda other: abs(other - step), default=step)}
        return replace(self, steps=tuple(sorted({*range(first), *free, *due})))

    def check(self, steps: int) -> None:
        """Raises SencacheError when the list names a step beyond the run's."""
        super().check(steps)
        beyond = [i for i in self.steps or () if i >= steps]
        if beyond:
            raise SencacheError(
                f"fixed.steps names step {beyond[0]}, but the run has steps 0 to {steps - 1}; "
                f"give a list made for {steps} steps"
            )

    def _rule(self, schedule: Schedule) -> Rule:
        self.check(len(schedule))
        return _Rule(self._computed_steps(len(schedule)))

    def _computed_steps(self, total: int) -> frozenset[int]:
        if self.steps is None:
            return frozenset((*range(self.forced_first), *range(self.forced_first - 1, total, self.interval)))
        return frozenset(self.steps)


class _Rule(Rule):
    def __init__(self, steps: frozenset[int]) -> None:
        super().__init__()
        self.steps = steps

    def reason_to_compute(self, step: Step) -> Reason | None:
        return "scheduled" if step.index in self.steps else None

    def judge(self, step: Step, signals: Signals) -> Verdict:
        return Verdict(True, "scheduled")
