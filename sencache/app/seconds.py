"""Seconds of a comparison before anything was measured: counted FLOPs over a device's rate, and what comes on
top; and what ZeroGPU reserves and books for them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

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
        """Of a lane after its last step."""
        return self.decode + self.measure

    def lane(self, computed: float, reused: float) -> float:
        """Of a lane with so many steps of either kind."""
        return computed * self.computed + reused * self.reused + self.rest


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


# Of all steps, where no budget is given: what the presets were calibrated to.
USUAL_SHARE = {"fast": 0.42, "slow": 0.5, None: 0.5}


def expected(method: str, request: Request) -> tuple[float, float]:
    """Computed and reused steps of a lane before it has run: as the budget says, else as is usual."""
    if method == REFERENCE:
        return float(request.steps), 0.0
    computed = float(request.nfe or request.steps * USUAL_SHARE.get(request.preset, 0.5))
    return computed, 0.0 if method == FEWER_STEPS else request.steps - computed


def lanes_of(costs: Costs, methods: Iterable[str], request: Request) -> float:
    """Seconds of a lane of each of `methods`, without the start."""
    return sum(costs.lane(*expected(method, request)) for method in methods)


# ZeroGPU posts, and books on the quota, this many seconds per second reserved on its newest cards; what it
# posts may be refused above 120.
ZEROGPU_FACTOR = 1.5
ZEROGPU_LONGEST = 80
RESERVE = 1.3
# Of a call until its worker begins, beside the weights.
OVERHEAD_SECONDS = 4.0


def reserved(seconds: float) -> int:
    """Seconds of GPU to reserve for a comparison of `seconds`, with a margin."""
    return math.ceil(RESERVE * seconds + OVERHEAD_SECONDS)


def longest_call() -> int:
    """Whole seconds of the longest comparison whose reservation one call may take, margin included."""
    return int((ZEROGPU_LONGEST - OVERHEAD_SECONDS) / RESERVE)


def booked(seconds: int) -> int:
    """Seconds of a visitor's quota that a reservation of `seconds` takes."""
    return math.ceil(seconds * ZEROGPU_FACTOR)
