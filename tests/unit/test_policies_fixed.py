"""Fixed schedules: published lists, every kth step, and an exact budget."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import computed_steps, examples

from sencache.errors import SencacheError
from sencache.policies import Decision, Fixed, Schedule

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


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 20))
@examples(50)
def test_fixed_computes_the_first_steps_and_then_every_kth(total, interval, first):
    decisions = fixed_decisions(Fixed(interval=interval, forced_first=first), total)
    since = [i for i in range(total) if i < first or (i - first + 1) % interval == 0]
    assert computed_steps(decisions) == since
    assert [d.reuses for d in decisions] == [i - max(c for c in since if c <= i) for i in range(total)]


@given(st.integers(1, 40), st.sets(st.integers(0, 39)))
@examples(50)
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
@examples(50)
def test_spread_computes_exactly_the_budget_at_even_distances(total, data):
    budget = data.draw(st.integers(1, total))
    computed = computed_steps(fixed_decisions(Fixed().spread(total, budget), total))
    assert len(computed) == budget and computed[0] == 0
    gaps = [b - a for a, b in pairwise([*computed, total])]
    assert max(gaps) - min(gaps) <= 1


@given(st.integers(2, 40), st.data())
@examples(50)
def test_a_handover_takes_the_place_of_the_nearest_step_that_is_free(total, data):
    """It is computed in any case, so it counts; only where every step is forced does it come on top."""
    budget = data.draw(st.integers(1, total))
    first = data.draw(st.integers(1, budget))
    handover = data.draw(st.integers(1, total - 1))
    plain = set(Fixed(forced_first=first).spread(total, budget).steps)
    steps = Fixed(forced_first=first).spread(total, budget, [handover]).steps
    assert list(steps) == sorted({*steps, handover})
    assert len(steps) == max(budget, first + (handover >= first))
    moved = plain - set(steps)
    assert len(moved) <= 1 and all(step >= first for step in moved)


def test_more_forced_steps_than_the_budget_are_refused():
    with pytest.raises(SencacheError, match="forced_first is 10, more than the budget of 5 evaluations"):
        Fixed(forced_first=10).spread(30, 5)
    assert len(Fixed(forced_first=10).spread(30, 10).steps) == 10
