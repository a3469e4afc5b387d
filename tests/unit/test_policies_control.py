"""The rule of `control` against a plain statement of it, and schedules that repeat timesteps."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from statements import agree, clear_cut, must, scored, unroll
from strategies import LIVELY, Course, Row, courses, examples, lively, missed, play

from sencache.errors import SencacheError
from sencache.policies import Control, EasyCache, Fixed, Schedule


def control_stated(course: Course, policy: Control) -> list[Row]:
    """The last error seen, times how much farther the nodes are now than they were then."""
    total, t = len(course), course.timesteps
    order = 2 if policy.forecast == "linear" else 1

    def judge(i: int, computed: list[int]):
        if len(computed) <= order:
            return must("warmup")
        if i == total - 1:
            return must("last_step")
        if i - computed[-1] > policy.max_reuses:
            return must("max_reuses")
        *older, c = computed[-order - 1 :]
        b = older[-1]
        e = missed(course, older, c)
        if order == 2:
            score = e * (t[c] - t[i]) * (t[b] - t[i]) / ((t[b] - t[c]) * (t[older[0]] - t[c]))
        else:
            score = e * (t[c] - t[i]) / (t[b] - t[c])
        limit = policy.tolerance
        return scored(score <= limit, score, limit, forecast_error=e, predicted_error=score)

    return unroll(total, judge)


@given(courses(), st.floats(0, 0.5), st.integers(1, 8), st.sampled_from(["linear", "hold"]))
@examples(200)
def test_control_decides_as_stated(course, tolerance, most, forecast):
    policy = Control(tolerance=tolerance, max_reuses=most, forecast=forecast)
    stated = control_stated(course, policy)
    assume(clear_cut(stated))
    agree(play(policy, course)[0], stated)


@pytest.mark.parametrize(
    ("forecast", "values", "timesteps", "edge"),
    [
        # Held from 900 to 700 the error is (8-6)/8, and 600 is half as far from 700 as 700 from 900.
        ("hold", (6.0, 8.0, 8.0, 8.0), (900.0, 700.0, 600.0, 500.0), 0.125),
        # 8, 8 forecast 8 at 500, the truth is 16: e = 0.5; at 400 the factor is 100*300/(200*400).
        ("linear", (8.0, 8.0, 16.0, 8.0, 8.0), (900.0, 700.0, 500.0, 400.0, 300.0), 0.1875),
    ],
)
def test_control_reuses_at_its_tolerance_and_not_above(forecast, values, timesteps, edge):
    vectors = tuple((value,) for value in values)
    course = Course(timesteps, vectors, vectors, vectors, vectors)
    warm = {"hold": 2, "linear": 3}[forecast]

    def reuses(tolerance: float) -> bool:
        return play(Control(tolerance=tolerance, forecast=forecast), course)[0][warm].reuse

    assert reuses(edge) and not reuses(math.nextafter(edge, 0))


@pytest.mark.parametrize("policy", [Control(), Fixed(forecast="linear"), EasyCache(forecast="linear")])
def test_linear_forecasts_refuse_a_schedule_that_repeats_timesteps(policy):
    with pytest.raises(SencacheError, match="repeats timesteps; use "):
        policy.start(Schedule((900.0, 500.0, 500.0, 100.0)))
    policy.start(Schedule((900.0, 500.0, 400.0, 100.0)))


@pytest.mark.parametrize("name", [name for name in LIVELY if name not in ("control", "control-hold")])
@given(courses(least=6), st.data())
@examples(10)
def test_holding_serves_a_schedule_that_repeats_timesteps(name, course, data):
    """As Heun's does."""
    t = list(course.timesteps)
    k = data.draw(st.integers(1, len(t) - 1))
    t[k] = t[k - 1]
    course = replace(course, timesteps=tuple(t))
    decisions, _ = play(lively(t)[name], course)
    assert len(decisions) == len(t)


def test_control_that_holds_serves_or_refuses_a_schedule_that_repeats_timesteps():
    vectors = tuple((float(8 + i),) for i in range(5))
    course = Course((900.0, 900.0, 500.0, 500.0, 100.0), vectors, vectors, vectors, vectors)
    try:
        decisions, _ = play(Control(forecast="hold", tolerance=0.5), course)
    except SencacheError:
        return
    assert all(d.score is None or math.isfinite(d.score) for d in decisions)
