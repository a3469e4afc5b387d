"""MagCache against the official per-call rule, and on the ratios that its authors published."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import computed_steps, examples, numbers, ratio_profile

from sencache.errors import SencacheError
from sencache.policies import Decision, MagCache, Schedule
from sencache.policies.loading import load_all_bundled
from sencache.profiles.profile import Profile

# What these files hold, and which steps their presets compute, is told by test_published_profiles.py.
RATIOS = {name: profile.magcache.ratios for name, profile in load_all_bundled().items() if profile.magcache}


def decide(policy: MagCache, steps: int) -> list[Decision]:
    schedule = Schedule(tuple(1000.0 - i for i in range(steps)))
    rule = policy.start(schedule)
    return [rule.decide(step, dict) for step in schedule]


def schedule_of(ratios: list[float], steps: int | None = None, **settings: float) -> list[int]:
    """The steps computed over `steps` steps, as many as there are ratios unless given."""
    return computed_steps(decide(MagCache(ratio_profile(ratios), **settings), steps or len(ratios)))


def official(
    interleaved: list[float], steps: int, threshold: float, most: int, retention: float
) -> tuple[list[int], list[int]]:
    """The steps that the script computes in the conditional and in the unconditional branch.

    It counts the 2N calls of a run, c = 2i + branch, and keeps (g, E, m) per branch. In the first step there
    is no residual to reuse, whatever the retention.
    """
    ran: tuple[list[int], list[int]] = [], []
    norm_ratio, error, skipped = [1.0, 1.0], [0.0, 0.0], [0, 0]
    for call in range(2 * steps):
        branch = call % 2
        if call >= max(int(2 * steps * retention), 2):
            norm_ratio[branch] *= interleaved[call]
            skipped[branch] += 1
            error[branch] += abs(1 - norm_ratio[branch])
            if error[branch] < threshold and skipped[branch] <= most:
                continue
            norm_ratio[branch], error[branch], skipped[branch] = 1.0, 0.0, 0
        ran[branch].append(call // 2)
    return ran


def both_branches(ratios: list[float]) -> list[float]:
    return [ratio for ratio in ratios for _ in range(2)]


def test_the_default_takes_25_of_50_steps_on_wan():
    """As many as the SenCache paper reports for MagCache slow on Wan 2.1 1.3B."""
    assert len(schedule_of(RATIOS["wan2.1-t2v-1.3b"])) == 25


@st.composite
def ratio_lists(draw: st.DrawFn) -> list[float]:
    """1.0, then ratios between 0.9 and 1.02 in steps of a thousandth."""
    return [1.0, *(k / 1000 for k in numbers(draw, draw(st.integers(0, 39)), 900, 1020))]


@given(
    ratio_lists(),
    st.sampled_from([0.0, 0.12]) | st.floats(0, 0.6),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 1.0]) | st.floats(0, 1),
)
@examples(400)
def test_one_decision_per_step_is_what_the_conditional_calls_decide(ratios, threshold, most, retention):
    """Where retention ends between the two calls of a step, the official branches part by one step; else they
    agree.
    """
    steps = len(ratios)
    cond, uncond = official(both_branches(ratios), steps, threshold, most, retention)
    ours = schedule_of(ratios, threshold=threshold, max_reuses=most, retention=retention)
    assert ours == cond
    if int(2 * steps * retention) % 2 == 0:
        assert cond == uncond


def test_retention_that_ends_within_a_step_takes_the_whole_step():
    """5 steps at 0.5 are 5 of 10 calls: the conditional call of step 2, call 4, is still computed."""
    assert schedule_of([1.0] * 5, threshold=0.1, max_reuses=5, retention=0.5) == [0, 1, 2]


@given(
    st.sampled_from(sorted(RATIOS)),
    st.integers(2, 100),
    st.sampled_from([0.02, 0.06, 0.12, 0.24]),
    st.integers(1, 6),
)
@examples(100)
def test_published_ratios_serve_other_step_counts(model, steps, threshold, most):
    """Each branch resampled alone to the nearest neighbour, as the official nearest_interp does."""
    source = np.array(RATIOS[model])
    nearest = np.round(np.arange(steps) * ((len(source) - 1) / (steps - 1))).astype(int)
    resampled = [float(ratio) for ratio in source[nearest]]
    assert list(ratio_profile(RATIOS[model]).magnitude_ratios(steps)) == resampled
    cond, _ = official(both_branches(resampled), steps, threshold, most, 0.2)
    assert schedule_of(RATIOS[model], steps, threshold=threshold, max_reuses=most) == cond


@pytest.mark.parametrize(
    ("steps", "picked"),
    [(5, [0, 1, 2, 3, 4]), (3, [0, 2, 4]), (4, [0, 1, 3, 4]), (9, [0, 0, 1, 2, 2, 2, 3, 4, 4]), (2, [0, 4])],
)
def test_resampling_rounds_half_to_even(steps, picked):
    ratios = [1.0, 0.9, 0.8, 0.7, 0.6]
    assert ratio_profile(ratios).magnitude_ratios(steps) == tuple(ratios[k] for k in picked)
    assert schedule_of(ratios, 1, retention=0.0) == [0]


@given(ratio_lists(), st.floats(0, 0.6), st.integers(1, 6))
@examples(100)
def test_signals_accumulate_from_the_last_computed_step(ratios, threshold, most):
    policy = MagCache(ratio_profile(ratios), threshold=threshold, max_reuses=most)
    for i, decision in enumerate(decide(policy, len(ratios))):
        if decision.score is None:
            assert decision.reason in ("first_step", "warmup") and decision.signals == {}
            continue
        since = np.cumprod(ratios[decision.reference_step + 1 : i + 1])
        assert decision.signals["ratio"] == ratios[i]
        assert decision.signals["accumulated_ratio"] == pytest.approx(since[-1], rel=1e-12)
        assert decision.signals["accumulated_error"] == decision.score
        assert decision.score == pytest.approx(np.abs(1 - since).sum(), rel=1e-12, abs=1e-15)
        assert decision.tolerance == threshold
        assert (decision.reason == "above_tolerance") == (decision.score >= threshold)
        assert decision.reuse == (decision.score < threshold and i - decision.reference_step <= most)


@given(ratio_lists(), st.floats(0, 0.3), st.floats(0, 0.3), st.integers(1, 5), st.floats(0, 0.9))
@examples(100)
def test_the_first_run_of_reuses_grows_with_threshold_and_cap(ratios, threshold, more, most, retention):
    assume(len(ratios) > 1)

    def first_reuses(**changes: float) -> int:
        given_ = {"threshold": threshold, "max_reuses": most, "retention": retention, **changes}
        computed = [*schedule_of(ratios, **given_), len(ratios)]
        warm = max(int(2 * len(ratios) * retention + 1) // 2, 1)
        return next(b for a, b in pairwise(computed) if b >= warm)

    assert first_reuses() <= first_reuses(threshold=threshold + more)
    assert first_reuses() <= first_reuses(max_reuses=most + 1)


def test_it_computes_at_its_threshold():
    ratios = [1.0, 0.5, 1.0]
    assert schedule_of(ratios, threshold=0.5, retention=0.0) == [0, 1]
    assert schedule_of(ratios, threshold=math.nextafter(0.5, 1), retention=0.0) == [0, 2]
    assert schedule_of([1.0] * 4, threshold=0.0, retention=0.0) == [0, 1, 2, 3]


def test_a_profile_without_ratios_is_refused():
    profile = ratio_profile([1.0, 0.9])
    bare = Profile.model_validate({**profile.model_dump(by_alias=True), "magcache": None})
    with pytest.raises(SencacheError, match=r"test/model holds no MagCache ratios; calibrate"):
        MagCache(bare).check(2)
