"""What the tests of a comparison ask for, and calls of the pipeline to hold it against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
import torch

from sencache.comparison.compare import Event, LaneDone, LaneStarted, StepDone
from sencache.comparison.report import Lane
from sencache.engine.attach import attach
from sencache.models.model import Model
from sencache.policies import Full, Policy, make_policy
from sencache.profiles.profile import Profile
from sencache.schema import Request
from sencache.trace import StepRecord

STEPS = 12
CACHING = ("fixed", "sencache", "sencache:repair=replay", "magcache", "teacache", "easycache", "control")
LANES = ("none", "fewer-steps", *CACHING)
# The full run is typed last, to be shown first.
TYPED = ",".join((*LANES[1:], "none"))
# Knobs at which, in twelve steps, every method reuses some steps and computes others.
SETTINGS = (
    "fixed.interval=3",
    "sencache.tolerance=0.65",
    "easycache.forced_first=3",
    "easycache.threshold=0.15",
    "control.tolerance=0.1",
)
Kind = TypeVar("Kind")


def request_of(steps: int, **changes: Any) -> Request:
    size = {"height": 64, "width": 64, "frames": 5, "guidance_scale": 4.0}
    return Request(prompt="a red circle moving right", steps=steps, **{**size, **changes})


REQUEST = request_of(STEPS)


def with_(request: Request, **changes: Any) -> Request:
    return request.model_copy(update=changes)


def of_kind(events: list[Event], kind: type[Kind]) -> list[Kind]:
    return [event for event in events if isinstance(event, kind)]


@dataclass
class Separate:
    """One call of the pipeline on its own."""

    frames: Any
    latents: list[torch.Tensor]
    records: list[StepRecord]
    transformer_calls: int


def separate_call(model: Model, request: Request, policy: Policy) -> Separate:
    latents: list[torch.Tensor] = []

    def keep(_: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        latents.append(tensors["latents"].clone())
        return {}

    encoded = model.encode(request.prompt, request.negative_prompt, request.guidance_scale)
    with attach(model.pipe, policy) as trace:
        frames = model.generate(model.pipe, encoded, request, keep)
    return Separate(frames, latents, trace.records, trace.transformer_calls)


def recorded_policy(lane: Lane, profile: Profile) -> Policy:
    """The policy that the report says was used."""
    if not lane.config:
        return Full()
    return make_policy(lane.method, lane.config, profile)


def strip_measures(records: Any) -> list[StepRecord]:
    """The records without what a comparison measured."""
    return [record.model_copy(update={"drift": None, "seconds": None}) for record in records]


def lane_of(event: Event) -> str | None:
    match event:
        case LaneStarted(lane=name) | StepDone(lane=name):
            return name
        case LaneDone(lane=lane):
            return lane.name
    return None


def outcome(events: list[Event]) -> dict[str, Any]:
    """All that must not depend on when and beside what a comparison runs."""
    made = {}
    for done in of_kind(events, LaneDone):
        drifts = [record.drift for record in done.lane.trace]
        made[done.lane.name] = strip_measures(done.lane.trace), drifts, done.frames.tobytes()
    return made


def calls_under_way(patch: pytest.MonkeyPatch, *models: Model) -> list[int]:
    """One entry for each call of a pipeline that has begun and not ended."""
    under_way: list[int] = []
    for model in models:

        def count(*args: Any, generate: Any = model.generate, **kwargs: Any) -> Any:
            under_way.append(1)
            try:
                return generate(*args, **kwargs)
            finally:
                under_way.pop()

        patch.setattr(model, "generate", count)
    return under_way
