"""Recordings replayed, and settings found on them that meet a number of network evaluations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import (
    Course,
    courses,
    everything,
    examples,
    lively,
    play,
    polynomial_profile,
    ratio_profile,
    recording_of,
    sampled,
    sensitivity_profile,
)

from sencache.calibration.budget import match_nfe
from sencache.calibration.recording import Recorder, Recording, full_watch_list, simulate
from sencache.engine.cache import History
from sencache.engine.step import StepState
from sencache.errors import SencacheError
from sencache.forecasts import FORECASTS
from sencache.policies import Control, EasyCache, Fixed, Full, MagCache, Policy, SenCache, TeaCache, tables
from sencache.policies.base import Step
from sencache.policies.senses import Choice, ForecastError
from sencache.policies.tables import SPAN

STEPS = 48
TIMESTEPS = tuple(1000.0 - 20 * i for i in range(STEPS))


@cache
def steady(speed: float, steps: int = STEPS) -> Recording:
    """A latent of four elements that moves by `speed` RMS in every step."""
    places = tuple((i * speed,) * 4 for i in range(steps))
    return recording_of(Course(TIMESTEPS[:steps], places, *(places,) * 3))


def by_distance(**settings: float) -> SenCache:
    """SenCache whose score is how far the latent has moved, in RMS."""
    table = sensitivity_profile(TIMESTEPS, [1.0] * STEPS, [0.0] * STEPS)
    return SenCache(table, **{"early_fraction": 0.0, **settings})


def nfe(policy: Policy, recording: Recording) -> int:
    return simulate(policy, recording).nfe


# Playing a recording


# A course's latents have no frames for SeaCache to filter.
@pytest.mark.parametrize("name", sorted(set(lively((2.0, 1.0))) - {"seacache"}))
@given(courses(least=4))
@examples(10)
def test_a_recording_plays_as_the_definitions_say(name, course):
    """The engine's sensors on tensors against the same signals in plain Python."""
    policy = lively(course.timesteps)[name]
    if name == "easycache":
        policy = replace(policy, target="delta")
    expected, _ = play(policy, course)
    assume(all(d.score is None or abs(d.score - d.tolerance) > 1e-5 for d in expected))
    assume(name != "firstblock" or max(d.reuses for d in expected) < SPAN)  # Farther back nothing is known.
    records = simulate(policy, recording_of(course)).records
    assert [(r.decision == "reuse", r.reason) for r in records] == [(d.reuse, d.reason) for d in expected]
    assert [(r.step, r.timestep) for r in records] == list(enumerate(course.timesteps))
    for record, decision in zip(records, expected, strict=True):
        assert record.signals == pytest.approx(dict(decision.signals), rel=1e-4, abs=1e-5)


@given(courses(least=2))
@examples(10)
def test_simulating_leaves_the_recording_as_it_was(course):
    recording, fresh = recording_of(course), recording_of(course)
    for policy in lively(course.timesteps).values():
        assert simulate(policy, recording).records == simulate(policy, recording).records
    for name, table in recording.tables.items():
        assert np.array_equal(table, fresh.tables[name], equal_nan=True)


def test_simulating_the_full_run_computes_every_step():
    trace = simulate(Full(), steady(0.5))
    assert trace.nfe == len(trace) == STEPS
    assert [record.reason for record in trace] == ["first_step", *["forced"] * (STEPS - 1)]


def step_of(value: float, sigma: float | None = None, index: int = 0) -> StepState:
    """A step at which everything there is to see is `value`, and its negative in the other half."""
    batch = [torch.tensor([[-value], [value]]) for _ in range(5)]
    made = StepState(Step(index, 9, 900.0 - index, sigma), batch[0], slice(1, 2), signal=batch[1])
    made.residual, made.output, made.head = batch[2:]
    return made


def test_a_recording_keeps_sigmas_only_where_every_step_has_one():
    def record(*sigmas: float | None) -> Recording:
        recorder = Recorder(None)
        for index, sigma in enumerate(sigmas):
            recorder.observe(step_of(float(index), sigma, index))
        return recorder.recording()

    complete = record(0.9, 0.5, 0.1)
    assert complete.schedule.sigmas == (0.9, 0.5, 0.1)
    assert [r.sigma for r in simulate(Full(), complete)] == [0.9, 0.5, 0.1]
    assert record(0.9, None, 0.1).schedule.sigmas is None


def test_a_recorder_copies_what_belongs_to_the_prompt():
    """Guidance doubled the batch: the second half is the prompt's. Buffers may be overwritten afterwards."""
    recorder = Recorder("time_embedding", everything())
    for index, value in enumerate((2.0, 5.0)):
        seen = step_of(value, index=index)
        recorder.observe(seen)
        recorder.note_prediction(seen.step, sampled(seen.output[1:]))
        for tensor in (seen.latent, seen.signal, seen.residual, seen.output, seen.head):
            tensor.zero_()
    kept = recorder.recording()
    assert kept.timesteps == (900.0, 899.0)
    tables = {name: table.tolist() for name, table in kept.tables.items()}
    assert tables["latent_rms"] == tables["latent_l1"] == tables["output_l1"] == [[0, 3], [3, 0]]
    assert tables["output_norm"] == [2.0, 5.0] and tables["signal_change"] == [0.0, 1.5]
    assert tables["head_change"] == [[math.inf, math.inf], [1.5, math.inf]]
    assert tables["norms.residual"] == [4.0, 25.0]
    assert tables["products.output"] == [[0.0, 0.0], [0.0, 9.0]]
    assert tables["predictions"] == [[4.0, 10.0], [10.0, 25.0]]


def test_several_videos_at_once_are_no_recording():
    with pytest.raises(SencacheError, match="one video at a time can be recorded, not 2"):
        Recorder(None).observe(
            StepState(Step(0, 1, 900.0), torch.zeros(2, 3), slice(None), output=torch.zeros(2, 3))
        )


@pytest.mark.parametrize("forecast", ["hold", "linear", "taylor"])
def test_forecast_errors_from_inner_products_are_those_of_the_tensors(forecast):
    """On a curve in 40 dimensions, against the forecast itself; beyond what is kept they are infinite."""
    draw = np.random.default_rng(3)
    t = TIMESTEPS[:30]
    points = np.cumsum(draw.normal(size=(30, 40)), axis=0) + 10
    rows = tuple(tuple(map(float, point)) for point in points)
    recording, choice = recording_of(Course(t, rows, rows, rows, rows)), Choice("output", FORECASTS[forecast])
    for computed in [(0, 1, 2, 3), (2, 5, 9, 10), (10, 15, 18, 25), (14, 20, 28, 29)]:
        history, c = History(FORECASTS[forecast]), computed[-1]
        for node in computed[:-1]:
            history.put(Step(node, 30, t[node]), torch.tensor(points[node]))
        missed = points[c] - history.forecast(Step(c, 30, t[c])).numpy()
        expected = np.linalg.norm(missed) / np.linalg.norm(points[c])
        assert read(recording, choice, computed) == pytest.approx(expected, rel=1e-5)
    assert read(recording, choice, (0, 1, 2, SPAN + 3)) == math.inf


def read(recording: Recording, choice: Choice, computed: Sequence[int]) -> float:
    return ForecastError.read(recording, choice, computed[-1] + 1, computed)["forecast_error"]


@given(st.integers(1, 40), st.integers(1, 50))
@examples(15)
def test_products_are_the_same_in_pieces_and_whole(size, piece):
    a, b = torch.randn(2, 3, size, generator=torch.Generator().manual_seed(size)).unbind()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "PIECE", piece)
        found = tables.dot(a, b.half()).item()
    assert found == pytest.approx((a.double() * b.half().double()).sum().item(), rel=1e-12, abs=1e-12)


def test_a_recorder_keeps_a_span_of_changes_and_the_newest_value():
    for table in (tables.Products(lambda value: value), tables.Changes(lambda value: value)):
        for step in range(SPAN + 5):
            table.note(torch.full((1, 4), float(step)))
            assert len(table._window) <= SPAN
        assert table.array().shape == (SPAN + 5,) * 2


# Meeting a budget


@pytest.mark.parametrize(("budget", "reuses"), [(48, 0), (24, 1), (16, 2), (12, 3)])
def test_the_budget_is_hit_where_the_rule_can(budget, reuses):
    """At a steady speed of 1/8, k reuses in a row need a tolerance between k/8 and (k+1)/8."""
    found = match_nfe(by_distance(), [steady(0.125)], budget)
    assert nfe(found, steady(0.125)) == budget
    assert found.max_reuses == by_distance().max_reuses
    assert reuses / 8 <= found.tolerance and (reuses == 3 or found.tolerance < (reuses + 1) / 8)


@pytest.mark.parametrize(
    ("budget", "cap", "reached"), [(10, 4, 10), (8, 5, 8), (6, 7, 6), (7, 6, 7), (1, 47, 1)]
)
def test_the_cap_is_raised_as_little_as_the_budget_needs(budget, cap, reached):
    found = match_nfe(by_distance(), [steady(0.125)], budget)
    assert (found.max_reuses, nfe(found, steady(0.125))) == (cap, reached)
    assert nfe(replace(found, max_reuses=cap - 1, tolerance=100.0), steady(0.125)) > budget


@pytest.mark.parametrize(
    ("budget", "reached"), [(48, 48), (40, 48), (36, 48), (35, 24), (20, 24), (19, 16), (14, 16)]
)
def test_between_two_costs_the_nearer_is_taken_and_the_tighter_of_two_as_near(budget, reached):
    """Steady motion can cost 48, 24, 16 or 12 and nothing else; the cap stays, it is not in the way."""
    found = match_nfe(by_distance(), [steady(0.125)], budget)
    assert nfe(found, steady(0.125)) == reached
    assert found.max_reuses == 3


def test_on_a_plateau_the_tighter_setting_is_taken():
    """Every tolerance from 3/8 up costs 12; the grid's points are a factor 2.2 apart."""
    found = match_nfe(by_distance(), [steady(0.125)], 12)
    assert 0.375 <= found.tolerance <= 0.375 * 2.2
    assert match_nfe(by_distance(tolerance=50.0), [steady(0.125)], 48).tolerance <= 1e-4


def test_the_knob_is_a_number_that_can_be_typed_again():
    for budget in (12, 16, 24, 48):
        value = match_nfe(by_distance(), [steady(0.1234567)], budget).tolerance
        assert float(f"{value:.4g}") == value


def test_settings_that_were_given_stay():
    recording = [steady(0.125)]
    policy = by_distance(tolerance=0.2)
    assert match_nfe(policy, recording, 12, {"tolerance"}) is policy
    capped = match_nfe(by_distance(max_reuses=2), recording, 12, {"max_reuses"})
    assert (capped.max_reuses, nfe(capped, recording[0])) == (2, 16)
    assert match_nfe(by_distance(early_fraction=0.5), recording, 30).early_fraction == 0.5
    for settings in ({"interval": 4}, {"steps": (0, 9)}):
        fixed = Fixed(**settings)
        assert match_nfe(fixed, recording, 12, settings) is fixed
    found = match_nfe(Fixed(forced_first=10), recording, 24, {"forced_first"})
    assert found.forced_first == 10 and found.steps[:10] == tuple(range(10)) and len(found.steps) == 24


def test_as_many_evaluations_as_steps_are_always_possible():
    found = match_nfe(MagCache(ratio_profile([1.0] * STEPS), retention=0.0), [steady(0.125)], STEPS)
    assert nfe(found, steady(0.125)) == STEPS


def test_methods_without_a_knob_are_spread_or_stay():
    policy = Full()
    assert match_nfe(policy, [steady(0.125)], 12) is policy
    for budget in (1, 7, 31, STEPS):
        assert nfe(match_nfe(Fixed(interval=5), [steady(0.125)], budget), steady(0.125)) == budget


def test_the_budget_is_the_mean_over_all_recordings():
    """Between 3/16 and 6/16 slow motion costs 12 and fast 48: 30 in the mean, which neither costs alone."""
    slow, fast = steady(1 / 16), steady(6 / 16)
    found = match_nfe(by_distance(), [slow, fast], 30)
    assert (nfe(found, slow), nfe(found, fast)) == (12, 48)
    assert 3 / 16 <= found.tolerance < 6 / 16
    assert nfe(match_nfe(by_distance(), [slow], 30), slow) == 24
    assert nfe(match_nfe(by_distance(), [slow, slow, fast], 24), slow) == 12


def slowing(fast: int, slow: int) -> Recording:
    """So many steps at a speed of 1/8, then so many at 1/32."""
    places = np.cumsum([0.0, *[1 / 8] * (fast - 1), *[1 / 32] * slow]).tolist()
    walk = tuple((place,) * 4 for place in places)
    return recording_of(Course(TIMESTEPS[: len(walk)], walk, *(walk,) * 3))


def test_half_an_evaluation_over_the_budget_does_not_raise_the_cap():
    """One reuse in a row costs 24 of 48 and 23 of 46 steps, 23.5 in the mean: near enough to 23, although two
    in a row would meet it, as the slow end of the second run then saves another step.
    """
    recordings = [steady(1 / 8), slowing(40, 6)]
    policy = by_distance(max_reuses=1)
    assert [nfe(replace(policy, max_reuses=2, tolerance=0.13), recording) for recording in recordings] == [
        24,
        22,
    ]
    found = match_nfe(policy, recordings, 23)
    assert sum(nfe(found, recording) for recording in recordings) == 24 + 23
    assert found.max_reuses == 1


def test_a_cap_that_is_not_in_the_way_stays_although_another_comes_nearer():
    """24 fast and 24 slow steps cost 18 at 1/8 and 14 at 2/8; four reuses in a row would meet 17 at 1/8."""
    recording = slowing(24, 24)
    costs = [nfe(by_distance(tolerance=tolerance), recording) for tolerance in (0.13, 0.26, 100.0)]
    assert costs == [18, 14, 12]
    assert nfe(by_distance(tolerance=0.13, max_reuses=4), recording) == 17
    found = match_nfe(by_distance(), [recording], 16)
    assert (nfe(found, recording), found.max_reuses) == (18, 3)


# All methods on a smooth run


@cache
def smooth(steps: int = 50) -> Recording:
    """Sixteen elements on curves that bend most at the end, as a sampler's do."""
    draw = torch.Generator().manual_seed(7)
    a, b, c, d = (torch.randn(1, 16, generator=draw) for _ in range(4))
    recorder = Recorder("time_embedding", full_watch_list())
    for i in range(steps):
        u = i / (steps - 1)
        latent = (1 - u) * a + u * b + 0.3 * math.sin(3 * u) * c
        seen = StepState(Step(i, steps, 1000.0 - 900 * u * (0.5 + 0.5 * u)), latent, slice(None))
        seen.signal = 5 + 0.1 * a + u * c + 0.2 * u * u * b
        seen.residual = 2 * a + u * b + u * u * c + 2 * u**3 * d
        seen.output = a + math.exp(2 * u - 2) * b + u * u * d
        recorder.observe(seen)
        recorder.note_prediction(seen.step, sampled(seen.output))
    return recorder.recording()


def on_smooth_runs() -> dict[str, Policy]:
    steps = 50
    rising = [0.5 + (i / steps) ** 4 for i in range(steps)]
    ratios = [1.0, *(1 - 0.004 - 0.1 * (i / steps) ** 6 for i in range(1, steps))]
    table = sensitivity_profile(smooth().timesteps, rising, [0.001] * steps)
    return {
        "sencache": SenCache(table),
        "magcache": MagCache(ratio_profile(ratios)),
        "teacache": TeaCache(polynomial_profile([2.0, 1.0, 0.0])),
        "easycache": EasyCache(),
        "control": Control(),
    }


def reachable(cost: Callable[[float], int], knobs: Sequence[float]) -> set[int]:
    """The costs that a knob turned by 3 % at a time meets at least twice."""
    return {value for value, times in Counter(cost(knob) for knob in knobs).items() if times > 1}


@pytest.mark.parametrize("name", sorted(on_smooth_runs()))
def test_no_setting_comes_nearer_to_a_budget(name):
    """Against turning the knob all the way."""
    policy, recording = on_smooth_runs()[name], smooth()

    def cost(value: float) -> int:
        return nfe(replace(policy, **{policy.knob: value}), recording)

    costs = reachable(cost, np.geomspace(1e-4, 100, 460).tolist())
    assert len(costs) > 8
    for budget in range(2, 51, 6):
        found = match_nfe(policy, [recording], budget, {"max_reuses"})
        assert abs(nfe(found, recording) - budget) <= min(abs(other - budget) for other in costs)
