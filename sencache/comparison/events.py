"""What a comparison tells as it goes on, and the report that its events add up to at any time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sencache.comparison.report import Lane, Report, Unfinished
from sencache.trace import StepRecord

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Clocked:
    """`seconds` since whoever runs the comparison began with it, where that is noted."""

    seconds: float = 0.0


@dataclass(frozen=True)
class Started(Clocked):
    """The comparison begins; `report` has every lane still among the unfinished, in the order in which they
    are shown, the full run first.
    """

    report: Report

    @property
    def lanes(self) -> tuple[str, ...]:
        report = self.report
        return (*(lane.name for lane in report.lanes), *(one.name for one in report.unfinished))


@dataclass(frozen=True)
class LaneStarted(Clocked):
    lane: str
    method: str
    config: dict[str, Any]
    steps: int


@dataclass(frozen=True)
class StepDone(Clocked):
    lane: str
    record: StepRecord


@dataclass(frozen=True)
class LaneDone(Clocked):
    """A lane has ended and was measured against the full run, which always ends first; `frames` are
    [T, H, W, 3], and none once they were saved: they are large, and nobody else needs them.
    """

    lane: Lane
    frames: Pixels = field(default_factory=lambda: np.empty((0, 0, 0, 3), np.uint8), compare=False)


@dataclass(frozen=True)
class LaneStopped(Clocked):
    """A lane that does not go on, as its time would be missing elsewhere; it may not even have begun."""

    lane: str
    why: str


@dataclass(frozen=True)
class Compared(Clocked):
    """The whole comparison, always the last event."""

    report: Report


Event = Started | LaneStarted | StepDone | LaneDone | LaneStopped | Compared


class Ledger:
    """Follows the events of one comparison; `done` are its lanes so far, `taken` the steps of each."""

    def __init__(self) -> None:
        self.done: dict[str, Lane] = {}
        self.taken: Counter[str] = Counter()
        self._begun: Report | None = None
        self._open: dict[str, Unfinished] = {}

    def take(self, event: Event) -> None:
        match event:
            case Started(report=report):
                self._begun, self._open = report, {one.name: one for one in report.unfinished}
            case LaneStarted(lane=name, steps=steps):
                self._open[name] = self._open[name].model_copy(update={"steps": steps})
            case StepDone(lane=name):
                self.taken[name] += 1
            case LaneStopped(lane=name, why=why):
                self._open[name] = self._open[name].model_copy(update={"why": why})
            case LaneDone(lane=lane):
                self.done[lane.name] = lane

    def report(self) -> Report:
        """The sealed report of all lanes so far, in the order in which they are shown."""
        assert self._begun is not None
        lanes = tuple(self.done[name] for name in self._open if name in self.done)
        unfinished = tuple(
            one.model_copy(update={"taken": self.taken[name]})
            for name, one in self._open.items()
            if name not in self.done
        )
        return self._begun.model_copy(update={"lanes": lanes, "unfinished": unfinished}).seal()
