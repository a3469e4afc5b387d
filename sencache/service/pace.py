"""How long a comparison is going to take: as the last one did, and before that by written figures."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

from sencache.report import Report
from sencache.service.ask import Understood
from sencache.service.figures import booked, expected, reserved, seconds_of


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
        counts = [expected(lane.method, request) for lane in asked.lanes]
        seconds = (factor or 1.0) * seconds_of(key, request, counts)
        reservation = reserved(seconds)
        return Estimate(seconds, factor is not None, reservation, booked(reservation))

    def learn(self, report: Report, seconds: float) -> None:
        """Take the pace of the comparison that `report` tells of; it took `seconds` in all."""
        key = (report.model.key, re.split("[:,]", report.model.device)[0])
        counts = [(float(lane.nfe), float(lane.steps - lane.nfe)) for lane in report.lanes]
        factor = seconds / seconds_of(key, report.request, counts)
        with self._lock:
            self._factors[key] = factor
