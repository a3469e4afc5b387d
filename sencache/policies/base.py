"""What every method shares: one decision per step, taken from plain numbers.

A `Policy` is an immutable configuration; `Policy.start` makes a `Rule`, which holds the state of one run and
dies with it. Nothing here knows tensors, models or pipelines. The engine measures the signals that a policy
names in `senses`; a recorded trace can stand in for the engine, so every decision can be replayed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated

from sencache.errors import SencacheError
from sencache.trace import Reason, StepRecord

Target = Literal["residual", "output", "delta"]
Forecast = Literal["hold", "linear"]
# Reasons to compute that a setting gives, whatever the signals say.
FORCED: frozenset[Reason] = frozenset({"first_step", "warmup", "last_step"})
Sense = Literal["dx_rms", "relative_l1", "output_rate", "forecast_error"]
Signals = Mapping[str, float]

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=1000)]
AtLeastOne = Annotated[int, Field(ge=1, le=1000)]

STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Step:
    """One iteration of the sampler: `index` of `total`, its timestep on 0..1000 and, where the scheduler has
    one, its sigma.
    """

    index: int
    total: int
    timestep: float
    sigma: float | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """The steps of one run, as the pipeline's scheduler laid them out."""

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.timesteps)

    def __iter__(self) -> Iterator[Step]:
        return (self.step(i) for i in range(len(self)))

    def step(self, index: int) -> Step:
        """The step at `index`; raises IndexError past the end."""
        sigma = self.sigmas[index] if self.sigmas is not None else None
        return Step(index, len(self), self.timesteps[index], sigma)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule says of one step: reuse or not, why, and the score it held against a tolerance."""

    reuse: bool
    reason: Reason
    score: float | None = None
    tolerance: float | None = None
    signals: Signals = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision(Verdict):
    """A verdict with its place in the run: the last computed step before it, and how many reuses in a row it
    makes.
    """

    reference_step: int | None = None
    reuses: int = 0

    def record(self, step: Step) -> StepRecord:
        """The record of this decision at `step`, nothing measured yet."""
        return StepRecord(
            step=step.index,
            timestep=step.timestep,
            sigma=step.sigma,
            decision="reuse" if self.reuse else "compute",
            reason=self.reason,
            score=self.score,
            tolerance=self.tolerance,
            reference_step=self.reference_step,
            reuses=self.reuses,
            signals=dict(self.signals),
        )


class Rule(ABC):
    """The state of one method in one run. Call `decide` once per step, in order."""

    def __init__(self) -> None:
        self.reference: Step | None = None
        self.reuses = 0

    def decide(self, step: Step, read: Callable[[], Signals], *, cached: bool = True) -> Decision:
        """Compute or reuse `step`.

        `read` measures the signals; it is called at most once, and only where reuse is possible. `cached` is
        False when there is nothing to reuse (another transformer took over, the shape changed): the step is
        computed and the rule starts afresh from it.
        """
        if not cached and self.reference is not None:
            self.forget()
            verdict = Verdict(False, "no_cache")
        elif self.reference is None:
            verdict = Verdict(False, "first_step")
        else:
            reason = self.required(step)
            verdict = Verdict(False, reason) if reason else self.judge(step, read())
        return self._settle(step, verdict)

    def _settle(self, step: Step, verdict: Verdict) -> Decision:
        reference = self.reference
        self.reuses = self.reuses + 1 if verdict.reuse else 0
        if not verdict.reuse:
            self.computed(step)
            self.reference = step
        return Decision(
            verdict.reuse,
            verdict.reason,
            verdict.score,
            verdict.tolerance,
            verdict.signals,
            reference.index if reference else None,
            self.reuses,
        )

    def required(self, step: Step) -> Reason | None:
        """Why `step` must be computed whatever the signals say, or None. Host-only: nothing is measured for
        it.
        """
        return None

    def forced(self, schedule: Schedule) -> int:
        """How many steps of `schedule` are computed whatever is measured. Uses the rule up."""
        count = 0
        for step in schedule:
            reason = self.required(step) if self.reference else "first_step"
            if reason in FORCED:
                self._settle(step, Verdict(False, reason))
                count += 1
        return count

    @abstractmethod
    def judge(self, step: Step, signals: Signals) -> Verdict:
        """The method's own rule, for a step that may be reused."""

    def computed(self, step: Step) -> None:
        """Called when `step` is going to be computed; `self.reference` is still the one before."""

    def forget(self) -> None:
        """Drop what was learnt from steps whose results are gone."""


@validated(frozen=True, config=STRICT)
class Policy(ABC):
    """WHEN to reuse (the subclass), WHAT (`target`) and HOW (`forecast`), as one immutable value.

    `target`: `residual` (block-stack output minus input), `output` (the network's output) or `delta` (network
    output minus its latent input). `forecast`: `hold` the last computed value, or extrapolate it in t from
    the last two (`linear`). Out-of-range values raise pydantic's ValidationError, a ValueError.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    senses: ClassVar[tuple[Sense, ...]] = ()
    caches: ClassVar[bool] = True
    knob: ClassVar[str | None] = None

    target: Target = field(default="residual", kw_only=True)
    forecast: Forecast = field(default="hold", kw_only=True)

    @property
    def signal(self) -> str | None:
        """Which tensor of the network `relative_l1` is measured on; None for policies that do not look
        inside.
        """
        return None

    @property
    def extrapolates(self) -> bool:
        """Whether distances in t between computed steps are divided by, so that they must not be zero."""
        return self.forecast == "linear"

    def start(self, schedule: Schedule) -> Rule:
        """The rule for one run over `schedule`; raises SencacheError where the method cannot be
        applied to it.
        """
        if self.extrapolates and len(set(schedule.timesteps)) < len(schedule):
            raise SencacheError(
                f"{self.name} with forecast={self.forecast} cannot extrapolate in t because the scheduler "
                "repeats timesteps; use a scheduler that visits each once, or another method that holds"
            )
        return self._rule(schedule)

    @abstractmethod
    def _rule(self, schedule: Schedule) -> Rule: ...

    def check(self, steps: int) -> None:
        """Raise SencacheError where the policy cannot serve a run of `steps`; costs nothing, asked before a
        model runs.
        """

    def spread(self, steps: int, nfe: int, handovers: Collection[int] = ()) -> Policy | None:
        """The configuration that computes exactly `nfe` of `steps`, where the method can be told so
        outright. At `handovers` another transformer takes over, which computes in any case.
        """
        return None

    def config(self) -> dict[str, Any]:
        """Every setting but the profile, as plain JSON data."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "profile"}
