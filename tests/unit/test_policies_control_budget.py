"""Control with a choice of forecasts: budgets to the step, and what it expects, stated anew."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sencache.errors import SencacheError
from sencache.forecasts import Fitted
from sencache.gram import Gram
from sencache.policies import Control
from sencache.policies.control import _Choosing
from sencache.policies.loading import load_all_bundled
from sencache.policies.steps import Schedule
from sencache.profiles.profile import Profile

STEPS = 40
SCHEDULE = Schedule(tuple(1000 * (1 - (i / STEPS) ** 1.3) for i in range(STEPS)))


def table(seed: int = 0) -> Gram:
    """Of random smooth trajectories in a space of twelve dimensions."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, STEPS)[:, None]
    waves = np.cos(t * rng.uniform(0.5, 9, 12) + rng.uniform(0, 6, 12)) * rng.uniform(0.1, 2, 12)
    products = waves @ waves.T
    return Gram(products / np.diag(products).mean(), 1e-3)


def calibrated() -> Profile:
    return load_all_bundled()["tiny-wan.unipc-50"]


def play(policy: Control, misses, seed: int = 0):
    """The decisions of a whole run whose computed steps reveal `misses(step)`."""
    rule = _Choosing(policy, SCHEDULE, Fitted(table(seed)))
    rule.closes = True
    return [rule.decide(step, lambda step=step: misses(step)) for step in SCHEDULE]


def reveal(*values: float):
    def signals(step):
        return {"choice": float(np.argmin(values)), **{f"miss_{k}": v for k, v in enumerate(values, 1)}}

    return signals


@settings(max_examples=60, deadline=None)
@given(
    nfe=st.integers(4, STEPS),
    misses=st.lists(st.floats(1e-6, 5), min_size=3, max_size=3),
    seed=st.integers(0, 5),
)
def test_a_budget_is_kept_to_the_step(nfe: int, misses: list[float], seed: int) -> None:
    policy = Control(profile=calibrated()).spread(STEPS, nfe)
    decisions = play(policy, reveal(*misses), seed=seed)
    assert sum(not decision.reuse for decision in decisions) == nfe
    assert not decisions[-1].reuse
    assert not any(decision.reuse for decision in decisions[:3])


def test_what_is_expected_is_the_tables_error_times_what_the_run_reveals() -> None:
    gram, miss = table(), 0.02
    decisions = play(Control(profile=calibrated(), tolerance=0.05), reveal(0.5, miss, 0.6))
    computed, logs = [], 0.0
    for index, decision in enumerate(decisions):
        first_after = index and not decisions[index - 1].reuse
        if decision.score is not None:
            if first_after and len(computed) > 2:
                off = math.log(miss / max(gram.error(computed[-4:-1][-2:], computed[-1]), 1e-9))
                logs = 0.8 * logs + 0.2 * min(max(off, math.log(0.1)), math.log(10))
            expected = math.exp(logs) * gram.error(computed[-2:], index)
            assert decision.score == pytest.approx(expected, rel=1e-9)
            assert decision.reuse == (decision.score <= 0.05)
        if not decision.reuse:
            computed.append(index)
    assert 5 < len(computed) < STEPS


def test_a_run_that_reveals_larger_errors_computes_more_under_the_same_tolerance() -> None:
    counts = [
        sum(
            not d.reuse for d in play(Control(profile=calibrated(), tolerance=0.05), reveal(miss, miss, miss))
        )
        for miss in (0.001, 0.03, 0.3)
    ]
    assert counts[0] < counts[1] < counts[2]


def test_a_budget_needs_a_table_and_more_than_what_is_computed_anyway() -> None:
    with pytest.raises(SencacheError, match=r"control.budget needs forecast=fitted .* not forecast=hold"):
        Control(budget=0.5).check(STEPS)
    assert Control(profile=calibrated()).spread(STEPS, 3) is None
    least = play(Control(profile=calibrated(), budget=0.01), reveal(0.1, 0.2, 0.3))
    assert [decision.reason for decision in least if not decision.reuse] == [
        *("first_step", "warmup", "warmup"),
        "last_step",
    ]


def test_a_low_budget_raises_the_cap_on_reuses() -> None:
    policy = Control(profile=calibrated())
    assert policy.spread(STEPS, 5).max_reuses == 12
    assert policy.spread(STEPS, 20).max_reuses == policy.max_reuses
