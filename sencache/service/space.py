"""What the environment of a Space settles: its model's numbers, how long a run may be, and whether blocks are
compiled.

On ZeroGPU all weights placed at import are moved to the GPU for every call, so a Space offers one large
model, the one that `MODEL_ID` names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from sencache.errors import SencacheError
from sencache.models import checkpoint
from sencache.models.checks import check_request
from sencache.models.spec import ModelSpec
from sencache.models.zerogpu import on_zerogpu
from sencache.service.figures import ZEROGPU_LONGEST, booked, expected, reserved, seconds_of
from sencache.service.opening import BASELINES, preselected, sample

# Of one comparison where nothing else limits it: visitors wait in line for each other.
LONGEST_SECONDS = 900
# GPU seconds a day of a visitor who has not signed in.
ANONYMOUS_SECONDS = 120
# What a first run is shortened by, in the order in which it hurts least: each for all of those before it.
STEPS, FRAMES, SIDES = (1.0, 0.8, 0.6, 0.5, 0.4), (1.0, 0.75, 0.5, 0.3), (1.0, 0.75, 0.5)


def ahead_of_time() -> bool:
    """Whether blocks are compiled ahead of time when the Space starts: `SENCACHE_AOT=1`, on ZeroGPU only."""
    return on_zerogpu() and _switched_on("SENCACHE_AOT")


def _switched_on(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "t", "true")


def longest_seconds() -> int:
    """What one comparison may take: `SENCACHE_MAX_SECONDS`, on ZeroGPU no more than one call may.

    Raises SencacheError where the variable is no number of seconds.
    """
    given = os.environ.get("SENCACHE_MAX_SECONDS", "")
    if given and not re.fullmatch(r"[1-9]\d{0,8}", given):
        raise SencacheError(f"SENCACHE_MAX_SECONDS is {given!r}; write whole seconds, as {LONGEST_SECONDS}")
    most = int(given or LONGEST_SECONDS)
    return min(most, ZEROGPU_LONGEST) if on_zerogpu() else most


def offered_models() -> dict[str, ModelSpec]:
    """What the app offers, by key, on ZeroGPU with numbers that a first run can afford.

    Raises SencacheError where the environment asks for what there is not.
    """
    return {key: _affordable(_sized(spec)) for key, spec in checkpoint.offered_models().items()}


def offered_model(key: str) -> ModelSpec:
    """One of them; raises SencacheError naming those there are."""
    return _affordable(_sized(checkpoint.offered_model(key)))


def _sized(spec: ModelSpec) -> ModelSpec:
    """`spec` with the video size in `SENCACHE_SIZE`: what a checkpoint was made for may be known to nobody
    but its owner.
    """
    given = os.environ.get("SENCACHE_SIZE")
    if not given:
        return spec
    if not re.fullmatch(r"\d{1,5}x\d{1,5}x\d{1,5}", given):
        raise SencacheError(f"SENCACHE_SIZE is {given!r}; write width, height and frames, as 832x480x81")
    width, height, frames = map(int, given.split("x"))
    sized = replace(spec, width=width, height=height, frames=frames)
    check_request(spec, sample(sized))
    return sized


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
