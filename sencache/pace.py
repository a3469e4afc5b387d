"""How long a comparison is going to take: as the last one did, and before that by written figures."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

from sencache.ask import Understood
from sencache.plan import FEWER_STEPS, REFERENCE, LaneSpec
from sencache.report import Report
from sencache.schema import Request

# ZeroGPU books this many seconds of quota per second reserved on the half card that it lends by default.
ZEROGPU_FACTOR = 1.5
ZEROGPU_LONGEST = 120
RESERVE = 1.3
OVERHEAD_SECONDS = 4.0
# Of all steps, where no budget is given: what the presets were calibrated to.
USUAL_SHARE = {"fast": 0.42, "slow": 0.5, None: 0.5}


@dataclass(frozen=True)
class Cost:
    """Seconds of something: `fixed`, and `per_voxel` for each of height x width x frames."""

    fixed: float
    per_voxel: float

    def at(self, voxels: int) -> float:
        """Seconds for a video of `voxels`."""
        return self.fixed + self.per_voxel * voxels


@dataclass(frozen=True)
class Figures:
    """What one computed step costs, one reused step, and the rest of a lane: decode, measure, encode."""

    computed: Cost
    reused: Cost
    rest: Cost


# By (model, device type), measured on one core of an AMD EPYC; how far a machine is from that is learnt.
FIGURES = {("tiny-wan", "cpu"): Figures(Cost(0.013, 1.4e-7), Cost(0.002, 0.0), Cost(0.06, 2.9e-6))}
UNKNOWN = Figures(Cost(0.1, 3e-8), Cost(0.02, 0.0), Cost(1.0, 1e-7))


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
    """How much faster or slower than the figures the last run of this process was, by model and device."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._factors: dict[tuple[str, str], float] = {}

    def estimate(self, asked: Understood, device: str) -> Estimate:
        """The time that `asked` is going to take on a device of type `device`."""
        key, request = (asked.spec.key, device), asked.request
        with self._lock:
            factor = self._factors.get(key)
        counts = [_expected(lane, request) for lane in asked.lanes]
        seconds = (factor or 1.0) * _seconds(key, request, counts)
        reserved = min(ZEROGPU_LONGEST, math.ceil(RESERVE * seconds + OVERHEAD_SECONDS))
        return Estimate(seconds, factor is not None, reserved, math.ceil(reserved * ZEROGPU_FACTOR))

    def learn(self, report: Report, seconds: float) -> None:
        """Take the pace of the comparison that `report` tells of; it took `seconds` in all."""
        key = (report.model.key, report.model.device.partition(":")[0])
        counts = [(float(lane.nfe), float(lane.steps - lane.nfe)) for lane in report.lanes]
        factor = seconds / _seconds(key, report.request, counts)
        with self._lock:
            self._factors[key] = factor


Counts = tuple[float, float]


def _seconds(key: tuple[str, str], request: Request, lanes: list[Counts]) -> float:
    """By the figures, for lanes of so many computed and reused steps."""
    figures, voxels = FIGURES.get(key, UNKNOWN), request.height * request.width * request.frames
    steps = (c * figures.computed.at(voxels) + r * figures.reused.at(voxels) for c, r in lanes)
    return sum(steps) + len(lanes) * figures.rest.at(voxels)


def _expected(lane: LaneSpec, request: Request) -> Counts:
    """Computed and reused steps, before it has run: as the budget says, else as is usual."""
    if lane.method == REFERENCE:
        return float(request.steps), 0.0
    computed = float(request.nfe or request.steps * USUAL_SHARE.get(request.preset, 0.5))
    return computed, 0.0 if lane.method == FEWER_STEPS else request.steps - computed
