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
from sencache.profiles.profile import Profile

# Zehong-Ma/MagCache @ df81cb1 (Apache-2.0), MagCache4Wan2.1/magcache_generate.py, lines 912, 910, 1002, 1004
# and 1142: the conditional calls' ratios, every second value of each list.
PUBLISHED = {
    "wan2.1-t2v-1.3b": """
        1.0 1.0124 1.00166 0.99791 0.99682 0.99634 0.99567 0.99416 0.99578 0.9957 0.99511 0.99535 0.99552
        0.99541 0.9954 0.99489 0.99518 0.99484 0.99481 0.99415 0.99419 0.99396 0.99388 0.99349 0.99309
        0.9927 0.99228 0.99171 0.99137 0.99068 0.99005 0.98944 0.98849 0.98758 0.98644 0.98504 0.9836
        0.98202 0.97977 0.97717 0.9741 0.97003 0.96538 0.9593 0.95086 0.94013 0.92402 0.90241 0.86821
        0.81838
    """,
    "wan2.1-t2v-14b": """
        1.0 1.02504 1.00025 0.9985 0.99779 0.9966 0.99482 0.99467 0.99664 0.99434 0.99533 0.99468 0.99438
        0.99516 0.99384 0.99404 0.99517 0.99409 0.99428 0.99347 0.99418 0.99271 0.99313 0.99215 0.99218
        0.99216 0.99163 0.99138 0.98982 0.98996 0.9887 0.98772 0.98767 0.98573 0.98501 0.9838 0.98177
        0.98037 0.97678 0.97546 0.97184 0.96711 0.96349 0.95629 0.94926 0.93964 0.92511 0.90693 0.8796
        0.86111
    """,
    "wan2.1-i2v-14b-480p": """
        1.0 0.98783 0.97559 0.98311 0.98202 0.9888 0.98762 0.98957 0.99052 0.99383 0.98857 0.99065 0.98845
        0.99057 0.98957 0.98601 0.98823 0.98756 0.98808 0.98721 0.98571 0.98543 0.98157 0.98411 0.97952
        0.98149 0.9774 0.97825 0.97355 0.97085 0.97056 0.96588 0.96113 0.9567 0.94961 0.93973 0.93217
        0.91878 0.90955 0.92617
    """,
    "wan2.1-i2v-14b-720p": """
        1.0 0.99428 0.98588 0.98273 0.99018 0.98911 0.98646 0.99454 0.9891 0.99124 0.99102 0.99215 0.99515
        0.99576 0.99068 0.99097 0.99166 0.99041 0.99201 0.99101 0.98599 0.98845 0.98848 0.98862 0.98718
        0.98497 0.98264 0.98389 0.97938 0.97535 0.97498 0.973 0.96827 0.96261 0.95335 0.94649 0.93397
        0.91636 0.89088 0.8679
    """,
    "wan2.1-vace-1.3b": """
        1.0 1.00129 1.00056 0.99776 0.99726 0.99725 0.9958 0.99703 0.99863 0.99735 0.99714 0.99697 0.9969
        0.99695 0.99697 0.99608 0.99721 0.99649 0.99659 0.99727 0.99603 0.99652 0.99635 0.9958 0.99581
        0.99573 0.99531 0.99505 0.99481 0.99426 0.99403 0.99357 0.99302 0.99243 0.9916 0.99085 0.98985
        0.98857 0.98717 0.98551 0.98301 0.9805 0.97635 0.97183 0.96496 0.95526 0.94102 0.91809 0.87871
        0.80141
    """,
}
RATIOS = {model: [float(word) for word in text.split()] for model, text in PUBLISHED.items()}

WAN_SLOW = [*range(10), 12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 42, 44, 46, 48, 49]
WAN_FAST = [*range(10), 14, 19, 24, 29, 34, 38, 41, 44, 46, 48, 49]


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


@pytest.mark.parametrize(
    ("model", "threshold", "most", "computed"),
    [
        ("wan2.1-t2v-1.3b", 0.12, 2, WAN_SLOW),
        ("wan2.1-t2v-1.3b", 0.12, 4, WAN_FAST),
        ("wan2.1-t2v-14b", 0.12, 2, WAN_SLOW),
        ("wan2.1-t2v-14b", 0.24, 6, [*range(10), 16, 23, 30, 36, 41, 44, 47, 49]),
        ("wan2.1-i2v-14b-480p", 0.12, 4, [*range(8), 12, 17, 21, 25, 28, 31, 34, 36, 38]),
        ("wan2.1-i2v-14b-480p", 0.24, 6, [*range(8), 14, 20, 25, 30, 34, 37, 39]),
        ("wan2.1-i2v-14b-720p", 0.12, 4, [*range(8), 12, 17, 22, 26, 30, 33, 35, 37, 39]),
        ("wan2.1-i2v-14b-720p", 0.24, 6, [*range(8), 14, 21, 27, 32, 35, 38]),
        ("wan2.1-vace-1.3b", 0.02, 3, [*range(10), 13, 17, 21, 24, 27, 30, 33, 35, 37, 39, *range(41, 50)]),
    ],
)
def test_published_presets_compute_these_steps(model, threshold, most, computed):
    """Wan 2.1 1.3B slow and fast are the 25 and 21 of 50 that the SenCache paper reports for MagCache."""
    assert schedule_of(RATIOS[model], threshold=threshold, max_reuses=most, retention=0.2) == computed


def test_wan_takes_25_and_21_of_50_steps():
    assert (len(WAN_SLOW), len(WAN_FAST)) == (25, 21)
    assert schedule_of(RATIOS["wan2.1-t2v-1.3b"]) == WAN_SLOW


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


@pytest.mark.parametrize(
    ("steps", "retention", "warm"), [(5, 0.5, 3), (7, 0.5, 4), (25, 0.1, 3), (24, 0.1, 2)]
)
def test_retention_that_ends_within_a_step_takes_the_whole_step(steps, retention, warm):
    """5 steps at 0.5 are 5 of 10 calls: the conditional call of step 2, call 4, is still computed."""
    ratios = [1.0] * steps
    computed, _ = official(both_branches(ratios), steps, 0.1, steps, retention)
    assert schedule_of(ratios, threshold=0.1, max_reuses=steps, retention=retention) == computed
    assert computed == list(range(warm))


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


def test_a_run_of_one_step_is_computed():
    assert schedule_of(RATIOS["wan2.1-t2v-1.3b"], 1, retention=0.0) == [0]


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


@given(st.integers(1, 60), st.integers(1, 8), st.floats(0, 1))
@examples(100)
def test_ratios_of_one_leave_only_the_cap(steps, most, retention):
    """Nothing changes, so every (most + 1)-th step after retention is computed."""
    computed = schedule_of([1.0] * steps, threshold=0.1, max_reuses=most, retention=retention)
    warm = max(math.floor(steps * retention + 0.5), 1)
    assert computed == [i for i in range(steps) if i < warm or (i - warm + 1) % (most + 1) == 0]


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


@given(ratio_lists(), st.integers(1, 6))
@examples(50)
def test_threshold_zero_computes_every_step(ratios, most):
    assert schedule_of(ratios, threshold=0.0, max_reuses=most, retention=0.0) == list(range(len(ratios)))


def test_a_profile_without_ratios_is_refused():
    profile = ratio_profile([1.0, 0.9])
    bare = Profile.model_validate({**profile.model_dump(by_alias=True), "magcache": None})
    with pytest.raises(SencacheError, match=r"test/model holds no MagCache ratios; calibrate"):
        MagCache(bare).check(2)
