"""TeaCache's rule against a plain statement of it, and its polynomial against numpy's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statements import must, scored, total_of, unroll
from strategies import (
    Course,
    computed_steps,
    courses,
    examples,
    play,
    polynomial_profile,
    relative_change,
    rows,
    sensitivity_profile,
)

from sencache.policies import SenCache, TeaCache

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
@examples(200)
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
