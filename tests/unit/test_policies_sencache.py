"""SenCache's rule against a plain statement of it, at its edges and at every resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from statements import must, scored, unroll
from strategies import (
    Course,
    Row,
    computed_steps,
    courses,
    examples,
    minus,
    play,
    recording_of,
    rms,
    rows,
    sensitivity_profile,
)

from sencache.calibration.recording import simulate
from sencache.policies import SenCache


@st.composite
def sensitivity_tables(draw: st.DrawFn) -> tuple[list[float], list[float], list[float]]:
    """Calibrated timesteps, some of them repeated, with alphas; the last step may have none."""
    steps = draw(st.integers(2, 12))
    grid = draw(st.lists(st.integers(0, 40), min_size=steps, max_size=steps))
    rows_given = steps - draw(st.integers(0, 1))
    alphas = [
        draw(st.lists(st.integers(0, 16).map(lambda k, s=s: k * s), min_size=rows_given, max_size=rows_given))
        for s in (0.125, 0.0005)
    ]
    return [25.0 * k for k in sorted(grid, reverse=True)], alphas[0], alphas[1]


def nearest_row(
    t: float, timesteps: Sequence[float], alpha_x: Sequence[float], alpha_t: Sequence[float]
) -> tuple[float, float]:
    """The alphas at the calibrated timestep nearest to `t`: the first one met in sampling order."""
    found, least = None, math.inf
    for calibrated, x, a in zip(timesteps, alpha_x, alpha_t, strict=False):
        if abs(calibrated - t) < least:
            found, least = (x, a), abs(calibrated - t)
    assert found is not None
    return found


def sencache_stated(course: Course, policy: SenCache, table: tuple[list[float], ...]) -> list[Row]:
    """score = alpha_x(t_r) rms(x - x_r) + alpha_t(t_r) |t - t_r| <= tolerance, at most n times in a row."""
    total = len(course)
    strict = int(np.rint(policy.early_fraction * total))

    def judge(i: int, computed: list[int]):
        r = computed[-1]
        if policy.compute_last and i == total - 1:
            return must("last_step")
        if i - r > policy.max_reuses:
            return must("max_reuses")
        alpha_x, alpha_t = nearest_row(course.timesteps[r], *table)
        dx = rms(minus(course.latents[i], course.latents[r]))
        dt = course.timesteps[r] - course.timesteps[i]
        score = alpha_x * dx + alpha_t * dt
        early = min(policy.tolerance, policy.early_tolerance)
        limit = early if i < strict else policy.tolerance
        return scored(score <= limit, score, limit, dx_rms=dx, dt=dt, alpha_x=alpha_x, alpha_t=alpha_t)

    return unroll(total, judge)


@given(
    courses(still=True),
    sensitivity_tables().filter(lambda table: any(table[1]) or any(table[2])),
    st.sampled_from([0.0, 0.125, 0.25, 0.5]) | st.floats(0, 2),
    st.sampled_from([0.0, 0.01, 0.125]) | st.floats(0, 1),
    st.sampled_from([0.0, 0.2, 0.25, 0.5, 1.0]) | st.floats(0, 1),
    st.integers(1, 6),
    st.booleans(),
)
@examples(250)
def test_sencache_decides_as_stated(course, table, tolerance, early_tolerance, fraction, most, last):
    policy = SenCache(
        sensitivity_profile(*table),
        tolerance=tolerance,
        early_tolerance=early_tolerance,
        early_fraction=fraction,
        max_reuses=most,
        compute_last=last,
    )
    stated = sencache_stated(course, policy, table)
    assume(not any(row.score == row.tolerance == 0 for row in stated))
    assert rows(play(policy, course)[0]) == stated


@given(courses(least=2, still=True), st.booleans())
@examples(100)
def test_sencache_at_tolerance_zero_reuses_only_what_stands_still(course, early):
    n = len(course)
    table = sensitivity_profile(course.timesteps, [0.5] * n, [0.0] * n)
    changes = {"early_fraction": 1.0, "early_tolerance": 0.0, "tolerance": 9.0} if early else {}
    decisions, _ = play(SenCache(table, **{"tolerance": 0.0, **changes}), course)
    computed = 0
    for i, decision in enumerate(decisions):
        if decision.reuse:
            assert course.latents[i] == course.latents[computed]
        else:
            computed = i


def test_sencache_reuses_at_its_tolerance_and_not_above():
    course = Course((900.0, 700.0), ((0.0,), (0.5,)), ((8.0,),) * 2, ((8.0,),) * 2, ((8.0,),) * 2)
    table = sensitivity_profile(course.timesteps, [1.0, 1.0], [0.0, 0.0])

    def reuses(tolerance: float) -> bool:
        return play(SenCache(table, tolerance=tolerance, early_fraction=0.0), course)[0][1].reuse

    assert reuses(0.5) and not reuses(math.nextafter(0.5, 0))
    unmoved = sensitivity_profile(course.timesteps, [0.0, 1.0], [0.0, 0.0])
    assert not play(SenCache(unmoved, tolerance=0.0), course)[0][1].reuse, "a score of 0 says nothing"


@pytest.mark.parametrize(
    ("timestep", "row"),
    [(999.0, 0), (800.0, 0), (799.0, 1), (600.0, 1), (400.0, 1), (399.9, 4), (0.0, 4)],
)
def test_lookup_takes_the_nearest_row_the_earlier_on_a_tie_and_the_first_of_equals(timestep, row):
    """Rows at 1000, 600, 600, 600, 200: 800 and 400 lie half-way."""
    alphas = [float(k) for k in range(5)]
    table = sensitivity_profile([1000.0, 600.0, 600.0, 600.0, 200.0], alphas, [k / 10 for k in alphas])
    assert table.sensitivities().at(timestep) == (float(row), row / 10)


def test_sencache_keeps_the_alphas_of_its_reference_until_the_next_compute():
    timesteps = (1000.0, 750.0, 500.0, 250.0)
    course = Course(timesteps, ((0.0,), (0.125,), (0.25,), (0.375,)), *(((8.0,),) * 4,) * 3)
    table = sensitivity_profile(timesteps, [1.0, 50.0, 2.0, 70.0], [0.0] * 4)
    decisions, _ = play(SenCache(table, tolerance=0.25, max_reuses=9, early_fraction=0.0), course)
    assert [d.signals.get("alpha_x") for d in decisions] == [None, 1.0, 1.0, 1.0]
    assert [d.reuse for d in decisions] == [False, True, True, False]
    assert table.sensitivities().at(250.0)[0] == 70.0


@given(courses(least=2, most=16, still=True), st.floats(0.01, 1), st.integers(2, 9))
@examples(30)
def test_sencache_decides_alike_at_every_resolution(course, tolerance, copies):
    """Tiling keeps the RMS: one tolerance fits all sizes, through the sensors of a live run."""
    n = len(course)
    table = sensitivity_profile(course.timesteps, [0.75] * n, [0.0005] * n)
    policy = SenCache(table, tolerance=tolerance, early_tolerance=tolerance / 2)
    small, large = (simulate(policy, recording_of(course, k)).records for k in (1, copies))
    assume(all(r.score is None or abs(r.score - r.tolerance) > 1e-5 for r in small))
    assert [(r.decision, r.reason) for r in small] == [(r.decision, r.reason) for r in large]
    scores = [[r.score for r in records if r.score is not None] for records in (small, large)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("cap", "evaluations"), [(1, 30), (2, 23), (3, 20)])
def test_sencache_needs_as_many_evaluations_as_its_paper_at_least(cap, evaluations):
    """With the first 20 % of 50 steps computed and no other limit, n reuses leave 23 (n=2) or 20 (n=3)."""
    timesteps = tuple(1000.0 - 20 * i for i in range(50))
    walk = tuple((i / 8,) for i in range(50))
    table = sensitivity_profile(timesteps, [1.0] * 50, [0.0] * 50)
    policy = SenCache(table, tolerance=1e6, early_tolerance=0.0, max_reuses=cap)
    decisions, _ = play(policy, Course(timesteps, walk, *(((8.0,),) * 50,) * 3))
    assert len(computed_steps(decisions)) == evaluations
    assert computed_steps(decisions)[:10] == list(range(10))
