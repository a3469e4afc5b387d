"""The replay on the page "How it works" decides as the policies do."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from stage import served, visited

from sencache.app.pages.gallery import GALLERY
from sencache.app.pages.how import REPLAY, Replay, build_how_page, load_replay
from sencache.app.pages.parts import script
from sencache.calibration.recording import Recording, simulate
from sencache.policies import Fixed, Policy, SenCache
from sencache.profiles.constants import SensitivityTable
from sencache.profiles.profile import Profile

TOLERANCES = (0.0, 0.01, 0.05, 0.1, 0.17, 0.2315, 0.6, 100.0)
CAPS = (1, 2, 4, 10)
CELLS = """(row) => [...document.querySelectorAll(`.cells.${row} i`)]
  .map((cell) => cell.classList.contains("computed"))"""
# All settings in one call, as the reader would make them.
SWEEP = """([tolerances, caps]) => tolerances.flatMap((tolerance) => caps.map((cap) => {
  const set = (selector, value) => {
    const input = document.querySelector(selector);
    input.value = value;
    input.dispatchEvent(new Event("input"));
  };
  set(".reuses", cap);
  set(".tolerance-exact", tolerance);
  const cells = CELLS;
  return [cells("sencache"), cells("fixed"), document.querySelector(".nfe").textContent];
}))""".replace("CELLS", CELLS)


def recording(replay: Replay) -> Recording:
    """The stored run as the policies see it; what SenCache and the fixed interval do not read is left out."""
    return Recording(replay.timesteps, None, {"latent_rms": np.array(replay.latent_rms)})


def policy(replay: Replay, profile: Profile, tolerance: float, cap: int) -> SenCache:
    """SenCache with the sensitivities that the page got."""
    zeros = (0.0,) * len(replay.timesteps)
    table = SensitivityTable(
        alpha_x=replay.alpha_x,
        alpha_t=replay.alpha_t,
        alpha_x_std=zeros,
        alpha_t_std=zeros,
        samples=1,
        target="output",
    )
    schedule = profile.schedule.model_copy(
        update={"timesteps": replay.timesteps, "sigmas": None, "steps": len(zeros)}
    )
    return SenCache(
        profile.model_copy(
            update={"sensitivity": table, "schedule": schedule, "magcache": None, "forecast": None}
        ),
        tolerance=tolerance,
        max_reuses=cap,
        early_tolerance=replay.early_tolerance,
        early_fraction=replay.early_fraction,
    )


def computed(used: Policy, replay: Replay) -> list[bool]:
    return [record.decision == "compute" for record in simulate(used, recording(replay))]


@pytest.fixture(scope="module")
def stored() -> Replay:
    return load_replay(next(iter(GALLERY.glob(f"*/{REPLAY}"))))


@pytest.fixture(scope="module")
def page(browser: Any) -> Iterator[Any]:
    with served(build_how_page) as url, visited(browser, url) as opened:
        opened.locator(".how .cells.sencache i").first.wait_for()
        yield opened


def test_the_page_decides_as_python_over_a_grid(page: Any, stored: Replay, bundled_profile: Profile) -> None:
    results = page.evaluate(SWEEP, [TOLERANCES, CAPS])
    settings = [(tolerance, cap) for tolerance in TOLERANCES for cap in CAPS]
    costs = set()
    for (tolerance, cap), (sencache, fixed, nfe) in zip(settings, results, strict=True):
        expected = computed(policy(stored, bundled_profile, tolerance, cap), stored)
        assert sencache == expected, (tolerance, cap)
        assert nfe == f"{sum(expected)} of {len(expected)}"
        assert fixed == computed(Fixed().spread(len(expected), sum(expected)), stored)
        costs.add(sum(expected))
    assert len(costs) > 10, "the grid reaches many budgets"


def invented(seed: int) -> Replay:
    """A run with few distinct values, so that scores tie with tolerances and sensitivities vanish."""
    draw = random.Random(seed)
    steps = draw.choice((1, 2, 5, 15, 25, 35))
    table = [[draw.choice((0.0, 0.25, 0.5, 1.0)) for _ in range(steps)] for _ in range(steps)]
    return Replay(
        prompt="",
        seed=seed,
        profile="",
        timesteps=tuple(float(t) for t in sorted(draw.sample(range(1000), steps), reverse=True)),
        # A table of nothing but zeros is refused.
        alpha_x=(1.0, *(draw.choice((0.0, 0.5, 1.0)) for _ in range(steps - 1))),
        alpha_t=tuple(draw.choice((0.0, 0.001, 0.01)) for _ in range(steps)),
        latent_rms=tuple(map(tuple, table)),
        output_change=tuple(map(tuple, table)),
        early_fraction=draw.choice((0.0, 0.1, 0.3, 0.5, 1.0)),
        early_tolerance=draw.choice((0.0, 0.125, 2.0)),
        tolerance=draw.choice((0.0, 0.25, 0.5, 1.0, 3.0)),
        max_reuses=draw.choice((1, 2, 3, 40)),
    )


def test_the_rule_agrees_on_invented_runs_with_ties_and_zeros(page: Any, bundled_profile: Profile) -> None:
    runs = [invented(seed) for seed in range(100)]
    play = (
        "(runs) => {"
        + script("rule")
        + "return runs.map((run) => replaySenCache(run, run.tolerance, run.max_reuses)"
        ".map(({ reuse, reason, score, limit }) => [!reuse, reason, score, limit])); }"
    )
    played = page.evaluate(play, [run.model_dump(mode="json", by_alias=True) for run in runs])
    reasons = set()
    for run, records in zip(runs, played, strict=True):
        used = policy(run, bundled_profile, run.tolerance, run.max_reuses)
        expected = list(simulate(used, recording(run)))
        assert [record[:2] for record in records] == [
            [r.decision == "compute", r.reason] for r in expected
        ], run
        for (_, _, score, limit), record in zip(records, expected, strict=True):
            if record.score is not None:
                assert (score, limit) == (record.score, record.tolerance)
        reasons |= {reason for _, reason, _, _ in records}
    assert reasons == {"first_step", "max_reuses", "above_tolerance", "within_tolerance"}


def test_the_error_is_that_of_the_stored_outputs(page: Any, stored: Replay) -> None:
    page.get_by_role("button", name="As in the comparison").click()
    change, shown = stored.output_change, page.evaluate(CELLS, "sencache")
    errors, reference = [], 0
    for step, was_computed in enumerate(shown):
        reference = step if was_computed else reference
        errors.append(change[step][reference])
    assert f"error {100 * np.mean(errors):.1f} %" in page.locator(".error-sencache").inner_text()


def test_presets_and_the_slider_move_the_same_setting(page: Any, stored: Replay) -> None:
    exact, slider = page.locator(".tolerance-exact"), page.get_by_role("slider", name="Tolerance")
    page.get_by_role("button", name="ε = 0").click()
    assert all(page.evaluate(CELLS, "sencache")) and exact.input_value() == "0"
    page.get_by_role("button", name="Only the cap n").click()
    page.get_by_role("slider", name="Largest number of reuses in a row").fill("4")
    early = round(stored.early_fraction * len(stored.timesteps))
    assert page.evaluate(CELLS, "sencache")[early:] == [
        (step - early) % 5 == 4 for step in range(early, len(stored.timesteps))
    ]
    page.get_by_role("button", name="As in the comparison").click()
    assert exact.input_value() == str(stored.tolerance)
    before = float(exact.input_value())
    slider.press("ArrowRight")
    assert float(exact.input_value()) > before
    slider.press("Home")
    assert exact.input_value() == "0"


def test_a_step_can_be_looked_at_with_the_keyboard(page: Any, stored: Replay) -> None:
    page.get_by_role("button", name="As in the comparison").click()
    look = page.get_by_role("slider", name="Look at step")
    look.press("Home")
    assert "the first step is always computed" in page.locator(".how .detail").inner_text()
    shown = page.evaluate(CELLS, "sencache")
    look.fill(str(shown.index(False)))
    assert "reused" in page.locator(".how .detail").inner_text()
    assert page.locator(".how .plot svg").bounding_box()["height"] > 100
