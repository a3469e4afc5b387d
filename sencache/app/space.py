"""What a Space offers and its page opens with, as its environment settles it: devices, the models' numbers,
the lanes of a first run and their budget, how long a run may be, and whether blocks are compiled.

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

import numpy as np
import torch

from sencache.app.seconds import ZEROGPU, costs_of, lane_seconds, longest_call
from sencache.app.shelf import shelf
from sencache.comparison.devices import device_name, named_devices
from sencache.comparison.plan import FEWER_STEPS, REFERENCE, parse_lanes, plan_lane
from sencache.errors import SencacheError
from sencache.models import checkpoint
from sencache.models.checks import check_request
from sencache.models.loading import find_device
from sencache.models.spec import ModelSpec
from sencache.models.zerogpu import on_zerogpu
from sencache.policies import METHODS, Policy
from sencache.policies.base import Schedule
from sencache.schema import Request

BASELINES = (REFERENCE, FEWER_STEPS)
# Lanes offered beside the plain methods: the same rule with another way of reusing.
VARIANTS = ("sencache:repair=replay", "sencache:forecast=fitted:repair=replay")
# What a first run keeps before all others, where not every lane fits.
CORE = ("sencache", "magcache", "control")
# Counted in even where it is not served yet: its profile may come from the Hub.
AWAITED = "sencache"
USUAL_SPEED = "2"
# Of one comparison where nothing else limits it: visitors wait in line for each other.
LONGEST_SECONDS = 900
# What a first run is shortened to at most, so that it is still worth seeing.
LEAST_STEPS, LEAST_SECONDS = 30, 2.0
SIDES, SMALLEST = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5), (0.45,)


# ---- the environment


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


def timed_device() -> str:
    """What runs are timed on: the first device's name; ZeroGPU's card cannot be asked before it is lent.

    Raises SencacheError where the device is not there.
    """
    return ZEROGPU if on_zerogpu() else device_name(str(find_device(devices()[0])))


def ahead_of_time() -> bool:
    """Whether blocks are compiled ahead of time when the Space starts: `SENCACHE_AOT=1`, on ZeroGPU only."""
    return on_zerogpu() and os.environ.get("SENCACHE_AOT", "").lower() in ("1", "t", "true")


def longest_seconds() -> int:
    """What one comparison may take: `SENCACHE_MAX_SECONDS`, on ZeroGPU no more than one call may.

    Raises SencacheError where the variable is no number of seconds.
    """
    given = os.environ.get("SENCACHE_MAX_SECONDS", "")
    if given and not re.fullmatch(r"[1-9]\d{0,8}", given):
        raise SencacheError(f"SENCACHE_MAX_SECONDS is {given!r}; write whole seconds, as {LONGEST_SECONDS}")
    most = int(given or LONGEST_SECONDS)
    return min(most, longest_call()) if on_zerogpu() else most


# ---- models


def offered_models() -> dict[str, ModelSpec]:
    """What the app offers, by key, with numbers that a first run can afford.

    Raises SencacheError where the environment asks for what there is not.
    """
    return {key: _first_numbers(spec) for key, spec in checkpoint.offered_models().items()}


def offered_model(key: str) -> ModelSpec:
    """One of them; raises SencacheError naming those there are."""
    return _first_numbers(checkpoint.offered_model(key))


def _first_numbers(spec: ModelSpec) -> ModelSpec:
    return first_run(_owners_size(spec), timed_device(), longest_seconds())


def _owners_size(spec: ModelSpec) -> ModelSpec:
    """`spec` with the video size in `SENCACHE_SIZE`: what a checkpoint was made for may be known to nobody
    but its owner.
    """
    given = os.environ.get("SENCACHE_SIZE")
    if not given:
        return spec
    if not re.fullmatch(r"\d{1,5}x\d{1,5}x\d{1,5}", given):
        raise SencacheError(f"SENCACHE_SIZE is {given!r}; write width, height and frames, as 832x480x81")
    width, height, frames = map(int, given.split("x"))
    changed = replace(spec, width=width, height=height, frames=frames)
    check_request(spec, sample(changed))
    return changed


# ---- a first run


def evaluations(speed: str, steps: int) -> int:
    """The budget that makes a run of `steps` `speed` times as fast in its denoising."""
    return max(1, round(steps / float(speed)))


def sample(spec: ModelSpec) -> Request:
    """A first run: the model's own numbers, and the budget that the page opens with."""
    own = {name: getattr(spec, name) for name in ("steps", "height", "width", "frames", "guidance_scale")}
    return Request(prompt="anything", nfe=evaluations(USUAL_SPEED, spec.steps), **own)


@lru_cache
def first_run(spec: ModelSpec, device: str, longest: int) -> ModelSpec:
    """`spec` with frames, size and steps, in this order, reduced until a run of the lanes that the page opens
    with takes at most `longest` seconds on the device of this name; with fewer lanes where none does, and
    then smaller than half. Never below what is worth seeing: the least of that where nothing fits.
    """
    for choose, sides in ((list, SIDES), (core_lanes, SIDES), (core_lanes, SMALLEST)):
        for steps in dict.fromkeys((spec.steps, min(spec.steps, 40), min(spec.steps, LEAST_STEPS))):
            lanes = choose(sizing_lanes(replace(spec, steps=steps)))
            for shorter in _smaller(replace(spec, steps=steps), sides):
                if first_seconds(shorter, lanes, device) <= longest:
                    return shorter
    return shorter


def _smaller(spec: ModelSpec, sides: Sequence[float]) -> Iterator[ModelSpec]:
    """Fewer and fewer frames, down to about two seconds, for each of the sizes in turn."""

    def side(pixels: float) -> int:
        nearest = round(pixels / spec.size_multiple) * spec.size_multiple
        return min(max(nearest, spec.min_side), spec.max_side)

    factor = spec.temporal_factor
    least = min(spec.frames, 1 + factor * round(LEAST_SECONDS * spec.fps / factor))
    for scale, frames in product(
        (1.0,) if spec.fixed_size else sides, range(spec.frames, least - 1, -factor)
    ):
        yield replace(spec, frames=frames, height=side(spec.height * scale), width=side(spec.width * scale))


def first_seconds(spec: ModelSpec, lanes: Sequence[str], device: str) -> float:
    costs, methods = costs_of(spec, device), [lane.split(":")[0] for lane in (*BASELINES, *lanes)]
    return costs.start + lane_seconds(costs, methods, sample(spec))


# ---- its lanes


def caching_lanes() -> list[str]:
    """All lanes that are offered beside the baselines, in the order shown."""
    plain = [method for method in METHODS if method not in BASELINES]
    return sorted([*plain, *VARIANTS], key=lambda lane: (plain.index(lane.split(":")[0]), lane))


def first_lanes(spec: ModelSpec) -> list[str]:
    return list(affordable_lanes(spec, preselected_lanes(spec), timed_device(), longest_seconds()))


def preselected_lanes(spec: ModelSpec) -> list[str]:
    """Those that a first run takes where time does not limit it."""
    left_out = {*unserved_lanes(spec), *idle_lanes(spec)}
    chosen = (lane for lane in caching_lanes() if METHODS[lane.split(":")[0]].preselected)
    return [lane for lane in chosen if lane not in left_out]


def unserved_lanes(spec: ModelSpec) -> list[str]:
    """Those that could not run on the model, as no profile that the app has for it has constants for them."""
    return [lane for lane, policy in _first_policies(spec) if policy is None]


def idle_lanes(spec: ModelSpec) -> dict[str, int]:
    """Those that compute more steps of a first run than its budget, whatever they measure: how many."""
    request = sample(spec)
    forced: dict[str, int] = {}
    for lane, policy in _first_policies(spec):
        if policy is not None:
            # Where the steps lie decides nothing, but a table must have them.
            own = policy.profile.schedule.timesteps if policy.profile else None
            known = own or (1000.0, 1.0)
            places = np.linspace(0, len(known) - 1, request.steps)
            timesteps = np.interp(places, range(len(known)), known)
            steps = Schedule(tuple(timesteps.tolist()))
            forced[lane] = policy.start(steps).count_forced(steps)
    return {lane: count for lane, count in forced.items() if count > evaluations(USUAL_SPEED, spec.steps)}


def _first_policies(spec: ModelSpec) -> Iterator[tuple[str, Policy | None]]:
    """Each lane with its policy for a first run, None where no profile of the app serves it."""
    profiles, request = shelf(spec).profiles, sample(spec)
    for text in caching_lanes():
        (lane,) = (lane for lane in parse_lanes(text) if lane.method not in BASELINES)
        if not METHODS[lane.method].serves(spec.architecture):
            continue  # No profile would help.
        try:
            yield text, plan_lane(lane, request, profiles).policy
        except SencacheError:
            yield text, None


def sizing_lanes(spec: ModelSpec) -> list[str]:
    chosen = preselected_lanes(spec)
    return [lane for lane in caching_lanes() if lane in chosen or lane == AWAITED]


def core_lanes(lanes: Sequence[str]) -> list[str]:
    """As many of `lanes` as `CORE` has, those in it before the others; in the order shown."""
    ranked = sorted(lanes, key=lambda lane: CORE.index(lane) if lane in CORE else len(CORE))
    return [lane for lane in lanes if lane in ranked[: len(CORE)]]


def affordable_lanes(spec: ModelSpec, lanes: Sequence[str], device: str, longest: int) -> Sequence[str]:
    """All of `lanes`, of which a first run is to take some; the fewest where `longest` does not suffice."""
    return lanes if first_seconds(spec, sizing_lanes(spec), device) <= longest else core_lanes(lanes)
