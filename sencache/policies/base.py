"""What every method shares: one decision per step, taken from plain numbers.

A `Policy` is an immutable configuration; `Policy.start` makes a `Rule`, which holds the state of one run and
dies with it. Nothing here knows tensors, models or pipelines. The engine measures the signals that a policy
names in `senses`; a recorded trace can stand in for the engine, so every decision can be replayed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated

from sencache.errors import SencacheError
from sencache.forecasts import FORECASTS, Forecast, enter_forecast
from sencache.policies.look import Look
from sencache.policies.senses import Sense
from sencache.policies.steps import Schedule, Signals, Step
from sencache.policies.targets import TARGETS, Target, enter_target
from sencache.profiles.profile import Profile
from sencache.registry import NameOf, Registry
from sencache.repair import REPAIRS, Repair, enter_repair
from sencache.trace import Reason, StepRecord

# Reasons to compute that a setting gives, whatever the signals say.
FORCED: frozenset[Reason] = frozenset({"first_step", "warmup", "last_step"})

TargetName = Annotated[str, NameOf(TARGETS)]
ForecastName = Annotated[str, NameOf(FORECASTS)]
RepairName = Annotated[str, NameOf(REPAIRS)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=1000)]
AtLeastOne = Annotated[int, Field(ge=1, le=1000)]

STRICT = ConfigDict(extra="forbid")


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

    def record(self, step: Step, cost: float = 0.0) -> StepRecord:
        """The record of this decision at `step`, nothing measured yet; a reuse costs the share `cost`."""
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
            cost=(cost or None) if self.reuse else None,
        )


class Rule(ABC):
    """The state of one method in one run. Call `decide` once per step, in order. `closes`: the last step is
    computed in any case, as a repair may ask for.
    """

    closes = False

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
            reason = self._reason(step)
            verdict = Verdict(False, reason) if reason else self.judge(step, read())
        return self._settle(step, verdict)

    def _settle(self, step: Step, verdict: Verdict) -> Decision:
        reference = self.reference
        self.reuses = self.reuses + 1 if verdict.reuse else 0
        if not verdict.reuse:
            self.note_computed(step)
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

    def _reason(self, step: Step) -> Reason | None:
        reason = self.reason_to_compute(step)
        return "last_step" if reason is None and self.closes and step.index == step.total - 1 else reason

    def reason_to_compute(self, step: Step) -> Reason | None:
        """Why `step` must be computed whatever the signals say, or None. Host-only: nothing is measured for
        it.
        """
        return None

    def count_forced(self, schedule: Schedule) -> int:
        """How many steps of `schedule` are computed whatever is measured. Uses the rule up."""
        count = 0
        for step in schedule:
            reason = self._reason(step) if self.reference else "first_step"
            if reason in FORCED:
                self._settle(step, Verdict(False, reason))
                count += 1
        return count

    @abstractmethod
    def judge(self, step: Step, signals: Signals) -> Verdict:
        """The method's own rule, for a step that may be reused."""

    def note_computed(self, step: Step) -> None:
        """Called when `step` is going to be computed; `self.reference` is still the one before."""

    def forget(self) -> None:
        """Drop what was learnt from steps whose results are gone."""


@validated(frozen=True, config=STRICT)
class Policy(ABC):
    """WHEN to reuse (the subclass), WHAT (`target`) and HOW (`forecast`), and what is done about it once more
    is known (`repair`), as one immutable value.

    `target`: `residual` (block-stack output minus input), `tail` (the same without the first block, which
    runs at every step), `output` (the network's output), `delta` (network output minus its latent input) or
    `prediction` (what the sampler gets, of all guidance branches together).
    `forecast`: `hold` the last computed value, or extrapolate it from the last two in t (`linear`), from the
    last three in steps (`taylor`), or as a profile's table says (`fitted`). `repair`: `none`, or `replay` the
    sampler over the reused steps once the next one is computed. Out-of-range values raise pydantic's
    ValidationError, a ValueError.

    A subclass says: `name`; a one-line `summary`; the `senses` its rule reads; the `words` for what it
    derives from them; the `knob` that a budget turns; the `architectures` it serves, where that is not all;
    its `look`; whether a first run takes it unasked (`preselected`).
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    senses: ClassVar[tuple[type[Sense], ...]] = ()
    words: ClassVar[Mapping[str, str]] = {}
    architectures: ClassVar[tuple[str, ...]] = ()
    caches: ClassVar[bool] = True
    knob: ClassVar[str | None] = None
    look: ClassVar[Look | None] = None
    preselected: ClassVar[bool] = False

    target: TargetName = field(default="residual", kw_only=True)
    forecast: ForecastName = field(default="hold", kw_only=True)
    repair: RepairName = field(default="none", kw_only=True)
    # By a factory: a default would be an attribute, which a subclass that requires a profile would inherit.
    profile: Profile | None = field(default_factory=lambda: None, kw_only=True)

    @property
    def signal(self) -> str | None:
        """Which tensor of the network `relative_l1` is measured on; None for policies that do not look
        inside.
        """
        return None

    @property
    def looks_inside(self) -> bool:
        """Whether anything within the network is watched or reused, so that it must be known."""
        watches = self.signal is not None or any(sense.first_block for sense in self.senses)
        return watches or not self.caches or not TARGETS[self.target].guided

    @property
    def extrapolates(self) -> bool:
        """Whether distances between computed steps are divided by, so that they must not be zero."""
        return FORECASTS[self.forecast].order > 0

    def cost(self, blocks: int) -> float:
        """Share of the `blocks` that a reused step runs."""
        runs = TARGETS[self.target].first_block or any(sense.first_block for sense in self.senses)
        return 1 / blocks if runs else 0.0

    @classmethod
    def fits(cls, config: Mapping[str, Any]) -> bool:
        """Whether the method with the settings `config` takes its forecasts from a profile's table."""
        default = next(str(field.default) for field in fields(cls) if field.name == "forecast")
        chosen = FORECASTS.get(config.get("forecast", default))
        return chosen is not None and chosen.fits

    @classmethod
    def wants_profile(cls, config: Mapping[str, Any]) -> bool:
        """Whether the method with the settings `config` has a use for a profile."""
        return cls.needs_profile() or cls.fits(config)

    @classmethod
    def needs_profile(cls) -> bool:
        """Whether there is no such policy without a profile."""
        return next(field.default_factory is MISSING for field in fields(cls) if field.name == "profile")

    @classmethod
    def serves(cls, architecture: str) -> bool:
        """Whether the method can be used on transformers of that architecture."""
        return not cls.architectures or architecture in cls.architectures

    def require(self, architecture: str) -> None:
        """Raise SencacheError where the method does not serve `architecture`."""
        if not self.serves(architecture):
            raise SencacheError(
                f"{self.name} cannot serve {architecture} (it serves {', '.join(self.architectures)}); "
                "choose another method"
            )

    def start(self, schedule: Schedule) -> Rule:
        """The rule for one run over `schedule`; raises SencacheError where the method cannot be
        applied to it.
        """
        at = FORECASTS[self.forecast].position
        if self.extrapolates and len({at(step) for step in schedule}) < len(schedule):
            raise SencacheError(
                f"{self.name} with forecast={self.forecast} cannot extrapolate in t because the scheduler "
                "repeats timesteps; use a scheduler that visits each once, or another method that holds"
            )
        self.forecaster(schedule)
        rule = self._rule(schedule)
        rule.closes = REPAIRS[self.repair].closes
        return rule

    def forecaster(self, schedule: Schedule) -> Forecast:
        """How a value is forecast in a run over `schedule`; raises SencacheError where a fitted one has no
        table that serves it.
        """
        forecast = FORECASTS[self.forecast]
        if not forecast.fits:
            return forecast
        self.check(len(schedule))
        assert self.profile is not None
        return forecast.fitted_to(self.profile.gram(schedule.timesteps, schedule.sigmas))

    @abstractmethod
    def _rule(self, schedule: Schedule) -> Rule: ...

    def check(self, steps: int) -> None:
        """Raise SencacheError where the policy cannot serve a run of `steps`; costs nothing, asked before a
        model runs.
        """
        if FORECASTS[self.forecast].fits and (self.profile is None or self.profile.forecast is None):
            raise SencacheError(
                f"{self.name} with forecast={self.forecast} needs a profile with a table of the model's "
                "predictions; calibrate this model, or choose another forecast"
            )

    def spread(self, steps: int, nfe: int, handovers: Collection[int] = ()) -> Policy | None:
        """The configuration that computes exactly `nfe` of `steps`, where the method can be told so
        outright. At `handovers` another transformer takes over, which computes in any case.
        """
        return None

    def config(self) -> dict[str, Any]:
        """Every setting but the profile, as plain JSON data."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "profile"}


METHODS: Registry[type[Policy]] = Registry("method")
Point = TypeVar("Point", bound=type[Any])


def register(cls: Point) -> Point:
    """Make the subclass of Policy, Forecast, Target or Repair known by its name, everywhere; a decorator.

    Raises SencacheError where it does not say what such a class must.
    """
    if issubclass(cls, Forecast):
        enter_forecast(cls)
    elif issubclass(cls, Target):
        enter_target(cls)
    elif issubclass(cls, Repair):
        enter_repair(cls)
    elif isinstance(cls, type) and issubclass(cls, Policy):
        _check_method(cls)
        METHODS.enter(cls.name, cls)
    else:
        raise SencacheError(f"{cls!r} is no Policy, Forecast, Target or Repair; derive it from one of them")
    return cls


def _check_method(cls: type[Policy]) -> None:
    name = getattr(cls, "name", cls.__name__)
    own = vars(cls).get("__dataclass_fields__")
    if own is None or not is_dataclass(cls):
        raise SencacheError(
            f"the method {name!r} is no dataclass; decorate it with @dataclass(frozen=True, config=STRICT)"
        )
    if cls.knob is not None and cls.knob not in own:
        raise SencacheError(f"the knob {cls.knob!r} of the method {name!r} is none of its settings; name one")
    for sense in cls.senses:
        if not (isinstance(sense, type) and issubclass(sense, Sense)):
            raise SencacheError(f"{sense!r}, which {name!r} reads, is no Sense; derive it from Sense")
    TARGETS.find(own["target"].default)
    FORECASTS.find(own["forecast"].default)


def watch_list(method: type[Policy]) -> set[tuple[type[Sense], str]]:
    """What a full run must be recorded for: each sense, and the target that the method reuses by default."""
    target = str(next(f.default for f in fields(method) if f.name == "target"))
    return {(sense, target) for sense in method.senses}
