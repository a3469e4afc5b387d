"""On a budget every method meets it, and says openly where it cannot."""

from __future__ import annotations

import numpy as np
import pytest
from comparisons import (
    LANES,
    TYPED,
    lane_of,
    of_kind,
    recorded_policy,
    request_of,
    separate_call,
    strip_measures,
)

from sencache.comparison.compare import Event, LaneDone, StepDone, compare
from sencache.comparison.plan import parse_lanes
from sencache.models.model import Model
from sencache.profiles.profile import Profile
from sencache.video import to_uint8

BUDGET_STEPS, NFE = 16, 12
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def budget_events(tiny_wan: Model, bundled_profile: Profile) -> list[Event]:
    """All methods with their own defaults, on a budget that each of them can meet."""
    request = request_of(BUDGET_STEPS, nfe=NFE)
    return list(compare(tiny_wan, request, parse_lanes(TYPED), bundled_profile))


def test_the_full_run_is_made_first_and_the_others_advance_in_lockstep(budget_events: list[Event]) -> None:
    order = [lane_of(event) for event in budget_events[1:-1]]
    alone = BUDGET_STEPS + 2
    assert order[:alone] == ["none"] * alone and "none" not in order[alone:]
    told = [(e.record.step, e.lane) for e in of_kind(budget_events, StepDone) if e.lane != "none"]
    both = [(step, name) for step in range(BUDGET_STEPS) for name in LANES[1:]]
    assert told == [(step, name) for step, name in both if step < NFE or name != "fewer-steps"]


def test_every_method_meets_the_budget_and_says_what_it_reached(budget_events: list[Event]) -> None:
    report = budget_events[-1].report
    assert report.request.nfe == NFE
    for lane in report.lanes[1:]:
        assert abs(lane.nfe - NFE) <= 1, lane.name
        assert lane.nfe == [record.decision for record in lane.trace].count("compute")


@pytest.mark.parametrize("name", ["fixed", "sencache:repair=replay", "teacache", "control"])
def test_the_report_holds_the_knob_that_met_the_budget(
    budget_events: list[Event], tiny_wan: Model, bundled_profile: Profile, name: str
) -> None:
    done = next(event for event in of_kind(budget_events, LaneDone) if event.lane.name == name)
    policy = recorded_policy(done.lane, bundled_profile)
    alone = separate_call(tiny_wan, request_of(BUDGET_STEPS), policy)
    assert strip_measures(done.lane.trace) == alone.records
    assert np.array_equal(done.frames, to_uint8(alone.frames))


def test_a_budget_out_of_reach_is_missed_openly(tiny_wan: Model) -> None:
    request = request_of(12, nfe=4)
    report = list(compare(tiny_wan, request, parse_lanes("easycache:forced_first=8,fixed"), None))[-1].report
    nfe = {lane.name: lane.nfe for lane in report.lanes}
    assert nfe == {"none": 12, "fewer-steps": 4, "fixed": 4, "easycache": 9}
    notes = {lane.name: lane.notes for lane in report.lanes if lane.notes}
    missed = "4 evaluations were asked for and 9 made, 9 of them forced by its settings"
    assert notes == {"easycache": (missed,)}


def test_a_run_too_short_for_a_method_to_reuse_anything_is_said_to_be(tiny_wan: Model) -> None:
    """EasyCache forces ten steps and the last, as its authors do."""
    report = list(compare(tiny_wan, request_of(4), parse_lanes("easycache"), None))[-1].report
    (lane,) = [lane for lane in report.lanes if lane.method == "easycache"]
    assert lane.nfe == 4
    assert lane.notes == (
        "its settings force each of the 4 steps to be computed, so nothing is reused; "
        "take more steps or force fewer",
    )


def test_what_the_user_set_stays_under_a_budget(tiny_wan: Model) -> None:
    typed = parse_lanes("fixed:interval=3,control:tolerance=0.25")
    report = list(compare(tiny_wan, request_of(8, nfe=6), typed, None))[-1].report
    fixed, control = (lane for lane in report.lanes if lane.config)
    assert (fixed.config["interval"], fixed.config["steps"], fixed.nfe) == (3, None, 3)
    assert control.config["tolerance"] == 0.25
    assert fixed.notes == ("6 evaluations were asked for and 3 made",)
