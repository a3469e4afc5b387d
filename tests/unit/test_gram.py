"""The table of fitted forecasts: weights, expected errors, other schedules, and files that are refused."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from profile_texts import complete, refusal, text
from strategies import examples

from sencache.errors import SencacheError
from sencache.gram import Gram, mixing
from sencache.policies.loading import parse_profile
from sencache.profiles.facts import facts
from sencache.profiles.profile import MAX_BYTES, Profile

STEPS = 12


def vectors(seed: int = 0, steps: int = STEPS, size: int = 40) -> np.ndarray:
    """What a network might give along a run, [N, size]: smooth, and noisy in some directions."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, steps)[:, None]
    waves = sum(np.cos(k * t + rng.uniform(0, 6, size)) * rng.normal(size=size) / k for k in (1, 2, 4))
    return np.asarray(waves + 0.02 * rng.normal(size=(steps, size)))


def gram(seed: int = 0, ridge: float = 1e-3) -> Gram:
    rows = vectors(seed)
    return Gram(rows @ rows.T, ridge)


places = st.lists(st.integers(0, STEPS - 1), min_size=1, max_size=5, unique=True).map(sorted)


@given(places, st.integers(0, STEPS - 1), st.integers(0, 20))
@examples(100)
def test_weights_sum_to_one_and_miss_as_much_as_is_said(nodes: list[int], step: int, seed: int) -> None:
    rows, table = vectors(seed), gram(seed)
    weights = table.weights(nodes, step)
    assert len(weights) == len(nodes) and sum(weights) == pytest.approx(1, abs=1e-15)
    missed = np.linalg.norm(np.array(weights) @ rows[nodes] - rows[step]) / np.linalg.norm(rows[step])
    assert table.error(nodes, step) == pytest.approx(missed, rel=1e-6, abs=1e-7)


@given(places, st.integers(0, STEPS - 1), st.integers(0, 20))
@examples(100)
def test_without_a_ridge_they_are_the_best(nodes: list[int], step: int, seed: int) -> None:
    """Least squares under the constraint, by its Lagrange multiplier; no other weights miss less."""
    table = gram(seed, ridge=0.0)
    count = len(nodes)
    system = np.ones((count + 1, count + 1))
    system[:count, :count], system[count, count] = 2 * table.table[np.ix_(nodes, nodes)], 0
    expected = np.linalg.solve(system, [*2 * table.table[nodes, step], 1])[:count]
    assert table.weights(nodes, step) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert table.error(nodes, step) <= gram(seed, ridge=0.1).error(nodes, step) + 1e-9


@pytest.mark.parametrize(("nodes", "step"), [((2, 5, 6), 9), ((2, 5), 9), ((3, 4, 8), 6), ((1, 9), 5)])
def test_the_ridge_is_relative_to_the_changes_between_nodes(nodes: tuple[int, ...], step: int) -> None:
    rows, ridge = vectors(), 0.05
    changes = np.diff(rows[list(nodes)], axis=0).T
    # As many more rows that ask for coefficients of 0.
    asked = np.vstack([changes, np.diag(ridge**0.5 * np.linalg.norm(changes, axis=0))])
    wanted = np.concatenate([rows[step] - rows[nodes[-1]], np.zeros(len(nodes) - 1)])
    c = np.linalg.lstsq(asked, wanted, rcond=None)[0]
    forecast = rows[nodes[-1]] + changes @ c
    weights = np.array(gram(ridge=ridge).weights(nodes, step))
    assert np.allclose(weights @ rows[list(nodes)], forecast, atol=1e-9)


def test_what_is_linear_in_the_step_is_forecast_and_interpolated_exactly() -> None:
    rng = np.random.default_rng(3)
    start, slope = rng.normal(size=(2, 30))
    rows = start + np.arange(STEPS)[:, None] * slope
    table = Gram(rows @ rows.T, 0.0)
    assert table.weights((2, 4), 10) == pytest.approx((-3, 4), rel=1e-6)
    assert table.weights((2, 10), 4) == pytest.approx((0.75, 0.25), rel=1e-6)
    for nodes, step in (((2, 4), 10), ((1, 2, 4), 10), ((0, 3, 11), 7)):
        weights = np.array(table.weights(nodes, step))
        assert np.allclose(weights @ rows[list(nodes)], rows[step], atol=1e-4)
        assert table.error(nodes, step) < 1e-4


def test_the_expected_error_is_that_of_random_runs() -> None:
    """Drawn with these inner products on average."""
    table = gram()
    rng, factor = np.random.default_rng(1), np.linalg.cholesky(table.table + 1e-12 * np.eye(STEPS))
    runs = rng.normal(size=(200_000, STEPS)) @ factor.T
    for nodes, step in (((1, 4, 6), 8), ((0, 3), 4), ((5,), 7), ((2, 9), 5)):
        missed = runs[:, nodes] @ np.array(table.weights(nodes, step)) - runs[:, step]
        observed = math.sqrt((missed**2).mean() / (runs[:, step] ** 2).mean())
        assert table.error(nodes, step) == pytest.approx(observed, rel=0.02)


def test_one_node_is_held() -> None:
    table = gram()
    assert table.weights((4,), 7) == (1.0,)
    held = np.linalg.norm(vectors()[7] - vectors()[4]) / np.linalg.norm(vectors()[7])
    assert table.error((4,), 7) == pytest.approx(held)


@pytest.mark.parametrize("nodes", [(3, 3), (3, 3, 3), (2, 5, 5), (2, 2, 5), (0, 1, 2, 3, 4, 5, 6, 7, 8)])
@pytest.mark.parametrize("rank", [0, 1, 2, STEPS])
def test_nodes_that_coincide_and_tables_of_low_rank_do_no_harm(nodes: tuple[int, ...], rank: int) -> None:
    rows = np.ones((STEPS, 5)) + vectors()[:, :rank] @ np.random.default_rng(2).normal(size=(rank, 5))
    table = Gram(rows @ rows.T, 1e-3)
    weights = table.weights(nodes, 10)
    assert sum(weights) == pytest.approx(1) and max(map(abs, weights)) < 100
    best = min(table.error((node,), 10) for node in nodes[-1:])
    assert 0 <= table.error(nodes, 10) <= best + 1e-6


def test_errors_after_reuses_are_those_of_a_regular_pattern() -> None:
    table = gram()
    assert table.errors_after(2) == [
        table.error((0, 3), 5),
        table.error((1, 4), 6),
        table.error((2, 5), 7),
        table.error((0, 3, 6), 8),
        table.error((1, 4, 7), 9),
        table.error((2, 5, 8), 10),
        table.error((3, 6, 9), 11),
    ]
    assert table.errors_after(6) == []


# ---- other schedules


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.booleans())
@examples(100)
def test_mixing_keeps_a_table_positive(wanted: list[float], falling: bool) -> None:
    measured = np.linspace(0, 1, STEPS) ** 2
    measured = measured[::-1] if falling else measured
    weights = mixing(measured, wanted)
    assert (weights >= 0).all() and np.allclose(weights.sum(axis=1), 1)
    assert np.allclose(weights @ measured, wanted)
    mixed = gram().resample(weights)
    assert len(mixed) == len(wanted) and mixed.ridge == 1e-3
    assert np.linalg.eigvalsh(mixed.table)[0] > -1e-9
    assert np.allclose(mixed.table, (weights @ vectors()) @ (weights @ vectors()).T)


def test_beyond_the_ends_the_nearest_step_counts() -> None:
    assert mixing([900, 500, 100], [990, 900, 300, 20]).tolist() == [
        [1, 0, 0],
        [1, 0, 0],
        [0, 0.5, 0.5],
        [0, 0, 1],
    ]
    assert mixing([7.0], [1.0, 9.0]).tolist() == [[1], [1]]


TIMES = [1000.0, 750.5, 500.0, 250.0]
ROWS = [[1.0, 0.9, 0.8, 0.7], [0.9, 1.0, 0.9, 0.8], [0.8, 0.9, 1.0, 0.9], [0.7, 0.8, 0.9, 1.0]]


def forecast(**changes: Any) -> dict[str, Any]:
    return {"table": ROWS, "target": "prediction", "samples": 3, "lambda": 0.001, **changes}


def profile(sigmas: list[float] | None = None, **changes: Any) -> Profile:
    data = complete(forecast=forecast(**changes))
    data["schedule"]["sigmas"] = sigmas
    return parse_profile(text(data))


def test_the_calibrated_schedule_gets_the_table_as_it_is() -> None:
    own = profile()
    for timesteps in (TIMES, [999.5, 751.0, 500.0, 249.5]):
        table = own.gram(timesteps)
        assert table.table.tolist() == ROWS and table.ridge == 0.001
        assert own.forecast_notes(timesteps) == []


def test_another_schedule_is_interpolated_in_t_and_says_so() -> None:
    own, timesteps = profile(), [1000.0, 875.25, 375.0, 20.0]
    weights = np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0, 1]])
    assert np.allclose(own.gram(timesteps).table, weights @ np.array(ROWS) @ weights.T)
    (note,) = own.forecast_notes(timesteps)
    assert "interpolated" in note
    assert len(own.gram([1000.0, 400.0])) == 2


def test_noise_levels_are_interpolated_in_their_log_ratio() -> None:
    """Where all of them lie between 0 and 1; else in t."""
    own = profile(sigmas=[0.9, 0.75, 0.5, 0.2])
    half = math.sqrt(0.9 / 0.1 * 0.75 / 0.25)
    run = [half / (1 + half), 0.5]
    weights = np.array([[0.5, 0.5, 0, 0], [0, 0, 1, 0]])
    assert np.allclose(own.gram([860.0, 500.0], run).table, weights @ np.array(ROWS) @ weights.T)
    in_t = profile().gram([860.0, 500.0]).table
    for sigmas in ([1.0, 0.5], None):
        assert np.allclose(own.gram([860.0, 500.0], sigmas).table, in_t)


@pytest.mark.parametrize("timesteps", [[1000.0, 0.0], [1249.0, 500.0], [1000.0, 250.0]])
def test_up_to_a_step_beyond_the_calibrated_ones_is_served(timesteps: list[float]) -> None:
    assert len(profile().gram(timesteps)) == 2


@pytest.mark.parametrize(("timesteps", "end"), [([1250.0, 500.0], "1250"), ([1000.0, -1.0], "-1")])
def test_further_beyond_is_refused(timesteps: list[float], end: str) -> None:
    message = refusal(lambda: profile().gram(timesteps))
    assert f"timestep {end} lies more than a step beyond" in message and "test/model" in message


def test_a_profile_without_a_table_is_refused() -> None:
    with pytest.raises(SencacheError, match=r"test/model holds no table.*calibrate this model, or choose"):
        parse_profile(text(complete())).gram(TIMES)


# ---- files


def test_the_table_survives_the_text_under_its_own_names() -> None:
    own = profile()
    data = json.loads(own.to_json())
    assert data["forecast"] == forecast()
    assert parse_profile(own.to_json()) == own
    gap_of_one = own.gram(TIMES).error((0, 2), 3)
    assert dict(facts(own))["Fitted forecasts"] == (
        "of the prediction, mean of 3 videos; expected error, median over the steps: "
        f"{gap_of_one:.1%} after 1 reuses in a row"
    )


def test_profiles_from_before_keep_their_text() -> None:
    old = parse_profile(text(complete()))
    assert old.forecast is None and "forecast" not in old.to_json()
    assert parse_profile(text(complete(forecast=None))).sha256 == old.sha256


def with_entry(i: int, j: int, value: float) -> list[list[float]]:
    return [[value if (a, b) == (i, j) else v for b, v in enumerate(row)] for a, row in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"table": ROWS[:3]}, "row 0 of the table has 4 entries for 3 rows"),
        ({"table": [*ROWS[:3], [1.0]]}, "row 3 of the table has 1 entries for 4 rows"),
        ({"table": [row[:3] for row in ROWS[:3]]}, "forecast.table has 3 rows for 4 steps"),
        ({"table": []}, "at least 1 item"),
        ({"table": [[1.0] * 201] * 201}, "at most 200 items"),
        ({"table": with_entry(0, 1, 0.8)}, "it must be symmetric"),
        ({"table": with_entry(2, 2, 0.0)}, "has 0 at step 2 of its diagonal"),
        ({"table": with_entry(2, 2, -1.0)}, "has -1 at step 2 of its diagonal"),
        ({"table": [[0.0] * 4] * 4}, "has 0 at step 0 of its diagonal"),
        ({"table": (np.eye(4) - 0.5 * (1 - np.eye(4))).tolist()}, "not positive semidefinite"),
        ({"table": with_entry(1, 1, 1e10)}, "less than or equal to"),
        ({"table": 7}, "valid"),
        ({"lambda": -0.1}, "greater than or equal to 0"),
        ({"lambda": 1.1}, "less than or equal to 1"),
        ({"samples": 0}, "greater than or equal to 1"),
        ({"target": "residual"}, "'prediction'"),
        ({"ridge": 0.1}, "ridge"),
    ],
)
def test_tables_that_no_run_can_have_are_refused(changes: dict[str, Any], said: str) -> None:
    assert said in refusal(lambda: profile(**changes))


@pytest.mark.parametrize("raw", ["NaN", "Infinity", "1e400", '"1"', "true", "null", "[]"])
def test_entries_that_are_no_finite_numbers_are_refused(raw: str) -> None:
    data = text(complete(forecast=forecast(table=with_entry(1, 1, 77.0)))).replace("77.0", raw)
    with pytest.raises(SencacheError):
        parse_profile(data)


def test_a_table_needs_the_timesteps_it_was_measured_at() -> None:
    data = complete(forecast=forecast(), sensitivity=None)
    data["schedule"]["timesteps"] = None
    assert "forecast needs schedule.timesteps" in refusal(lambda: parse_profile(text(data)))


def test_the_largest_table_keeps_a_profile_below_a_megabyte() -> None:
    rows = vectors(steps=200)
    table = rows @ rows.T
    data = complete(forecast=None, sensitivity=None, magcache=None, presets={}, preset_nfe={})
    data["schedule"] |= {"steps": 200, "timesteps": np.linspace(1000, 5, 200).tolist()}
    rounded = [[float(f"{value:.8g}") for value in row] for row in table]
    own = parse_profile(text({**data, "forecast": forecast(table=rounded)}))
    assert len(own.to_json()) < MAX_BYTES
    with pytest.raises(SencacheError, match="store its numbers with 8 digits"):
        parse_profile(json.dumps({**data, "forecast": forecast(table=table.tolist())}, separators=(",", ":")))
