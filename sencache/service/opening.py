"""What the page opens with: the lanes that a model's profiles serve, and the budget they are held to."""

from __future__ import annotations

from sencache.errors import SencacheError
from sencache.models.model import ModelSpec
from sencache.plan import FEWER_STEPS, REFERENCE, parse_lanes, plan_lane
from sencache.policies import METHODS
from sencache.schema import Request
from sencache.service.palette import LOOKS
from sencache.service.shelf import shelf

BASELINES = (REFERENCE, FEWER_STEPS)
# Lanes offered beside the plain methods: the same rule with another way of reusing.
VARIANTS = ("sencache:forecast=linear",)
# Offered, but left for the visitor to choose: it looks at nothing.
UNCHOSEN = ("fixed",)
USUAL_SPEED = "2"


def caching_lanes() -> list[str]:
    """All lanes that are offered beside the baselines, in the order shown."""
    plain = [method for method in LOOKS if method in METHODS and method not in BASELINES]
    return sorted([*plain, *VARIANTS], key=lambda lane: (plain.index(lane.split(":")[0]), lane))


def unserved(spec: ModelSpec) -> list[str]:
    """Those that could not run on the model, as no profile that the app has for it has constants for them."""
    profiles, request = shelf(spec).profiles, sample(spec)
    refused = []
    for text in caching_lanes():
        (lane,) = (lane for lane in parse_lanes(text) if lane.method not in BASELINES)
        try:
            plan_lane(lane, request, profiles)
        except SencacheError:
            refused.append(text)
    return refused


def preselected(spec: ModelSpec) -> list[str]:
    """Those that a first run takes."""
    left_out = {*UNCHOSEN, *unserved(spec)}
    return [lane for lane in caching_lanes() if lane not in left_out]


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
