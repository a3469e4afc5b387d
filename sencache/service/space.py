"""What the environment of a Space settles: how long a first run may be, and whether blocks are compiled.

On ZeroGPU all weights placed at import are moved to the GPU for every call, so a Space offers one large
model, the one that `MODEL_ID` names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from sencache.models import checkpoint
from sencache.models.spec import ModelSpec
from sencache.service.figures import ZEROGPU_LONGEST, booked, expected, reserved, seconds_of
from sencache.service.opening import BASELINES, preselected, sample

# GPU seconds a day of a visitor who has not signed in.
ANONYMOUS_SECONDS = 120
# What a first run is shortened by, in the order in which it hurts least: each for all of those before it.
STEPS, FRAMES, SIDES = (1.0, 0.8, 0.6, 0.5, 0.4), (1.0, 0.75, 0.5, 0.3), (1.0, 0.75, 0.5)


def on_zerogpu() -> bool:
    """Whether GPU seconds are booked on the visitor's quota."""
    return _switched_on("SPACES_ZERO_GPU")


def ahead_of_time() -> bool:
    """Whether blocks are compiled ahead of time when the Space starts: `SENCACHE_AOT=1`, on ZeroGPU only."""
    return on_zerogpu() and _switched_on("SENCACHE_AOT")


def _switched_on(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "t", "true")


def offered_models() -> dict[str, ModelSpec]:
    """What the app offers, by key, on ZeroGPU with numbers that a first run can afford."""
    return {key: _affordable(spec) for key, spec in checkpoint.offered_models().items()}


def offered_model(key: str) -> ModelSpec:
    """One of them; raises SencacheError naming those there are."""
    return _affordable(checkpoint.offered_model(key))


def _affordable(spec: ModelSpec) -> ModelSpec:
    return first_run(spec) if on_zerogpu() else spec


def first_run(spec: ModelSpec, quota: int = ANONYMOUS_SECONDS, device: str = "cuda") -> ModelSpec:
    """`spec` with steps, frames and size, in this order, reduced until a run of the lanes that the page opens
    with books at most `quota` seconds; with the least of them where none does.
    """
    methods = [lane.split(":")[0] for lane in (*BASELINES, *preselected(spec))]
    for shorter in _shortened(spec):
        request = sample(shorter)
        counts = [expected(method, request) for method in methods]
        seconds = seconds_of((spec.key, device), request, counts)
        if seconds <= ZEROGPU_LONGEST and booked(reserved(seconds)) <= quota:
            return shorter
    return shorter


def _shortened(spec: ModelSpec) -> Iterator[ModelSpec]:
    for side, frames, steps in product(SIDES, FRAMES, STEPS):
        yield replace(
            spec,
            steps=max(1, round(spec.steps * steps)),
            frames=1 + spec.temporal_factor * round((spec.frames - 1) * frames / spec.temporal_factor),
            height=_side(spec, spec.height * side),
            width=_side(spec, spec.width * side),
        )


def _side(spec: ModelSpec, pixels: float) -> int:
    nearest = round(pixels / spec.size_multiple) * spec.size_multiple
    return min(max(nearest, spec.min_side), spec.max_side)
