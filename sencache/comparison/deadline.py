"""Which lanes are stopped so that the others come to their end in time: arithmetic on measured seconds.

From the first to go: caching lanes from the last one listed upwards, then fewer-steps, then the first of
SenCache. The full run never goes, as all others are held against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from sencache.comparison.plan import FEWER_STEPS, REFERENCE, LaneSpec, Planned
from sencache.errors import SencacheError
from sencache.trace import StepRecord

# Computed steps before which nothing is concluded: the first ones of a run may be slow.
ENOUGH = 3


@dataclass(frozen=True)
class Deadline:
    """When a comparison must have ended: `at`, by time.monotonic. `ending` is how many seconds a lane is
    expected to take after its last step, to decode and be measured, until one has been timed.
    """

    at: float
    ending: float


@dataclass(frozen=True)
class Work:
    """What a lane has still to do before it ends: steps to compute, and steps to reuse."""

    lane: LaneSpec
    computed: float
    reused: float = 0.0


def work_left(planned: Planned, records: Sequence[StepRecord], nfe: int | None) -> Work:
    """Of a lane with `records` so far: as the budget `nfe` says, else by the share that it computed since the
    first reuse, as methods begin by computing; by Laplace's rule of succession, so one half before that.
    """
    left = planned.steps - len(records)
    if not planned.policy.caches:
        return Work(planned.spec, left)
    if nfe is not None:
        computed: float = min(left, max(0, nfe - _count_computed(records)))
    else:
        first = next((r.step for r in records if r.decision == "reuse"), len(records))
        computed = left * (_count_computed(records[first:]) + 1) / (len(records) - first + 2)
    return Work(planned.spec, computed, left - computed)


def _count_computed(records: Sequence[StepRecord]) -> int:
    return sum(record.decision == "compute" for record in records)


class Pace:
    """What steps and lanes' ends have taken so far; `ending` stands in for the latter until one is known."""

    def __init__(self, ending: float) -> None:
        self._ending = ending
        self._endings: list[float] = []
        self._steps: dict[str, list[float]] = {"compute": [], "reuse": []}

    def step(self, record: StepRecord) -> None:
        self._steps[record.decision].append(record.seconds or 0.0)

    def end(self, seconds: float) -> None:
        """A lane has taken `seconds` after its last step."""
        self._endings.append(seconds)

    @property
    def known(self) -> bool:
        return len(self._steps["compute"]) >= ENOUGH

    def seconds(self, work: Work) -> float:
        """That `work` is going to take, its lane's end included; by medians, against single slow steps."""
        computed, reused = (median(self._steps[kind] or [0.0]) for kind in ("compute", "reuse"))
        return work.computed * computed + work.reused * reused + median(self._endings or [self._ending])


def stops(works: Sequence[Work], pace: Pace, left: float) -> list[tuple[str, str]]:
    """The lanes to stop, each with the reason in words, for the others to end within `left` seconds.

    Raises SencacheError where that is not enough for the full run alone.
    """
    kept = [(work.lane, pace.seconds(work)) for work in by_importance(works)]
    why = f"{max(left, 0):.0f} s were left for about {sum(seconds for _, seconds in kept):.0f} s of work"
    stopped = []
    while kept and sum(seconds for _, seconds in kept) > left:
        lane, seconds = kept.pop()
        if lane.method == REFERENCE:
            raise SencacheError(
                f"the full run alone needs about {seconds:.0f} s more, and {max(left, 0):.0f} s are left; "
                "choose fewer steps, fewer frames or a smaller size"
            )
        stopped.append((lane.name, why))
    return stopped


def by_importance(works: Sequence[Work]) -> list[Work]:
    """The most important lane first."""
    sencache = next((work.lane for work in works if work.lane.method == "sencache"), None)
    ranks = {REFERENCE: 0, FEWER_STEPS: 2}
    return sorted(works, key=lambda work: 1 if work.lane is sencache else ranks.get(work.lane.method, 3))
