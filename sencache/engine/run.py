"""One generation under one policy: which step it is, what was decided, what is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch

from sencache.engine.cache import History
from sencache.engine.step import StepState
from sencache.errors import SencacheError
from sencache.policies.base import Policy, Schedule, Step
from sencache.policies.senses import Sense
from sencache.policies.targets import TARGETS
from sencache.repair import REPAIRS, NoRepair, SamplerStep
from sencache.trace import Trace

# The prompt and the negative prompt; what a pipeline calls beyond them may differ from step to step.
MAX_BRANCHES = 2
# In place of a branch: what all of them come to.
GUIDED = -1


class Observer(Protocol):
    """Something that watches a run without changing it. `signal` names what it wants to see of the
    network.
    """

    signal: str | None

    def observe(self, state: StepState) -> None:
        """Called after the first call of every computed step."""

    def note_prediction(self, step: Step, call: SamplerStep) -> None:
        """Called before the sampler takes a computed step, with what it gets."""


class Run:
    """State of one generation; made when the pipeline lays out its timesteps, dropped when it ends
    or fails.

    A step begins with the first transformer call after `scheduler.step`. The calls until the next one are its
    guidance branches, in the pipeline's order, and share its decision. `first` is the place of step 0 in the
    scheduler's timesteps.
    """

    def __init__(
        self, policy: Policy, schedule: Schedule, first: int, trace: Trace, observer: Observer | None
    ) -> None:
        self.policy, self.schedule, self.first = policy, schedule, first
        self.trace, self.observer = trace, observer
        self.rule = policy.start(schedule)
        self.target = TARGETS[policy.target]
        self.forecast = policy.forecaster(schedule)
        self.repair = REPAIRS[policy.repair](self.forecast)
        self.transformer = 0
        self.senses = [sense() for sense in policy.senses]
        self.step: Step | None = None
        self.branches = self.branches_before = 0
        self.reuse = self.over = False
        self._histories: dict[tuple[int, int], History] = {}

    def enter(self, place: int | None, transformer: int) -> tuple[Step, int]:
        """Note a call of one transformer at this place of the schedule, where it is known; return its step
        and its branch.
        """
        self.transformer = transformer
        if self.step is None or not self.branches:
            self.step = self._next(place)
        self.branches += 1
        if self.branches > MAX_BRANCHES:
            raise SencacheError(
                f"the transformer was called {self.branches} times in step {self.step.index} before the "
                f"pipeline's scheduler took it; {MAX_BRANCHES} guidance branches can be cached: "
                "run this pipeline without a cache"
            )
        return self.step, self.branches - 1

    def _next(self, place: int | None) -> Step:
        last = -1 if self.step is None else self.step.index
        index = last + 1 if place is None else place - self.first
        if self.over or not last < index < len(self.schedule):
            raise SencacheError(
                f"the transformer was called for step {index} after step {last} of a run of "
                f"{len(self.schedule)}; attach covers pipeline calls only, detach before calling the "
                "transformer yourself"
            )
        return self.schedule.step(index)

    def take(self, call: SamplerStep, place: int | None) -> Any:
        """The sampler's step, at this place of its schedule where that is known. After the last the run is
        over: its tensors are freed before the pipeline decodes.
        """
        if self.step is None or not self.branches:
            return call.take()
        if place is not None and place - self.first != self.step.index:
            raise SencacheError(
                f"the scheduler took step {place - self.first} where the transformer was called for step "
                f"{self.step.index}; run this pipeline without a cache"
            )
        result = self._take_reused(self.step, call) if self.reuse else self._take_computed(self.step, call)
        self.branches_before, self.branches = self.branches, 0
        if self.step.index == len(self.schedule) - 1:
            self.release()
        return result

    @property
    def guided(self) -> History:
        """What is kept of the guided predictions that this transformer made."""
        return self.history(self.transformer, GUIDED)

    def _take_reused(self, step: Step, call: SamplerStep) -> Any:
        if self.target.guided:
            call = call.using(model_output=self.guided.forecast(step))
        return self.repair.take_reused(step, call)

    def _take_computed(self, step: Step, call: SamplerStep) -> Any:
        if self.repair.grows:
            self._measure()
        self._forget_branches()
        if self.observer is not None:
            self.observer.note_prediction(step, call)
        if self.target.guided:
            for sense in self.senses:
                sense.note_prediction(step, call.prediction, self.guided)
            self.guided.put(step, call.prediction)
        result, correction = self.repair.take_computed(step, call)
        if correction is not None:
            self.trace.owe(correction)
        return result

    def _forget_branches(self) -> None:
        # What a branch left that this computed step did not call is too old to be reused.
        old = [key for key in self._histories if key[1] >= self.branches]
        if old:
            self._measure()
        for key in old:
            del self._histories[key]

    def history(self, transformer: int, branch: int) -> History:
        """What is kept of `branch` of one transformer."""
        key = (transformer, branch)
        if key not in self._histories:
            self._histories[key] = History(self.forecast)
        return self._histories[key]

    def decide(self, state: StepState, cached: Callable[[], bool]) -> None:
        """Take the step's one decision and put it on record. `cached` tells whether there is anything to
        reuse.
        """
        for sense in self.senses:
            sense.arrive(state)
        decision = self.rule.decide(state.step, lambda: _fetch(self.senses), cached=cached())
        self.reuse = decision.reuse
        if decision.reason == "no_cache":
            self.repair.forget()
        self.trace.add(decision.record(state.step, self.policy.cost(state.blocks)))

    def note_computed(self, state: StepState) -> None:
        """Let senses and the observer see the first call of a computed step."""
        for sense in self.senses:
            sense.note_computed(state)
        if self.observer is not None:
            self.observer.observe(state)

    def _measure(self) -> None:
        kept = [t for sense in self.senses for t in sense.tensors() if t is not None]
        kept += [value for history in self._histories.values() for value in history]
        kept += self.repair.tensors()
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
        self.trace.cache_bytes = max(self.trace.cache_bytes, sum(storages.values()))

    def release(self) -> None:
        """Free every tensor; the trace stays, and says how much memory there was to free: its peak, as what
        is kept only grows until something is forgotten.
        """
        self._measure()
        self.over = True
        self.senses.clear()
        self._histories.clear()
        self.repair = NoRepair(self.forecast)


def _fetch(senses: Iterable[Sense]) -> dict[str, float]:
    """The signals of all `senses` as Python floats, in one transfer from the device."""
    found = {name: value for sense in senses for name, value in sense.values().items()}
    if len(found) <= 1:
        return {name: value.item() for name, value in found.items()}
    return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))
