"""How long a comparison is going to take: by counted FLOPs at first, and then as every step that runs here
tells.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, fields
from statistics import median

from sencache.app.seconds import Costs, booked, costs_of, lanes_of, reserved
from sencache.comparison.events import Compared, Event, LaneDone, Started, StepDone
from sencache.comparison.job import Job
from sencache.models.flops import at_size
from sencache.models.spec import ModelSpec

# The newest of each kind that count: a device that others share is slow for a while.
RECENT = 50


@dataclass(frozen=True)
class Estimate:
    """Seconds of the whole comparison, whether they rest on steps that were timed here, the seconds of GPU
    that are reserved for it and booked on the visitor's quota, and what its pieces take.
    """

    seconds: float
    measured: bool
    reserved: int
    booked: int
    costs: Costs


class Pace:
    """How much slower than computed each piece has been, by model and device; the median of the newest.

    Pieces are those of `Costs`, and `whole`: the time from the first event to the last over the sum of what
    the lanes took, which tells of devices side by side. A ratio found at one size serves all others, and one
    found on another model serves until this one has run.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ratios: dict[tuple[str, str, str], deque[float]] = {}
        self._names: dict[str, str] = {}

    def estimate(self, job: Job, device: str) -> Estimate:
        """The time that `job` is going to take on the device of this name."""
        spec = at_size(job.spec, job.request)
        with self._lock:
            costs, whole = self._costs(spec, device), self._ratio(spec.key, device, "whole")
            measured = (spec.key, self._name(device), "computed") in self._ratios
        methods = [lane.spec.method for lane in job.lanes]
        seconds = costs.start + whole * lanes_of(costs, methods, job.request)
        reservation = reserved(seconds)
        return Estimate(seconds, measured, reservation, booked(reservation), costs)

    def listen(self, job: Job, device: str) -> Listener:
        """Whoever takes the events of the run of `job` on the device of this name."""
        return Listener(self, at_size(job.spec, job.request), device)

    def named(self, device: str, name: str) -> None:
        """What goes by `device` turned out to be a `name`: ZeroGPU lends more than one kind."""
        with self._lock:
            self._names[device] = name

    def learn(self, key: str, device: str, piece: str, ratio: float) -> None:
        """`piece` of the model `key` took `ratio` times what is computed for it."""
        with self._lock:
            place = (key, self._name(device), piece)
            self._ratios.setdefault(place, deque(maxlen=RECENT)).append(ratio)

    def _costs(self, spec: ModelSpec, device: str) -> Costs:
        computed = costs_of(spec, device)
        names = [field.name for field in fields(Costs)]
        return Costs(*(getattr(computed, n) * self._ratio(spec.key, device, n) for n in names))

    def _ratio(self, key: str, device: str, piece: str) -> float:
        name = self._name(device)
        own = self._ratios.get((key, name, piece))
        others = [r for (_, on, what), rs in self._ratios.items() if (on, what) == (name, piece) for r in rs]
        return median(own or others or [1.0])

    def _name(self, device: str) -> str:
        return self._names.get(device, device)


class Listener:
    """Hears the events of one run as they pass, so that one which is cut off has taught what it could."""

    def __init__(self, pace: Pace, spec: ModelSpec, device: str) -> None:
        self._pace, self._spec, self._device = pace, spec, device
        self._computed = costs_of(spec, device)
        self._begun = self._lanes = 0.0

    def hear(self, event: Event) -> None:
        """Take what `event` tells of time, if anything."""
        match event:
            case Started(report=report):
                self._pace.named(self._device, report.model.gpu or "cpu")
                self._begun = event.seconds
            case StepDone(record=record) if record.seconds is not None:
                # The first of a lane may be the first of its process, which sets kernels up.
                if record.step > 0:
                    self._learn("computed" if record.decision == "compute" else "reused", record.seconds)
                self._lanes += record.seconds
            case LaneDone(lane=lane):
                self._learn("decode", lane.decode_seconds)
                self._lanes += lane.decode_seconds + self._computed.measure
            case Compared() if self._lanes:
                ratio = (event.seconds - self._begun) / self._lanes
                self._pace.learn(self._spec.key, self._device, "whole", ratio)

    def _learn(self, piece: str, seconds: float) -> None:
        self._pace.learn(self._spec.key, self._device, piece, seconds / getattr(self._computed, piece))
