"""How long a comparison is going to take: as the last one did, and before that by written figures."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

from sencache.ask import Understood
from sencache.plan import FEWER_STEPS, REFERENCE, LaneSpec
from sencache.report import Report

# ZeroGPU books this many seconds of quota per second reserved on the half card that it lends by default.
ZEROGPU_FACTOR = 1.5
ZEROGPU_LONGEST = 120
RESERVE = 1.3
OVERHEAD_SECONDS = 4.0
# Of all steps, where no budget is given: what the presets were calibrated to.
USUAL_SHARE = {"fast": 0.42, "slow": 0.5, None: 0.5}


@dataclass(frozen=True)
class Pace:
    """Seconds of one computed step, of one reused step, and per lane of everything else, at a given volume.

    `voxels` is height x width x frames; all three figures are taken to grow in proportion to it.
    """

    computed: float
    reused: float
    rest: float
    voxels: int
    measured: bool


# By (model, device type): medians on two cores of an AMD EPYC, one of them free.
FIRST = {("tiny-wan", "cpu"): Pace(0.022, 0.0025, 0.6, 64 * 64 * 17, False)}
SLOWEST = Pace(0.5, 0.05, 5.0, 64 * 64 * 17, False)


@dataclass(frozen=True)
class Estimate:
    """Seconds of the whole comparison, whether they rest on a run of this process, and the seconds of GPU
    that are reserved for it and booked on the visitor's quota.
    """

    seconds: float
    measured: bool
    reserved: int
    booked: int


class Paces:
    """What the runs of this process taught, by model and device."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], Pace] = {}

    def estimate(self, asked: Understood, device: str) -> Estimate:
        """The time that `asked` is going to take on a device of type `device`."""
        key = (asked.spec.key, device)
        with self._lock:
            pace = self._known.get(key) or FIRST.get(key, SLOWEST)
        seconds = _seconds(asked, pace)
        reserved = min(ZEROGPU_LONGEST, math.ceil(RESERVE * seconds + OVERHEAD_SECONDS))
        return Estimate(seconds, pace.measured, reserved, math.ceil(reserved * ZEROGPU_FACTOR))

    def learn(self, report: Report, seconds: float) -> None:
        """Take the pace of the comparison that `report` tells of; it took `seconds` in all."""
        steps = {kind: _times(report, kind) for kind in ("compute", "reuse")}
        if not steps["compute"]:
            return
        computed = sum(steps["compute"]) / len(steps["compute"])
        reused = sum(steps["reuse"]) / len(steps["reuse"]) if steps["reuse"] else computed / 10
        rest = max(seconds - sum(map(sum, steps.values())), 0.0) / len(report.lanes)
        request = report.request
        pace = Pace(computed, reused, rest, request.height * request.width * request.frames, True)
        with self._lock:
            self._known[report.model.key, report.model.device.partition(":")[0]] = pace


def _times(report: Report, decision: str) -> list[float]:
    records = (record for lane in report.lanes for record in lane.trace)
    return [record.seconds for record in records if record.decision == decision and record.seconds]


def _seconds(asked: Understood, pace: Pace) -> float:
    request = asked.request
    volume = request.height * request.width * request.frames / pace.voxels
    return volume * sum(_lane_seconds(asked, lane, pace) for lane in asked.lanes)


def _lane_seconds(asked: Understood, lane: LaneSpec, pace: Pace) -> float:
    steps = asked.request.steps
    computed = steps if lane.method == REFERENCE else _computed(asked)
    reused = 0 if lane.method == FEWER_STEPS else steps - computed
    return computed * pace.computed + reused * pace.reused + pace.rest


def _computed(asked: Understood) -> float:
    request = asked.request
    return request.nfe or request.steps * USUAL_SHARE.get(request.preset, 0.5)
