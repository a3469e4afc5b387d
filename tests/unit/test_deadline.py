"""Which lanes a deadline stops, on made-up seconds: no model, no clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sencache.comparison.deadline import ENOUGH, Pace, Work, by_importance, stops, work_left
from sencache.comparison.plan import LaneSpec, Planned, parse_lanes
from sencache.errors import SencacheError
from sencache.policies import Fixed, Full
from sencache.trace import StepRecord

TYPED = "magcache,fewer-steps,sencache:forecast=linear,sencache,control"
LISTED = parse_lanes(TYPED)
FIRST_TO_GO = ["control", "sencache", "magcache", "fewer-steps", "sencache:forecast=linear"]


def record(step: int, decision: str, seconds: float = 1.0) -> StepRecord:
    return StepRecord.model_construct(step=step, decision=decision, seconds=seconds)


def records(decisions: str) -> list[StepRecord]:
    """`c` for a computed step, `r` for a reused one."""
    return [record(i, "compute" if one == "c" else "reuse") for i, one in enumerate(decisions)]


def pace(computed: float = 2.0, reused: float = 0.5, ending: float = 3.0) -> Pace:
    made = Pace(ending)
    for index in range(ENOUGH):
        made.step(record(index, "compute", computed))
        made.step(record(index, "reuse", reused))
    return made


def works() -> list[Work]:
    """Ten seconds of work for each lane."""
    return [Work(lane, computed=3, reused=2) for lane in LISTED]


@pytest.mark.parametrize("fitting", [0, 1, 5])
def test_lanes_go_in_the_stated_order_until_the_rest_fits(fitting: int) -> None:
    stopped = stops(works(), pace(), left=60.0 - 10 * fitting)
    assert [name for name, _ in stopped] == FIRST_TO_GO[:fitting]
    assert all(why == f"{60 - 10 * fitting} s were left for about 60 s of work" for _, why in stopped)


def test_the_full_run_never_goes_but_says_when_it_cannot_end() -> None:
    with pytest.raises(SencacheError, match="full run alone needs about 10 s more, and 9 s are left; choose"):
        stops(works(), pace(), left=9.0)
    others = [work for work in works() if work.lane.method != "none"]
    assert [name for name, _ in stops(others, pace(), left=-1.0)] == FIRST_TO_GO


@given(st.lists(st.floats(0, 50), min_size=6, max_size=6), st.floats(0, 300))
def test_what_stays_fits_and_nothing_went_in_vain(computed: list[float], left: float) -> None:
    given_ = [Work(lane, count) for lane, count in zip(LISTED, computed, strict=True)]
    order = by_importance(given_)
    seconds = [pace().seconds(work) for work in order]
    fitting = max((n for n in range(7) if sum(seconds[:n]) <= left), default=0)
    if not fitting:
        with pytest.raises(SencacheError):
            stops(given_, pace(), left)
    else:
        went = [name for name, _ in stops(given_, pace(), left)]
        assert went == [work.lane.name for work in reversed(order[fitting:])]


def test_seconds_are_those_measured_and_the_expected_end_until_one_was_timed() -> None:
    made, work = pace(ending=100.0), Work(LISTED[0], 4, 6)
    assert made.seconds(work) == 4 * 2.0 + 6 * 0.5 + 100.0
    made.end(7.0)
    assert made.seconds(work) == 4 * 2.0 + 6 * 0.5 + 7.0
    made.step(record(9, "compute", 1000.0))
    assert made.seconds(work) == 4 * 2.0 + 6 * 0.5 + 7.0, "one slow step is no pace"


def test_nothing_is_concluded_from_the_first_steps() -> None:
    made = Pace(0.0)
    for step in range(ENOUGH):
        assert not made.known
        made.step(record(step, "compute"))
    assert made.known


@pytest.mark.parametrize(
    ("seen", "nfe", "computed"),
    [
        ("", None, 10.0),
        ("cccccccccrcr", None, 8 * 2 / 5),
        ("cccc", 6, 2),
        ("cccccccc", 6, 0),
        ("c" * 18, 30, 2),
    ],
)
def test_what_is_left_is_what_the_budget_or_the_lanes_own_share_says(
    seen: str, nfe: int | None, computed: float
) -> None:
    """Steps computed before anything could be reused say nothing about those to come."""
    caching = Planned(LaneSpec("fixed", "fixed"), Fixed(interval=2), 20)
    work = work_left(caching, records(seen), nfe)
    assert work.computed == pytest.approx(computed)
    assert work.computed + work.reused == 20 - len(seen)
    plain = work_left(Planned(LaneSpec("none", "none"), Full(), 20), records("c" * len(seen)), nfe)
    assert (plain.computed, plain.reused) == (20 - len(seen), 0)
