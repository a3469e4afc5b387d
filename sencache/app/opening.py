"""What the page opens with: the lanes that a model's profiles serve, and the budget they are held to."""

from __future__ import annotations

from collections.abc import Sequence

from sencache.app.shelf import shelf
from sencache.comparison.plan import FEWER_STEPS, REFERENCE, parse_lanes, plan_lane
from sencache.errors import SencacheError
from sencache.models.model import ModelSpec
from sencache.policies import METHODS, Policy
from sencache.policies.base import Schedule
from sencache.schema import Request

BASELINES = (REFERENCE, FEWER_STEPS)
# Lanes offered beside the plain methods: the same rule with another way of reusing.
VARIANTS = ("sencache:forecast=linear",)
# What a first run keeps before all others, where not every lane fits.
CORE = ("sencache", "magcache", "control")
# Counted in even where it is not served yet: its profile may come from the Hub.
AWAITED = "sencache"
USUAL_SPEED = "2"


def caching_lanes() -> list[str]:
    """All lanes that are offered beside the baselines, in the order shown."""
    plain = [method for method in METHODS if method not in BASELINES]
    return sorted([*plain, *VARIANTS], key=lambda lane: (plain.index(lane.split(":")[0]), lane))


def unserved(spec: ModelSpec) -> list[str]:
    """Those that could not run on the model, as no profile that the app has for it has constants for them."""
    return [lane for lane, policy in _policies(spec) if policy is None]


def idle(spec: ModelSpec) -> dict[str, int]:
    """Those that compute more steps of a first run than its budget, whatever they measure: how many."""
    request = sample(spec)
    # Where the steps lie decides nothing here, only how many there are.
    steps = Schedule(tuple(float(request.steps - i) for i in range(request.steps)))
    forced = {lane: policy.start(steps).forced(steps) for lane, policy in _policies(spec) if policy}
    return {lane: count for lane, count in forced.items() if count > evaluations(USUAL_SPEED, spec.steps)}


def preselected(spec: ModelSpec) -> list[str]:
    """Those that a first run takes where time does not limit it."""
    left_out = {*unserved(spec), *idle(spec)}
    chosen = (lane for lane in caching_lanes() if METHODS[lane.split(":")[0]].preselected)
    return [lane for lane in chosen if lane not in left_out]


def fewest(lanes: Sequence[str]) -> list[str]:
    """As many of `lanes` as `CORE` has, those in it before the others; in the order shown."""
    ranked = sorted(lanes, key=lambda lane: CORE.index(lane) if lane in CORE else len(CORE))
    return [lane for lane in lanes if lane in ranked[: len(CORE)]]


def _policies(spec: ModelSpec) -> list[tuple[str, Policy | None]]:
    """Each lane with its policy for a first run, None where no profile of the app serves it."""
    profiles, request = shelf(spec).profiles, sample(spec)
    found: list[tuple[str, Policy | None]] = []
    for text in caching_lanes():
        (lane,) = (lane for lane in parse_lanes(text) if lane.method not in BASELINES)
        if not METHODS[lane.method].serves(spec.architecture):
            continue  # No profile would help.
        try:
            found.append((text, plan_lane(lane, request, profiles).policy))
        except SencacheError:
            found.append((text, None))
    return found


def evaluations(speed: str, steps: int) -> int:
    """The budget that makes a run of `steps` `speed` times as fast in its denoising."""
    return max(1, round(steps / float(speed)))


def sample(spec: ModelSpec) -> Request:
    """A first run: the model's own numbers, and the budget that the page opens with."""
    return Request(
        prompt="anything",
        steps=spec.steps,
        height=spec.height,
        width=spec.width,
        frames=spec.frames,
        guidance_scale=spec.guidance_scale,
        nfe=evaluations(USUAL_SPEED, spec.steps),
    )
