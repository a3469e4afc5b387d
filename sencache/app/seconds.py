"""How long a comparison takes: counted FLOPs over a device's rate at first, then as every step that runs here
tells; and what ZeroGPU reserves and books for it.
"""

from __future__ import annotations

import math
import re
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, fields
from statistics import median

from sencache.comparison.events import Compared, Event, LaneDone, Started, StepDone
from sencache.comparison.job import Job
from sencache.comparison.plan import FEWER_STEPS, REFERENCE
from sencache.models import flops
from sencache.models.placement import Weights
from sencache.models.spec import ModelSpec
from sencache.schema import Request

ZEROGPU = "half of an RTX PRO 6000, lent by ZeroGPU"

# FLOP/s that a transformer reaches with the kernels of PyTorch, by the device's name; the first that matches.
# No figure was measured here. "Published" is FLOPs as counted by `flops` over somebody's seconds, and of
# several the slowest: others reached up to 2.4 times as much.
RATES = {
    # Assumed: two fifths of what half the card has by its data sheet (503.8e12 dense in bfloat16, 188 SMs),
    # while an L40 reaches three fifths. Nobody has published seconds of a model of this list on it.
    ZEROGPU: 100e12,
    "RTX PRO 6000": 200e12,
    # A slice of some card: as any other.
    " MIG ": 30e12,
    # Assumed: the H100's chip.
    "H200|GH200": 155e12,
    # Published: Wan 2.1 1.3B, 832x480x81, 50 steps in 182.5 s with FlashAttention 2 (247e12 with 3; FastVideo
    # profiles, rich7421/fastvideo-wan-h100-sp1-nsys). CogVideoX's own 90 s for 50 steps of 5B are 369e12.
    "H100|H800": 155e12,
    # Published: CogVideoX-2b, 50 steps in about 90 s (its README). Its 5B comes to 184e12, and the 175 s of
    # Wan 2.1 1.3B in TeaCache's table to 162e12.
    r"A100\b|A800\b": 130e12,
    # Published: CogVideoX-5b and 2b on an L40, 6.2 s and 2.1 s a step (xDiT's report: 0.8 s and 0.49 s, at
    # 7.75 and 4.29 times the speed of one card). Assumed: an L40S is no slower.
    "L40": 105e12,
    # Published: Wan 2.1 1.3B, 832x480x81 in about 4 minutes (its README), all of it.
    "RTX 4090": 115e12,
    # Assumed for any other GPU: a quarter of what an L4 or half of what an A10G has by its data sheet.
    "": 30e12,
}
# Measured: one core of an AMD EPYC in float32, on the bundled models; how far a machine is from it is learnt.
CPU_RATE = 120e9
# Of that rate, in the VAE's convolutions: measured on the same core, assumed on GPUs.
CONVOLVED = 1 / 3


@dataclass(frozen=True)
class Overhead:
    """Seconds that no FLOPs explain: of a computed step, a reused one, and of measuring and writing a video,
    `fixed` and for each pixel of each frame.
    """

    computed: float
    reused: float
    fixed: float
    per_voxel: float


# Measured on that core; LPIPS takes 0.46 s of it for a frame of 480x832.
ON_CPU = Overhead(computed=0.01, reused=0.002, fixed=0.06, per_voxel=1.24e-6)
# Assumed: launching some thousand kernels, LPIPS on the GPU, and an MP4 at 25 frames of 480x832 a second.
ON_GPU = Overhead(computed=0.05, reused=0.01, fixed=0.5, per_voxel=1e-7)
# Assumed, from disk to the card: a cold worker of ZeroGPU copies all weights.
LOAD_RATE = 2e9
# Of a checkpoint whose parameters nobody counted.
UNKNOWN_WEIGHTS = 25e9
# Of all steps, where no budget is given: what the presets were calibrated to.
USUAL_SHARE = {"fast": 0.42, "slow": 0.5, None: 0.5}
# ZeroGPU posts, and books on the quota, this many seconds per second reserved on its newest cards; what it
# posts may be refused above 120.
ZEROGPU_FACTOR = 1.5
ZEROGPU_LONGEST = 80
RESERVE = 1.3
# Of a call until its worker begins, beside the weights.
OVERHEAD_SECONDS = 4.0
# The newest of each kind that count: a device that others share is slow for a while.
RECENT = 50


def rate_of(device: str) -> float:
    """FLOP/s of the device of this name, as `devices.device_name` gives it, or `ZEROGPU`."""
    if device == "cpu":
        return CPU_RATE
    return next(rate for pattern, rate in RATES.items() if pattern == device or re.search(pattern, device))


@dataclass(frozen=True)
class Costs:
    """Seconds of the pieces of a comparison: `start` before the first step (loading on ZeroGPU, encoding the
    prompts), a step `computed` or `reused`, and of a lane after its last step: `decode`, then `measure`,
    which is metrics and MP4.
    """

    start: float
    computed: float
    reused: float
    decode: float
    measure: float

    @property
    def rest(self) -> float:
        return self.decode + self.measure


def costs_of(spec: ModelSpec, device: str) -> Costs:
    """By counted FLOPs, for the size and guidance in `spec` on the device of this name."""
    rate, more = rate_of(device), ON_CPU if device == "cpu" else ON_GPU
    weights = 0 if spec.bundled else Weights.of(spec).total or UNKNOWN_WEIGHTS
    load = weights / LOAD_RATE if device == ZEROGPU else 0.0
    return Costs(
        start=load + flops.encoding(spec) / rate,
        computed=more.computed + flops.guided_step(spec) / rate,
        reused=more.reused,
        decode=flops.decoding(spec) / (CONVOLVED * rate),
        measure=more.fixed + more.per_voxel * spec.height * spec.width * spec.frames,
    )


def step_counts(method: str, request: Request) -> tuple[float, float]:
    """Computed and reused steps of a lane before it has run: as the budget says, else as is usual."""
    if method == REFERENCE:
        return float(request.steps), 0.0
    computed = float(request.nfe or request.steps * USUAL_SHARE.get(request.preset, 0.5))
    return computed, 0.0 if method == FEWER_STEPS else request.steps - computed


def lane_seconds(costs: Costs, methods: Iterable[str], request: Request) -> float:
    """Of one lane of each of `methods`, without the start."""
    counts = [step_counts(method, request) for method in methods]
    return sum(costs.computed * made + costs.reused * reused + costs.rest for made, reused in counts)


def reservation(seconds: float) -> int:
    """Seconds of GPU to reserve for a comparison of `seconds`, with a margin."""
    return math.ceil(RESERVE * seconds + OVERHEAD_SECONDS)


def longest_call() -> int:
    """Whole seconds of the longest comparison whose reservation one call may take, margin included."""
    return int((ZEROGPU_LONGEST - OVERHEAD_SECONDS) / RESERVE)


def quota(reserved: int) -> int:
    return math.ceil(reserved * ZEROGPU_FACTOR)


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
        spec = flops.at_size(job.spec, job.request)
        computed = costs_of(spec, device)
        with self._lock:
            ratios = {field.name: self._ratio(spec.key, device, field.name) for field in fields(Costs)}
            whole = self._ratio(spec.key, device, "whole")
            measured = (spec.key, self._name(device), "computed") in self._ratios
        costs = Costs(**{name: getattr(computed, name) * ratio for name, ratio in ratios.items()})
        methods = [lane.spec.method for lane in job.lanes]
        seconds = costs.start + whole * lane_seconds(costs, methods, job.request)
        reserved = reservation(seconds)
        return Estimate(seconds, measured, reserved, quota(reserved), costs)

    def rename(self, device: str, name: str) -> None:
        """What goes by `device` turned out to be a `name`: ZeroGPU lends more than one kind."""
        with self._lock:
            self._names[device] = name

    def learn(self, key: str, device: str, piece: str, ratio: float) -> None:
        """`piece` of the model `key` took `ratio` times what is computed for it."""
        with self._lock:
            place = (key, self._name(device), piece)
            self._ratios.setdefault(place, deque(maxlen=RECENT)).append(ratio)

    def _ratio(self, key: str, device: str, piece: str) -> float:
        name = self._name(device)
        own = self._ratios.get((key, name, piece))
        others = [r for (_, on, what), rs in self._ratios.items() if (on, what) == (name, piece) for r in rs]
        return median(own or others or [1.0])

    def _name(self, device: str) -> str:
        return self._names.get(device, device)


class Listener:
    """Hears the events of one run as they pass, so that one which is cut off has taught what it could."""

    def __init__(self, pace: Pace, job: Job, device: str) -> None:
        self._pace, self._key, self._device = pace, job.spec.key, device
        self._computed = costs_of(flops.at_size(job.spec, job.request), device)
        self._begun = self._lanes = 0.0

    def hear(self, event: Event) -> None:
        match event:
            case Started(report=report):
                self._pace.rename(self._device, report.model.gpu or "cpu")
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
                self._pace.learn(self._key, self._device, "whole", ratio)

    def _learn(self, piece: str, seconds: float) -> None:
        self._pace.learn(self._key, self._device, piece, seconds / getattr(self._computed, piece))
