"""Seconds that steps take before anything was measured, and what ZeroGPU reserves and books for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sencache.plan import FEWER_STEPS, REFERENCE
from sencache.schema import Request

# ZeroGPU books this many seconds of quota per second reserved on the half card that it lends by default.
ZEROGPU_FACTOR = 1.5
ZEROGPU_LONGEST = 120
RESERVE = 1.3
OVERHEAD_SECONDS = 4.0
# Of all steps, where no budget is given: what the presets were calibrated to.
USUAL_SHARE = {"fast": 0.42, "slow": 0.5, None: 0.5}

Counts = tuple[float, float]


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
FIGURES = {
    ("tiny-wan", "cpu"): Figures(Cost(0.013, 1.4e-7), Cost(0.002, 0.0), Cost(0.06, 2.9e-6)),
    ("tiny-cogvideox", "cpu"): Figures(Cost(0.010, 1.5e-7), Cost(0.002, 0.0), Cost(0.06, 9.2e-6)),
    ("tiny-ltx", "cpu"): Figures(Cost(0.010, 1.2e-7), Cost(0.002, 0.0), Cost(0.06, 2.9e-6)),
}
# LPIPS takes 0.46 s of one core for a frame of 480x832, on a GPU next to nothing.
UNKNOWN = {
    "cpu": Figures(Cost(0.1, 3e-8), Cost(0.02, 0.0), Cost(1.0, 1.24e-6)),
    "cuda": Figures(Cost(0.1, 3e-8), Cost(0.02, 0.0), Cost(1.0, 1e-7)),
}


def seconds_of(key: tuple[str, str], request: Request, lanes: Sequence[Counts]) -> float:
    """By the figures of (model, device type), for lanes of so many computed and reused steps."""
    figures, voxels = FIGURES.get(key) or UNKNOWN[key[1]], request.height * request.width * request.frames
    steps = (c * figures.computed.at(voxels) + r * figures.reused.at(voxels) for c, r in lanes)
    return sum(steps) + len(lanes) * figures.rest.at(voxels)


def expected(method: str, request: Request) -> Counts:
    """Computed and reused steps of a lane before it has run: as the budget says, else as is usual."""
    if method == REFERENCE:
        return float(request.steps), 0.0
    computed = float(request.nfe or request.steps * USUAL_SHARE.get(request.preset, 0.5))
    return computed, 0.0 if method == FEWER_STEPS else request.steps - computed


def reserved(seconds: float) -> int:
    """Seconds of GPU to reserve for a comparison of `seconds`: with a margin, and what one call may take."""
    return min(ZEROGPU_LONGEST, math.ceil(RESERVE * seconds + OVERHEAD_SECONDS))


def booked(seconds: int) -> int:
    """Seconds of a visitor's quota that a reservation of `seconds` takes."""
    return math.ceil(seconds * ZEROGPU_FACTOR)
