"""What the environment of a Space settles: its devices, its model's numbers, how long a run may be, and
whether blocks are compiled.

On ZeroGPU all weights placed at import are moved to the GPU for every call, so a Space offers one large
model, the one that `MODEL_ID` names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product

import torch

from sencache.app.opening import AWAITED, BASELINES, caching_lanes, fewest, preselected, sample
from sencache.app.seconds import ZEROGPU, costs_of, lanes_of, longest_call
from sencache.comparison.devices import device_name, named_devices
from sencache.errors import SencacheError
from sencache.models import checkpoint
from sencache.models.checks import check_request
from sencache.models.loading import find_device
from sencache.models.spec import ModelSpec
from sencache.models.zerogpu import on_zerogpu

# Of one comparison where nothing else limits it: visitors wait in line for each other.
LONGEST_SECONDS = 900
# What a first run is shortened to at most, so that it is still worth seeing.
LEAST_STEPS, LEAST_SECONDS = 30, 2.0
SIDES, SMALLEST = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5), (0.45,)


def devices() -> tuple[str, ...]:
    """Where models run: `SENCACHE_DEVICE`, several separated by commas; else all GPUs of the first one's
    kind, but for ZeroGPU, which lends one; else the CPU. Raises SencacheError for one that is named twice.
    """
    if named := os.environ.get("SENCACHE_DEVICE"):
        return named_devices(named)
    if not torch.cuda.is_available():
        return ("cpu",)
    if on_zerogpu():
        return ("cuda",)
    every = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return tuple(gpu for gpu in every if device_name(gpu) == device_name(every[0]))


def named_device() -> str:
    """What runs are timed on: the first device's name; ZeroGPU's card cannot be asked before it is lent.

    Raises SencacheError where the device is not there.
    """
    return ZEROGPU if on_zerogpu() else device_name(str(find_device(devices()[0])))


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
    return min(most, longest_call()) if on_zerogpu() else most


def offered_models() -> dict[str, ModelSpec]:
    """What the app offers, by key, with numbers that a first run can afford.

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
    return first_run(spec, named_device(), longest_seconds())


@lru_cache
def first_run(spec: ModelSpec, device: str, longest: int) -> ModelSpec:
    """`spec` with frames, size and steps, in this order, reduced until a run of the lanes that the page opens
    with takes at most `longest` seconds on the device of this name; with fewer lanes where none does, and
    then smaller than half. Never below what is worth seeing: the least of that where nothing fits.
    """
    for choose, sides in ((list, SIDES), (fewest, SIDES), (fewest, SMALLEST)):
        for steps in dict.fromkeys((spec.steps, min(spec.steps, 40), min(spec.steps, LEAST_STEPS))):
            lanes = choose(priced(replace(spec, steps=steps)))
            for shorter in _smaller(replace(spec, steps=steps), sides):
                if first_seconds(shorter, lanes, device) <= longest:
                    return shorter
    return shorter


def priced(spec: ModelSpec) -> list[str]:
    """The lanes that a first run is sized for."""
    chosen = preselected(spec)
    return [lane for lane in caching_lanes() if lane in chosen or lane == AWAITED]


def first_seconds(spec: ModelSpec, lanes: Sequence[str], device: str) -> float:
    """Computed seconds of a first run of `lanes` beside the baselines."""
    costs, methods = costs_of(spec, device), [lane.split(":")[0] for lane in (*BASELINES, *lanes)]
    return costs.start + lanes_of(costs, methods, sample(spec))


def affordable_lanes(spec: ModelSpec, lanes: Sequence[str], device: str, longest: int) -> Sequence[str]:
    """All of `lanes`, of which a first run is to take some; the fewest where `longest` does not suffice."""
    return lanes if first_seconds(spec, priced(spec), device) <= longest else fewest(lanes)


def first_lanes(spec: ModelSpec) -> list[str]:
    """The caching lanes that the page opens with."""
    return list(affordable_lanes(spec, preselected(spec), named_device(), longest_seconds()))


def spared(spec: ModelSpec) -> list[str]:
    """Those that could run and were left out for the time they take."""
    taken = first_lanes(spec)
    return [lane for lane in preselected(spec) if lane not in taken]


def _smaller(spec: ModelSpec, sides: Sequence[float]) -> Iterator[ModelSpec]:
    """Fewer and fewer frames, down to about two seconds, for each of the sizes in turn."""
    factor = spec.temporal_factor
    least = min(spec.frames, 1 + factor * round(LEAST_SECONDS * spec.fps / factor))
    for side, frames in product((1.0,) if spec.fixed_size else sides, range(spec.frames, least - 1, -factor)):
        height, width = _side(spec, spec.height * side), _side(spec, spec.width * side)
        yield replace(spec, frames=frames, height=height, width=width)


def _side(spec: ModelSpec, pixels: float) -> int:
    nearest = round(pixels / spec.size_multiple) * spec.size_multiple
    return min(max(nearest, spec.min_side), spec.max_side)
