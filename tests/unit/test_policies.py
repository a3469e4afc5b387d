"""Every rule against a plain statement of it, and what all rules promise the engine.

The statements know no state: each says, from the steps computed so far, whether step i may be reused. They
are written from the papers' and official scripts' rules, not from the code under test.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError, replace
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import (
    Course,
    Player,
    Row,
    computed_steps,
    courses,
    examples,
    lively,
    mean_abs,
    minus,
    missed,
    output_rate,
    play,
    polynomial_profile,
    profile_data,
    ratio_profile,
    recording_of,
    relative_change,
    rms,
    rows,
    sensitivity_profile,
)

from sencache import policies
from sencache.errors import SencacheError
from sencache.policies import (
    METHODS,
    Control,
    Decision,
    EasyCache,
    Fixed,
    Full,
    MagCache,
    Policy,
    Schedule,
    SenCache,
    TeaCache,
    make_policy,
    uses_profile,
)
from sencache.profile import Profile
from sencache.recording import simulate

LIVELY = sorted(lively((2.0, 1.0)))
Judge = Callable[[int, list[int]], tuple[bool, str, float | None, float | None, dict[str, float]]]


def unroll(total: int, judge: Judge) -> list[Row]:
    """The rows of a run in which `judge(i, computed)` speaks about every step but the first."""
    computed, found = [0], [Row(False, "first_step", None, None, {}, None, 0)]
    for i in range(1, total):
        verdict = judge(i, computed)
        found.append(Row(*verdict, computed[-1], i - computed[-1] if verdict[0] else 0))
        if not verdict[0]:
            computed.append(i)
    return found


def must(reason: str) -> tuple[bool, str, None, None, dict[str, float]]:
    return False, reason, None, None, {}


def scored(
    reuse: bool, score: float, limit: float, **signals: float
) -> tuple[bool, str, float, float, dict[str, float]]:
    return reuse, "within_tolerance" if reuse else "above_tolerance", score, limit, signals


def total_of(values: Sequence[float]) -> float:
    # sum() compensates rounding from Python 3.12 on; the published scripts add one by one.
    return reduce(add, values, 0.0)


def agree(decisions: Sequence[Decision], stated: Sequence[Row]) -> None:
    """The same decisions; the same numbers up to the rounding of differently ordered operations."""
    for decision, row in zip(rows(decisions), stated, strict=True):
        assert decision._replace(score=None, signals={}) == row._replace(score=None, signals={})
        assert (decision.score is None) == (row.score is None)
        assert decision.score is None or decision.score == pytest.approx(row.score, rel=1e-9, abs=1e-12)
        assert decision.signals == pytest.approx(row.signals, rel=1e-9, abs=1e-12)


def clear_cut(stated: Sequence[Row]) -> bool:
    """No score so near its tolerance that the order of float operations could tip it."""
    judged = [(row.score, row.tolerance) for row in stated if row.score is not None]
    return all(abs(score - limit) > 1e-7 * (1 + limit) for score, limit in judged)


# SenCache


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
@examples(400)
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


@given(courses(still=True), st.integers(1, 4), st.floats(0, 1))
@examples(100)
def test_sencache_first_gap_grows_with_tolerance_and_cap(course, most, tolerance):
    """Greedy schedules as a whole are not monotone in the tolerance; their first run of reuses is."""
    n = len(course)
    table = sensitivity_profile(course.timesteps, [1.0] * n, [0.001] * n)

    def first_gap(**changes: Any) -> int:
        given_ = {"tolerance": tolerance, "max_reuses": most, "early_fraction": 0.0, **changes}
        computed = computed_steps(play(SenCache(table, **given_), course)[0])
        return computed[1] if len(computed) > 1 else n

    assert first_gap() <= first_gap(tolerance=1.5 * tolerance + 0.01)
    assert first_gap() <= first_gap(max_reuses=most + 1) <= first_gap(max_reuses=most + 2)


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


def test_sencache_at_tolerance_zero_computes_where_the_table_says_zero():
    course = Course((900.0, 500.0), ((0.0,), (1.0,)), ((8.0,),) * 2, ((8.0,),) * 2, ((8.0,),) * 2)
    table = sensitivity_profile((900.0, 500.0), [0.0, 1.0], [0.0, 0.0])
    decisions, _ = play(SenCache(table, tolerance=0.0), course)
    assert computed_steps(decisions) == [0, 1]


def test_sencache_reuses_at_its_tolerance_and_not_above():
    course = Course((900.0, 700.0), ((0.0,), (0.5,)), ((8.0,),) * 2, ((8.0,),) * 2, ((8.0,),) * 2)
    table = sensitivity_profile(course.timesteps, [1.0, 1.0], [0.0, 0.0])

    def reuses(tolerance: float) -> bool:
        return play(SenCache(table, tolerance=tolerance, early_fraction=0.0), course)[0][1].reuse

    assert reuses(0.5) and not reuses(math.nextafter(0.5, 0))


@pytest.mark.parametrize(
    ("timestep", "row"),
    [
        (999.0, 0),
        (801.0, 0),
        (800.0, 0),
        (799.0, 1),
        (600.0, 1),
        (400.0, 1),
        (399.9, 4),
        (200.0, 4),
        (0.0, 4),
    ],
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
@examples(60)
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


# TeaCache


# ali-vilab/TeaCache @ 7c10efc (Apache-2.0), TeaCache4Wan2.1/teacache_generate.py:
# Wan 2.1 1.3B, and 14B in retention mode.
TEACACHE_PUBLISHED = [
    (2396.76752, -1311.10545, 201.331979, -8.29855975, 0.137887774),
    (-303318.725, 49053.7029, -2655.30556, 58.7365115, -0.315583525),
]


@pytest.mark.parametrize("coefficients", TEACACHE_PUBLISHED)
@given(st.floats(0, 1))
@examples(50)
def test_rescaling_is_numpys_polynomial(coefficients, change):
    fit = polynomial_profile(coefficients).teacache_fit()
    assert fit.rescale(change) == pytest.approx(np.poly1d(coefficients)(change), rel=1e-9, abs=1e-9)


def teacache_stated(course: Course, coefficients: Sequence[float], limit: float, first: int, last: int):
    """A = sum of P(relative change) since the last computed step; reuse while A < limit."""
    total = len(course)

    def judge(i: int, computed: list[int]):
        if i < first:
            return must("warmup")
        if i >= total - last:
            return must("last_step")
        changes = [relative_change(course.signals, j) for j in range(computed[-1] + 1, i + 1)]
        mapped = [float(np.polyval(coefficients, change)) for change in changes]
        score = total_of(mapped)
        signals = {"relative_l1": changes[-1], "rescaled": mapped[-1], "accumulated": score}
        return scored(score < limit and limit > 0, score, limit, **signals)

    return unroll(total, judge)


@st.composite
def polynomials(draw: st.DrawFn) -> list[float]:
    """Of the size that the courses' relative changes, some hundredths, call for; negative at times."""
    constant = draw(st.integers(-2, 8)) / 512
    return [*(k / 8 for k in draw(st.lists(st.integers(-8, 24), max_size=4))), constant]


@given(
    courses(),
    polynomials().filter(lambda c: np.polyval(c, np.linspace(0, 1, 101)).max() > 0),
    st.sampled_from([0.0, 0.125]) | st.floats(0, 0.3),
    st.integers(0, 6),
    st.integers(0, 3),
    st.booleans(),
)
@examples(300)
def test_teacache_decides_as_stated(course, coefficients, limit, first, last, from_profile):
    """The forced steps come from the profile, unless the policy has its own."""
    if from_profile:
        policy = TeaCache(polynomial_profile(coefficients, first, last), threshold=limit)
    else:
        profile = polynomial_profile(coefficients, first + 3, last + 2)
        policy = TeaCache(profile, threshold=limit, forced_first=first, forced_last=last)
    assert rows(play(policy, course)[0]) == teacache_stated(course, coefficients, limit, first, last)


def test_teacache_computes_at_its_threshold():
    """Each step the signal doubles: P(1) = 0.25, so A is 0.25, 0.5, ... exactly."""
    signals = tuple((2.0**i,) for i in range(6))
    course = Course(tuple(900.0 - 100 * i for i in range(6)), *(signals,) * 4)
    policy = TeaCache(polynomial_profile([0.25, 0.0]), threshold=0.5, forced_first=0, forced_last=0)
    assert computed_steps(play(policy, course)[0]) == [0, 2, 4]
    assert computed_steps(play(replace(policy, threshold=math.nextafter(0.5, 1)), course)[0]) == [0, 3]


def test_teacache_measures_the_signal_of_its_profile():
    profile = polynomial_profile([1.0])
    assert TeaCache(profile).signal == "time_embedding"
    assert SenCache(sensitivity_profile([1.0], [1.0], [1.0])).signal is None


# EasyCache


def easycache_stated(course: Course, policy: EasyCache) -> list[Row]:
    """E = sum of k mean|x_j - x_(j-1)| / mean|y_r| since the last computed step r; reuse while E < limit."""
    total, limit = len(course), policy.threshold

    def judge(i: int, computed: list[int]):
        if i < policy.forced_first or len(computed) < 2:
            return must("warmup")
        if i >= total - policy.forced_last:
            return must("last_step")
        r = computed[-1]
        k, norm = output_rate(course, computed[-2], r), mean_abs(course.outputs[r])
        moves = [mean_abs(minus(course.latents[j], course.latents[j - 1])) for j in range(r + 1, i + 1)]
        score = total_of([k * move / norm for move in moves])
        signals = {"input_change": moves[-1], "output_norm": norm, "rate": k, "accumulated": score}
        return scored(score < limit, score, limit, **signals)

    return unroll(total, judge)


@given(
    courses(),
    st.sampled_from([0.0, 0.05]) | st.floats(0, 0.3),
    st.integers(0, 12),
    st.integers(0, 3),
)
@examples(300)
def test_easycache_decides_as_stated(course, limit, first, last):
    policy = EasyCache(threshold=limit, forced_first=first, forced_last=last)
    assert rows(play(policy, course)[0]) == easycache_stated(course, policy)


@given(courses(least=12, most=30))
@examples(30)
def test_easycache_forces_ten_first_steps_and_the_last_by_default(course):
    decisions, _ = play(EasyCache(threshold=1e9), course)
    assert computed_steps(decisions) == [*range(10), len(course) - 1]


def test_easycache_computes_at_its_threshold():
    """x and y both move by 1 a step, so k is 1; y is 8 at step 1, so E is 1/8 at step 2."""
    outputs = ((7.0,), (8.0,), (9.0,))
    course = Course((900.0, 700.0, 500.0), ((0.0,), (1.0,), (2.0,)), outputs, outputs, outputs)
    policy = EasyCache(threshold=0.125, forced_first=0, forced_last=0)
    assert computed_steps(play(policy, course)[0]) == [0, 1, 2]
    assert computed_steps(play(replace(policy, threshold=math.nextafter(0.125, 1)), course)[0]) == [0, 1]


# Control


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
@examples(400)
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
@examples(25)
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


# Fixed


# scruffynerf/LeMiCa @ a3828a4 (fork of UnicomAI/LeMiCa; its README states Apache-2.0),
# LeMiCa4Wan2.1/inference_wan.py: Wan 2.1 1.3B, 50 steps, budgets 25 and 14.
LEMICA = [
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 21, 24, 29, 35, 40, 44, 47, 48, 49),
    (0, 1, 2, 3, 4, 5, 7, 10, 16, 23, 30, 37, 44, 49),
]


def fixed_decisions(policy: Fixed, total: int) -> list[Decision]:
    schedule = Schedule(tuple(1000.0 - i for i in range(total)))
    rule = policy.start(schedule)
    return [rule.decide(step, dict) for step in schedule]


@pytest.mark.parametrize("steps", LEMICA)
def test_fixed_follows_a_published_list(steps):
    decisions = fixed_decisions(Fixed(steps=steps), 50)
    assert tuple(computed_steps(decisions)) == steps
    assert {d.reason for d in decisions[1:]} == {"scheduled"}


@pytest.mark.parametrize(("interval", "evaluations"), [(3, 23), (4, 20)])
def test_fixed_gives_the_patterns_that_sencache_is_compared_with(interval, evaluations):
    """The first 10 of 50 and then every third or fourth."""
    decisions = fixed_decisions(Fixed(interval=interval, forced_first=10), 50)
    assert len(computed_steps(decisions)) == evaluations


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 20))
@examples(100)
def test_fixed_computes_the_first_steps_and_then_every_kth(total, interval, first):
    decisions = fixed_decisions(Fixed(interval=interval, forced_first=first), total)
    since = [i for i in range(total) if i < first or (i - first + 1) % interval == 0]
    assert computed_steps(decisions) == since
    assert [d.reuses for d in decisions] == [i - max(c for c in since if c <= i) for i in range(total)]


@given(st.integers(1, 40), st.sets(st.integers(0, 39)))
@examples(100)
def test_fixed_computes_step_0_and_its_list_or_refuses_a_step_beyond_the_run(total, steps):
    policy = Fixed(steps=tuple(sorted(steps)))
    if max(steps, default=0) < total:
        assert computed_steps(fixed_decisions(policy, total)) == sorted({0, *steps})
        policy.check(total)
        return
    wrong = min(i for i in steps if i >= total)
    for refuse in (policy.check, lambda n: fixed_decisions(policy, n)):
        with pytest.raises(SencacheError, match=rf"names step {wrong}, .* 0 to {total - 1}; give a list"):
            refuse(total)


@given(st.integers(1, 60), st.data())
@examples(100)
def test_spread_computes_exactly_the_budget_at_even_distances(total, data):
    budget = data.draw(st.integers(1, total))
    computed = computed_steps(fixed_decisions(Fixed().spread(total, budget), total))
    assert len(computed) == budget and computed[0] == 0
    gaps = [b - a for a, b in pairwise([*computed, total])]
    assert max(gaps) - min(gaps) <= 1


# What every rule promises


def test_every_method_is_among_those_played():
    assert {policy.name for policy in lively((2.0, 1.0)).values()} == set(METHODS)


MEASURING = [name for name in LIVELY if name not in ("none", "fixed", "magcache")]


@pytest.mark.parametrize("name", LIVELY)
@given(courses(least=4), st.sets(st.integers(0, 23)))
@examples(60)
def test_signals_are_measured_once_and_only_where_reuse_is_possible(name, course, uncached):
    policy = lively(course.timesteps)[name]
    decisions, measured = play(policy, course, uncached)
    judged = [i for i, d in enumerate(decisions) if d.reason in ("within_tolerance", "above_tolerance")]
    assert len(set(measured)) == len(measured)
    forced = {"first_step", "warmup", "last_step", "no_cache", "forced"}
    assert not [i for i in measured if decisions[i].reason in forced]
    if name in MEASURING:
        assert measured == judged


def test_fixed_measures_nothing_at_steps_on_its_list():
    schedule = Schedule((9.0, 8.0, 7.0, 6.0))
    rule, reads = Fixed(interval=2).start(schedule), []
    for step in schedule:
        rule.decide(step, lambda i=step.index: reads.append(i) or {})
    assert reads == [1, 3]


@pytest.mark.parametrize("name", LIVELY)
@given(courses(least=4), st.sets(st.integers(0, 23), max_size=3))
@examples(60)
def test_the_books_are_kept(name, course, uncached):
    """Reference step, reuses in a row, reasons and scores say what happened."""
    decisions, _ = play(lively(course.timesteps)[name], course, uncached)
    reference = None
    for i, decision in enumerate(decisions):
        assert decision.reference_step == reference
        assert decision.reuses == (i - reference if decision.reuse else 0)
        assert (decision.reason == "first_step") == (i == 0)
        assert (decision.reason == "no_cache") == (i > 0 and i in uncached)
        assert (decision.score is None) == (decision.tolerance is None)
        if decision.reason != "scheduled":
            assert decision.reuse == (decision.reason == "within_tolerance")
        reference = reference if decision.reuse else i
    assert max(d.reuses for d in decisions) <= {"sencache": 3, "magcache": 3, "fixed": 2}.get(
        name, len(course)
    )


@pytest.mark.parametrize("name", LIVELY)
@given(courses(least=6), st.data())
@examples(60)
def test_a_lost_cache_starts_the_rule_afresh(name, course, data):
    """From the step where nothing is cached on, the run goes as if it had begun there."""
    policy = lively(course.timesteps)[name]
    lost = data.draw(st.integers(1, len(course) - 1))
    continued = play(policy, course, {lost})[0][lost:]
    fresh = play(policy, course, start=lost)[0]
    assert continued[0].reuse is False and continued[0].reason == "no_cache"
    assert rows(continued[1:]) == rows(fresh[1:])


@pytest.mark.parametrize("name", LIVELY)
@given(courses(least=6), courses(least=6), st.data())
@examples(30)
def test_runs_of_one_policy_share_nothing(name, one, other, data):
    policy = lively(one.timesteps)[name]
    players = [Player(policy, course) for course in (one, other)]
    order = data.draw(st.permutations([0] * len(one) + [1] * len(other)))
    for which in order:
        players[which].go(len(players[which].decisions))
    assert [player.decisions for player in players] == [play(policy, course)[0] for course in (one, other)]


@pytest.mark.parametrize("name", LIVELY)
@given(courses(least=4), st.sets(st.integers(1, 23), max_size=2))
@examples(60)
def test_a_trace_replays_from_its_signals_alone(name, course, uncached):
    policy = lively(course.timesteps)[name]
    decisions, _ = play(policy, course, uncached)
    rule = policy.start(course.schedule)
    replayed = [
        rule.decide(step, lambda d=decision: dict(d.signals), cached=decision.reason != "no_cache")
        for step, decision in zip(course.schedule, decisions, strict=True)
    ]
    assert replayed == decisions


@given(courses(least=2))
@examples(20)
def test_the_full_run_computes_every_step_and_measures_nothing(course):
    decisions, measured = play(Full(), course)
    assert computed_steps(decisions) == list(range(len(course))) and measured == []
    assert [d.reason for d in decisions[1:]] == ["forced"] * (len(course) - 1)


def test_a_schedule_gives_its_steps_with_their_sigmas():
    schedule = Schedule((900.0, 100.0), (0.9, 0.1))
    assert [(s.index, s.total, s.timestep, s.sigma) for s in schedule] == [
        (0, 2, 900.0, 0.9),
        (1, 2, 100.0, 0.1),
    ]
    assert Schedule((900.0,)).step(0).sigma is None
    with pytest.raises(IndexError):
        schedule.step(2)


# Settings


@pytest.fixture(scope="module")
def profile() -> Profile:
    """One profile that serves every method."""
    parts = {
        "sensitivity": sensitivity_profile([9.0, 5.0], [1.0, 1.0], [0.0, 0.0]).sensitivity,
        "magcache": ratio_profile([1.0, 0.99]).magcache,
        "teacache": polynomial_profile([1.0, 0.0]).teacache,
    }
    return Profile.model_validate(profile_data([9.0, 5.0], **parts))


def refusal(call: Callable[[], object]) -> str:
    """The message of a refusal: one sentence, then a remedy."""
    with pytest.raises(SencacheError) as caught:
        call()
    message = str(caught.value)
    assert ";" in message and "\n" not in message and not re.search(r"\.( [A-Z]|$)", message), message
    return message


def test_the_defaults_are_the_published_ones(profile):
    sencache = SenCache(profile)
    assert (sencache.early_tolerance, sencache.early_fraction, sencache.max_reuses) == (0.01, 0.2, 3)
    magcache = MagCache(profile)
    assert (magcache.threshold, magcache.max_reuses, magcache.retention) == (0.12, 2, 0.2)
    easycache = EasyCache()
    assert (easycache.threshold, easycache.forced_first, easycache.forced_last) == (0.05, 10, 1)
    assert {method: make_policy(method, {}, profile).target for method in METHODS} == {
        **dict.fromkeys(METHODS, "residual"),
        "easycache": "delta",
    }
    assert {method for method in METHODS if make_policy(method, {}, profile).forecast == "linear"} == {
        "control"
    }


@pytest.mark.parametrize(
    ("method", "typed", "expected"),
    [
        ("sencache", {"tolerance": "0.25", "max_reuses": "4", "compute_last": "true"}, (0.25, 4, True)),
        ("sencache", {"tolerance": "1e-3", "max_reuses": "1", "compute_last": "0"}, (0.001, 1, False)),
        ("magcache", {"threshold": "0", "retention": "1"}, (0.0, 1.0)),
        ("teacache", {"forced_first": "5", "forced_last": "0"}, (5, 0)),
        (
            "easycache",
            {"forced_first": "0", "target": "output", "forecast": "linear"},
            (0, "output", "linear"),
        ),
        ("fixed", {"steps": ("0", "3"), "interval": "7"}, ((0, 3), 7)),
        ("control", {"tolerance": "0.5", "forecast": "hold"}, (0.5, "hold")),
    ],
)
def test_settings_are_converted_as_typed(method, typed, expected, profile):
    policy = make_policy(method, typed, profile)
    found = tuple(getattr(policy, name) for name in typed)
    assert found == expected and [type(x) for x in found] == [type(x) for x in expected]


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        ("sencache", "tolerance", "-0.1"),
        ("sencache", "tolerance", "nan"),
        ("sencache", "tolerance", "inf"),
        ("sencache", "tolerance", "much"),
        ("sencache", "early_tolerance", -1),
        ("sencache", "early_fraction", "1.01"),
        ("sencache", "early_fraction", "-0.01"),
        ("sencache", "max_reuses", "0"),
        ("sencache", "max_reuses", "2.5"),
        ("sencache", "max_reuses", "1001"),
        ("sencache", "compute_last", "perhaps"),
        ("sencache", "target", "video"),
        ("sencache", "forecast", "cubic"),
        ("magcache", "threshold", "-1"),
        ("magcache", "retention", "2"),
        ("magcache", "max_reuses", "0"),
        ("teacache", "threshold", "-1"),
        ("teacache", "forced_first", "-1"),
        ("teacache", "forced_last", "1001"),
        ("easycache", "threshold", float("nan")),
        ("easycache", "forced_first", "-3"),
        ("easycache", "forced_last", "1.5"),
        ("fixed", "interval", "0"),
        ("fixed", "forced_first", "0"),
        ("fixed", "steps", "1,2"),
        ("control", "tolerance", "-1e-9"),
        ("control", "max_reuses", "0"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_its_name_and_value(method, name, value, profile):
    assert refusal(lambda: make_policy(method, {name: value}, profile)).startswith(
        f"{method}.{name} is '{value}' ("
    )


@pytest.mark.parametrize("steps", [("0", "x"), ("0", "-1"), ("0", "1000")])
def test_a_wrong_entry_of_a_list_is_refused_with_its_place(steps):
    assert refusal(lambda: make_policy("fixed", {"steps": steps})).startswith(
        f"fixed.steps.1 is '{steps[1]}' ("
    )


def test_an_unknown_method_is_refused_with_those_there_are():
    message = refusal(lambda: make_policy("tecache", {}))
    assert "'tecache'" in message and all(name in message for name in METHODS)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_an_unknown_setting_is_refused_with_those_there_are(method, profile):
    own = make_policy(method, {}, profile).config()
    message = refusal(lambda: make_policy(method, {"zeal": "1", **own}, profile))
    assert message.startswith(f"{method} has no setting 'zeal'; it has ") and all(
        name in message for name in own
    )


def test_the_profile_is_no_setting(profile):
    assert "'profile'" in refusal(lambda: make_policy("sencache", {"profile": profile}, profile))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_settings_are_those_that_a_policy_is_configured_with(method, profile):
    assert policies.settings(method) == list(make_policy(method, {}, profile).config())


@pytest.mark.parametrize("method", [method for method in METHODS if uses_profile(method)])
def test_a_missing_profile_is_refused(method):
    assert refusal(lambda: make_policy(method, {})).startswith(
        f"{method} needs a calibrated profile; calibrate "
    )


def test_only_calibrated_methods_use_a_profile():
    assert {method for method in METHODS if uses_profile(method)} == {"sencache", "magcache", "teacache"}


@pytest.mark.parametrize("method", [method for method in METHODS if not uses_profile(method)])
def test_other_methods_take_no_profile(method, profile):
    assert make_policy(method, {}, profile) == make_policy(method, {})


@pytest.mark.parametrize("name", LIVELY)
def test_a_configuration_makes_the_same_policy_again(name):
    """Through JSON, as a report keeps it."""
    policy: Policy = lively((2.0, 1.0))[name]
    policy = replace(policy, steps=(0, 1)) if name == "fixed" else policy
    config = json.loads(json.dumps(policy.config()))
    assert "profile" not in config
    assert make_policy(policy.name, config, getattr(policy, "profile", None)) == policy


@pytest.mark.parametrize("name", LIVELY)
def test_policies_are_immutable(name):
    with pytest.raises(FrozenInstanceError):
        lively((2.0, 1.0))[name].target = "output"


@pytest.mark.parametrize("method", ["sencache", "magcache", "teacache"])
def test_a_policy_checks_its_profile_before_a_model_runs(method, profile):
    """Both when asked to and when started, and with the model's name."""
    bare = Profile.model_validate(profile_data([9.0, 5.0]))
    policy = make_policy(method, {}, bare)
    for ask in (lambda: policy.check(2), lambda: policy.start(Schedule((9.0, 5.0)))):
        assert "test/model" in refusal(ask)
    make_policy(method, {}, profile).check(2)
