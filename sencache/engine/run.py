"""One generation under one policy: which step it is, what was decided, what is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from sencache.engine.cache import History
from sencache.engine.sensors import Scene, fetch
from sencache.errors import SencacheError
from sencache.forecasts import FORECASTS
from sencache.policies.base import Policy, Schedule, Step
from sencache.trace import Trace


class Observer(Protocol):
    """Something that watches a run without changing it. `signal` names what it wants to see of the
    network.
    """

    signal: str | None

    def observe(self, scene: Scene) -> None:
        """Called after the first call of every computed step."""


@dataclass
class Turn:
    """The step under way: the guidance branches called so far, and the decision that all of them share."""

    step: Step
    branches: set[str] = field(default_factory=set)
    reuse: bool = False


class Run:
    """State of one generation; made when the pipeline lays out its timesteps, dropped when it ends
    or fails.
    """

    def __init__(self, policy: Policy, schedule: Schedule, trace: Trace, observer: Observer | None) -> None:
        self.policy, self.schedule, self.trace, self.observer = policy, schedule, trace, observer
        self.rule = policy.start(schedule)
        self.sensors = [sense() for sense in policy.senses]
        self.turn: Turn | None = None
        self._histories: dict[tuple[int, str], History] = {}

    def enter(self, branch: str, index: int | None) -> Turn:
        """Note a call of `branch` and return its step. `index` is the pipeline's own count, where it gives
        one.
        """
        turn = self.turn
        last = turn.step.index if turn else -1
        if turn is None or branch in turn.branches or (index is not None and index != last):
            turn = self.turn = Turn(self._step(last + 1 if index is None else index))
        turn.branches.add(branch)
        return turn

    def _step(self, index: int) -> Step:
        if index >= len(self.schedule):
            raise SencacheError(
                f"the transformer was called for step {index} of a run of {len(self.schedule)}; "
                "attach covers pipeline calls only, detach before calling the transformer yourself"
            )
        return self.schedule.step(index)

    def history(self, module: int, branch: str) -> History:
        """What is kept of `branch` of one transformer."""
        key = (module, branch)
        if key not in self._histories:
            self._histories[key] = History(FORECASTS[self.policy.forecast])
        return self._histories[key]

    def decide(self, turn: Turn, scene: Scene, cached: Callable[[], bool]) -> None:
        """Take the step's one decision and put it on record. `cached` tells whether there is anything to
        reuse.
        """
        for sensor in self.sensors:
            sensor.arrive(scene)
        decision = self.rule.decide(turn.step, lambda: fetch(self.sensors), cached=cached())
        turn.reuse = decision.reuse
        self.trace.records.append(decision.record(turn.step, self.policy.cost(scene.blocks)))

    def computed(self, scene: Scene) -> None:
        """Let sensors and the observer see the first call of a computed step."""
        for sensor in self.sensors:
            sensor.computed(scene)
        if self.observer is not None:
            self.observer.observe(scene)

    def _measure(self) -> None:
        # What is kept only grows during a run, so its peak is what is there at the end.
        kept = [t for sensor in self.sensors for t in sensor.tensors() if t is not None]
        kept += [value for history in self._histories.values() for value in history]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
        self.trace.cache_bytes = max(self.trace.cache_bytes, sum(storages.values()))

    def release(self) -> None:
        """Free every tensor; the trace stays, and says how much memory there was to free."""
        self._measure()
        self.sensors.clear()
        self._histories.clear()
