"""EasyCache's rule against a plain statement of it."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from statements import must, scored, total_of, unroll
from strategies import (
    Course,
    Row,
    computed_steps,
    courses,
    examples,
    mean_abs,
    minus,
    output_rate,
    play,
    rows,
)

from sencache.policies import EasyCache


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
@examples(200)
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
