"""Seconds that are computed: held to what was measured and published; and how they learn."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import pytest
from guide_tables import first_run_table, seconds_table
from hypothesis import given
from hypothesis import strategies as st

import sencache
from sencache.app.request import make_request, plan_request
from sencache.app.seconds import (
    RATES,
    RECENT,
    RESERVE,
    ZEROGPU,
    ZEROGPU_LONGEST,
    Listener,
    Pace,
    costs_of,
    longest_call,
    quota,
    rate_of,
    reservation,
)
from sencache.comparison.events import Compared, Event, LaneDone, Started, StepDone
from sencache.comparison.report import Lane, Report
from sencache.models.catalogue import MODELS
from sencache.models.flops import guided_step
from sencache.schema import ModelInfo
from sencache.trace import StepRecord

GUIDE = Path(sencache.__file__).parents[1] / "docs" / "real-models.md"


# ---- computed


@pytest.mark.parametrize(
    ("key", "step", "rest"),
    [("tiny-wan", 0.0227, 0.262), ("tiny-cogvideox", 0.0204, 0.701), ("tiny-ltx", 0.0184, 0.262)],
)
def test_what_was_measured_on_one_core_comes_out(key: str, step: float, rest: float) -> None:
    """Of an AMD EPYC, a guided step and the rest of a lane at the bundled models' own size."""
    costs = costs_of(MODELS[key], "cpu")
    assert costs.computed == pytest.approx(step, rel=0.25)
    assert costs.rest == pytest.approx(rest, rel=0.25)


@pytest.mark.parametrize(
    ("device", "key", "seconds"),
    [
        ("NVIDIA H100 80GB HBM3", "wan-1.3b", 182.5 / 50),
        ("NVIDIA A100-SXM4-80GB", "cogvideox-2b", 90 / 50),
        ("NVIDIA A800-SXM4-80GB", "wan-1.3b", 175 / 50),
        ("NVIDIA L40", "cogvideox-5b", 0.8 * 7.75),
        ("NVIDIA GeForce RTX 4090", "wan-1.3b", 240 / 50),
    ],
)
def test_published_seconds_are_not_undercut(device: str, key: str, seconds: float) -> None:
    """Nor exceeded more than 2.5 times; of all that name a card, the slowest within a tenth."""
    computed = guided_step(MODELS[key]) / rate_of(device)
    assert 0.99 * seconds <= computed <= 2.5 * seconds


def test_devices_are_known_by_their_names() -> None:
    assert rate_of("NVIDIA H200") == rate_of("NVIDIA H100 PCIe") > rate_of("NVIDIA A100-SXM4-40GB")
    assert rate_of("NVIDIA RTX PRO 6000 Blackwell Server Edition") == 2 * rate_of(ZEROGPU)
    slowest = min(RATES.values())
    for unknown in ("Tesla T4", "NVIDIA RTX A1000", "NVIDIA H100 MIG 1g.10gb"):
        assert rate_of(unknown) == slowest < rate_of("NVIDIA L40S")


def test_a_cold_worker_of_zerogpu_loads_all_weights_first() -> None:
    spec = MODELS["wan-1.3b"]
    assert costs_of(spec, ZEROGPU).start > 15e9 / 2.1e9 > 10 * costs_of(spec, "NVIDIA L40S").start


@given(st.floats(0, 1000))
def test_a_reservation_keeps_its_margin(seconds: float) -> None:
    """And what ZeroGPU posts of what is accepted is never above its two minutes."""
    assert reservation(seconds) >= RESERVE * seconds
    if seconds <= longest_call():
        assert reservation(seconds) <= ZEROGPU_LONGEST and quota(reservation(seconds)) <= 120
    assert reservation(longest_call() + 1) > ZEROGPU_LONGEST


# ---- learnt

ASKED = plan_request(make_request(prompt="a red circle", nfe=10, steps=20))
PLAIN = Pace().estimate(ASKED, "cpu")
LANES = [lane.spec.method for lane in ASKED.lanes]


def step(seconds: float, decision: str = "compute", index: int = 1) -> StepDone:
    return StepDone("none", StepRecord.model_construct(step=index, decision=decision, seconds=seconds))


def started(name: str = "cpu") -> Started:
    return Started(Report.model_construct(model=ModelInfo.model_construct(gpu=name)))


def decoded(seconds: float) -> LaneDone:
    return LaneDone(Lane.model_construct(decode_seconds=seconds))


def taught(*events: Event, device: str = "cpu") -> Pace:
    pace = Pace()
    listener = Listener(pace, ASKED, device)
    for event in events:
        listener.hear(event)
    return pace


def test_each_piece_is_learnt_from_what_tells_of_it() -> None:
    """Steps as they pass, whether or not the run ever ends; decoding when a lane is done."""
    costs = taught(started(), step(3.0), step(0.5, "reuse"), decoded(4.0)).estimate(ASKED, "cpu").costs
    assert (costs.computed, costs.reused, costs.decode) == (3.0, 0.5, 4.0)
    assert (costs.start, costs.measure) == (PLAIN.costs.start, PLAIN.costs.measure)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=2 * RECENT))
def test_the_newest_count_by_their_median(seconds: list[float]) -> None:
    learnt = taught(*(step(one) for one in seconds)).estimate(ASKED, "cpu")
    assert learnt.measured
    assert learnt.costs.computed == pytest.approx(median(seconds[-RECENT:]))


def test_more_work_is_estimated_to_take_longer() -> None:
    asked = {"prompt": "a red circle", "nfe": 10, "steps": 20}
    for more in ({"nfe": 20}, {"steps": 40}, {"frames": 33}, {"methods": ["control"]}):
        assert Pace().estimate(plan_request(make_request(**{**asked, **more})), "cpu").seconds > PLAIN.seconds


def test_the_first_step_of_a_lane_teaches_nothing() -> None:
    """Whichever is the first of its process sets kernels up."""
    assert taught(step(100.0, index=0)).estimate(ASKED, "cpu") == PLAIN


def test_a_whole_run_is_estimated_as_it_went() -> None:
    """Also where devices side by side made it shorter than its lanes."""
    per_lane = PLAIN.costs.computed * 10
    ran = [event for _ in LANES for event in (step(per_lane, index=0), decoded(PLAIN.costs.decode))]
    whole = Compared(Report.model_construct(), seconds=0.5 * len(LANES) * (per_lane + PLAIN.costs.rest))
    pace = taught(started(), *ran, whole)
    learnt = pace.estimate(ASKED, "cpu")
    assert learnt.seconds - PLAIN.costs.start == pytest.approx(0.5 * (PLAIN.seconds - PLAIN.costs.start))


def test_a_rate_found_at_one_size_serves_another_and_another_model_until_it_has_run() -> None:
    slow = taught(step(10 * PLAIN.costs.computed))
    for changed in ({"height": 128, "width": 128}, {"model": "tiny-ltx"}):
        asked = plan_request(make_request(prompt="a red circle", nfe=10, steps=20, **changed))
        before, after = Pace().estimate(asked, "cpu"), slow.estimate(asked, "cpu")
        assert after.costs.computed == pytest.approx(10 * before.costs.computed)
        assert after.measured == ("model" not in changed)


def test_devices_are_learnt_apart() -> None:
    """ZeroGPU's card says its name when it runs; another one that is lent later starts afresh."""
    pace = taught(started("half a card"), step(9.0), device=ZEROGPU)
    assert pace.estimate(ASKED, ZEROGPU).costs.computed == 9.0
    assert not pace.estimate(ASKED, "NVIDIA H100").measured
    pace.rename(ZEROGPU, "another")
    assert not pace.estimate(ASKED, ZEROGPU).measured


# ---- the guide


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        (seconds_table, [key for key, spec in MODELS.items() if not spec.bundled]),
        (first_run_table, [key for key, spec in MODELS.items() if not spec.bundled and not spec.from_image]),
    ],
)
def test_the_guides_tables_are_those_of_the_code(table: Any, keys: list[str]) -> None:
    written, lines = GUIDE.read_text(encoding="utf-8"), table(MODELS[key] for key in keys)
    assert "\n".join(lines) + "\n\n" in written, "paste the output of: python docs/guide_tables.py"
