"""Whole comparisons of the bundled models."""

from __future__ import annotations

import itertools
from typing import Any

import emulation  # noqa: F401  The device of this process, before all else.
import pytest

import sencache
from sencache.comparison import Compared, LaneDone, compare
from sencache.models.model import Model, own_profile
from sencache.plan import parse_lanes
from sencache.report import Report
from sencache.schema import Request
from sencache.verify import profile_file, verify

STEPS = 8
TARGETS, FORECASTS = ("residual", "output", "delta"), ("hold", "linear")
CACHING = ("fixed", "sencache", "magcache", "teacache", "easycache", "control")


@pytest.fixture(scope="module", params=["tiny-wan", "tiny-cogvideox", "tiny-ltx"])
def model(request: pytest.FixtureRequest) -> Model:
    return sencache.load(request.param, "cuda")


def asked(**changes: Any) -> Request:
    size = {"height": 64, "width": 64, "frames": 9, "steps": STEPS, "guidance_scale": 4.0}
    return Request(prompt="a red circle", **{**size, **changes})


def compared(model: Model, lanes: str, settings: list[str], **changes: Any) -> tuple[Report, dict[str, Any]]:
    """The report, and every lane's frames."""
    frames, profile = {}, own_profile(model.spec)
    for event in compare(model, asked(**changes), parse_lanes(lanes, settings), profile):
        if isinstance(event, LaneDone):
            frames[event.lane.name] = event.frames
    assert isinstance(event, Compared)
    assert verify(event.report, profile_file(profile)) == []
    return event.report, frames


def test_every_method_target_and_forecast(model: Model) -> None:
    ways = [f":target={t}:forecast={f}" for t, f in itertools.product(TARGETS, FORECASTS)]
    lanes = ["none", "fewer-steps", *(method + way for method in CACHING for way in ways)]
    report, _ = compared(model, ",".join(lanes), ["fixed.interval=3", "easycache.forced_first=3"])
    assert len(report.lanes) == len(lanes) and report.model.device == "cuda"


def test_a_budget_is_met_by_every_method(model: Model) -> None:
    report, _ = compared(model, ",".join(CACHING), ["easycache.forced_first=3"], nfe=5)
    assert {lane.method for lane in report.lanes} >= set(CACHING)
