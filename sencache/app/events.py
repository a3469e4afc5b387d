"""What the app's runs come to, one after another: the comparison's own events, and three of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sencache.comparison.events import Clocked, LaneDone, LaneStarted, LaneStopped, Started, StepDone
from sencache.comparison.report import Report
from sencache.profiles.profile import Profile


@dataclass(frozen=True)
class Waiting:
    """Nothing has happened for a moment."""


@dataclass(frozen=True)
class Failed(Clocked):
    message: str


@dataclass(frozen=True)
class Done(Clocked):
    """The run's end: `folder` holds report.json, one mp4 per lane, traces.csv and comparison.zip until the
    iterator ends. `profile` is the one that SenCache used, `snippets` are code by lane.
    """

    folder: Path
    report: Report
    profile: Profile | None
    snippets: dict[str, str]


Event = Started | LaneStarted | StepDone | LaneDone | LaneStopped | Waiting | Done
