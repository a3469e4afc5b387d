"""What the pages make of data, without a browser: links, lanes, the table, figures, the note beside Run."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import gradio as gr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sencache.app import service, shelf, space
from sencache.app.offer import describe
from sencache.app.pages.compare import Runner, ending
from sencache.app.pages.controls import (
    SPEEDS,
    Controls,
    build_controls,
    query_of,
    query_of_report,
    read_query,
    restore,
)
from sencache.app.pages.gallery import load_gallery
from sencache.app.pages.lanes import board_of
from sencache.app.pages.plots import drift_figure, timeline_figure, walked_figure
from sencache.app.pages.results import table_of
from sencache.app.palette import lane_label
from sencache.app.request import plan_request
from sencache.app.service import ComparisonService
from sencache.cli.tables import comparison_table, lane_notes
from sencache.comparison import plan
from sencache.comparison.events import StepDone
from sencache.comparison.report import Report, Unfinished
from sencache.comparison.summary import COLUMNS, verdict
from sencache.profiles.profile import Profile
from sencache.schema import Metrics


@pytest.fixture(scope="module")
def controls() -> Controls:
    with gr.Blocks(analytics_enabled=False):
        return build_controls(describe())


@pytest.fixture(scope="module")
def report() -> Report:
    return next(entry.report for entry in load_gallery() if entry.report.request.nfe)


def usual(controls: Controls) -> dict[str, Any]:
    """The values of all inputs as they are before anyone touches them."""
    knobs = {knob.name: knob.field.value for knob in controls.knobs}
    return {**{name: field.value for name, field in controls.fields.items()}, **knobs}


# ---- settings


def test_untouched_settings_ask_for_the_models_own(controls: Controls) -> None:
    ask, model = controls.request(*usual(controls).values()), describe()["models"][0]
    assert (ask.steps, ask.height, ask.frames) == (model["steps"], model["height"], model["frames"])
    assert ask.nfe == model["steps"] // 2 and ask.preset is None and ask.settings == {}


def test_a_knob_reaches_its_method_and_no_other(controls: Controls) -> None:
    given = {"sencache.tolerance": 0.3, "fixed.steps": "0, 4 9", "sencache.compute_last": "yes"}
    ask = controls.request(*{**usual(controls), **given}.values())
    assert ask.settings == {
        "sencache": {"tolerance": 0.3, "compute_last": True},
        "fixed": {"steps": ("0", "4", "9")},
    }


LANES = st.sampled_from(["sencache", "magcache", "sencache:repair=replay"])
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.text(min_size=1, max_size=60),
        "speed": st.sampled_from(SPEEDS),
        "budget": st.sampled_from(["matched", "slow", "fast", "own"]),
        "methods": st.lists(LANES, unique=True),
        "seed": st.integers(1, 2**31 - 1),
        "guidance": st.floats(1, 100),
        "sencache.tolerance": st.floats(1e-6, 1000),
        "control.forecast": st.sampled_from(["hold", "linear"]),
        "sencache.compute_last": st.sampled_from(["yes", "no"]),
        "fixed.steps": st.just("0, 3, 5"),
    },
)


@settings(max_examples=50, deadline=None)
@given(SETTINGS, SETTINGS)
def test_a_link_restores_what_it_was_made_of(
    controls: Controls, changed: dict[str, Any], before: dict[str, Any]
) -> None:
    """Whatever the fields held before, as when a card of the gallery is opened."""
    values = {**usual(controls), **changed}
    query = read_query(query_of(controls, *values.values()))
    assert after(controls, query, before) == values


def after(controls: Controls, query: dict[str, str], before: dict[str, Any]) -> dict[str, Any]:
    """What the fields hold when `query` was restore into a page on which `before` had been set."""
    values = {**usual(controls), **before}
    updates = zip(values, restore(controls, query), strict=True)
    return values | {name: update["value"] for name, update in updates if "value" in update}


STRANGE = (
    *("speed", "budget", "methods", "seed", "steps", "width", "profile", "model"),
    *("sencache.tolerance", "sencache.target", "control.max_reuses"),
)


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.sampled_from(STRANGE), st.text(max_size=20)))
def test_a_strangers_link_sets_nothing_that_is_not_offered(controls: Controls, query: dict[str, str]) -> None:
    values = after(controls, query, {})
    assert values["speed"] in SPEEDS and values["model"] == "tiny-wan"
    assert set(values["methods"]) <= {method["lane"] for method in describe()["methods"]}
    for name in ("seed", "steps", "width"):
        assert isinstance(values[name], (int, float)) and math.isfinite(values[name])


def test_a_finished_comparison_links_to_its_own_settings(controls: Controls) -> None:
    before = {"model": "tiny-ltx", "steps": 9, "width": 128, "guidance": 1.5, "negative": "fog"}
    before |= {"profile": "tiny-ltx.euler-50", "seed": 7, "methods": [], "sencache.tolerance": 0.5}
    for entry in load_gallery():
        values = after(controls, read_query(query_of_report(entry.report)), before)
        ask = controls.request(*values.values())
        assert plan_request(ask).request == entry.report.request
        assert (ask.model, ask.settings, ask.profile) == (entry.report.model.key, {}, None)
        assert set(ask.methods) == {lane.name for lane in entry.report.lanes if lane.target}


def test_settings_of_a_model_that_is_not_offered_leave_the_pages_own(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gallery is of bundled models, on every Space."""
    monkeypatch.setenv("MODEL_ID", "wan-1.3b")
    monkeypatch.setenv("SENCACHE_MAX_SECONDS", "100000000")
    with gr.Blocks(analytics_enabled=False):
        own = build_controls(describe())
    values = after(own, read_query(query_of_report(report)), {"steps": 9})
    assert values == {**usual(own), "prompt": report.request.prompt}
    assert plan_request(own.request(*values.values())).request.width == 832


# ---- lanes and numbers


def test_lanes_show_every_record(report: Report) -> None:
    value = board_of(report).value()
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    for lane, shown in zip(report.lanes, value["lanes"], strict=True):
        cells = [json.loads(line) for line in shown["cells"].splitlines()]
        assert [cell[0] for cell in cells] == [int(r.decision == "compute") for r in lane.trace]
        assert (shown["nfe"], shown["steps"]) == (lane.nfe, lane.steps)
        assert (shown["seconds"], shown["speedup"]) == (lane.denoise_seconds, lane.speedup)
        for record, cell in zip(lane.trace, cells, strict=True):
            assert cell[1] == record.reason and cell[1] in value["reasons"]
            if cell[7]:
                assert sum(term for _, term in cell[7]) == pytest.approx(record.score, rel=1e-3)


def test_values_sent_before_do_not_change_later(report: Report) -> None:
    board = board_of(report)
    first = board.value()
    kept = json.dumps(first)
    board.take(StepDone("none", report.lanes[0].trace[0]))
    assert json.dumps(first) == kept and json.dumps(board.value()) != kept


def test_the_best_of_a_column_is_marked_and_identical_is_a_word(report: Report) -> None:
    identical = report.lanes[2].metrics
    assert identical is not None
    perfect = {"psnr": None, "psnr_frames": None, "identical": True, "lpips": 0.0}
    perfect = Metrics(**{**identical.model_dump(), **perfect})
    lanes = (*report.lanes[:2], report.lanes[2].model_copy(update={"metrics": perfect}), *report.lanes[3:])
    table = table_of(report.model_copy(update={"lanes": lanes}))
    names = [column["name"] for column in table["columns"]]
    for name in ("PSNR dB", "LPIPS"):
        marked = [row["label"] for row in table["rows"] if row["cells"][names.index(name)][2]]
        assert marked == [table["rows"][2]["label"]]
    assert table["rows"][2]["cells"][names.index("PSNR dB")][0] == "identical"
    assert [cell[0] for cell in table["rows"][0]["cells"]][names.index("PSNR dB")] == "–"
    assert not any(cell[2] for cell in table["rows"][0]["cells"]), "the full run competes with no one"
    neutral = [index for index, column in enumerate(COLUMNS.values()) if column.better is None]
    assert neutral and not any(row["cells"][index][2] for row in table["rows"] for index in neutral)


def test_the_verdict_names_the_closest_lane_and_the_closest_cache(report: Report) -> None:
    psnr = {lane.name: lane.metrics.psnr for lane in report.lanes if lane.metrics and lane.metrics.psnr}
    caches = {lane.name for lane in report.lanes if lane.target}
    closest, cache = max(psnr, key=lambda n: psnr[n]), max(caches, key=lambda n: psnr[n])
    sentence = verdict(report, lane_label)
    assert lane_label(closest) in sentence.split(".")[0] and f"{psnr[cache]:.1f} dB" in sentence
    noted = report.lanes[3].model_copy(update={"notes": ("its tables are resampled",)})
    other = report.model_copy(update={"lanes": (*report.lanes[:3], noted, *report.lanes[4:])})
    assert verdict(other, lane_label).endswith(f"{lane_label(noted.name)}: its tables are resampled.")


def test_a_report_that_was_cut_off_says_everywhere_what_is_missing(report: Report) -> None:
    """In the status, under the numbers, among the lanes, and on the command line."""
    *kept, last = report.lanes
    why = "12 s were left for about 20 s of work"
    gone = Unfinished(name=last.name, method=last.method, taken=3, steps=last.steps, why=why)
    cut = report.model_copy(update={"lanes": tuple(kept), "unfinished": (gone,)})
    sentence = f"Missing: {lane_label(last.name)}; {why}."
    assert ending(cut, 34.21) == f"Cut off after 34.2 s. {sentence}"
    assert verdict(cut, lane_label).endswith(sentence)
    assert ending(report, 34.21) == "Done in 34.2 s." and "Missing" not in verdict(report, lane_label)
    shown = {lane["name"]: lane for lane in board_of(cut).value()["lanes"]}
    assert [shown[name]["state"] for name in shown] == [*["done"] * len(kept), "stopped"]
    assert shown[last.name]["settings"] == "not finished"
    assert lane_notes(cut)[-1] == f"{last.name} is missing, after 3 of {last.steps} steps: {why}"
    assert list(comparison_table(cut).columns[-1].cells)[-1] == "missing"
    full = cut.model_copy(update={"lanes": (report.lanes[0],)})
    assert verdict(full, lane_label) == sentence, "nothing to compare, but that is said"


# ---- figures


def test_figures_hold_every_step_and_are_small(report: Report, bundled_profile: Profile) -> None:
    timeline, drift = timeline_figure(report), drift_figure(report)
    heatmaps = [trace for trace in timeline.data if trace.type == "heatmap"]
    assert len(heatmaps) == 1, "several one-row heatmaps crash the browser's plotly"
    for row, lane in zip(heatmaps[0].z, reversed(report.lanes), strict=True):
        assert len(row) == report.request.steps
        if lane.steps == report.request.steps:
            assert list(row) == [int(r.decision == "compute") for r in lane.trace]
    names = {trace.name for trace in timeline.data if trace.type == "scatter"}
    assert names and len(drift.data) == sum(any(r.drift for r in lane.trace) for lane in report.lanes)
    for figure in (timeline, drift, walked_figure(bundled_profile, report)):
        assert figure.layout.height and len(figure.to_json()) < 150_000


# ---- the note beside Run


def test_the_note_tells_seconds_on_zerogpu_the_quota_and_what_stands_in_the_way(
    controls: Controls, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, values = ComparisonService(), usual(controls)
    runner = Runner(own, controls, 0)
    plain = runner.estimate(*values.values())
    assert str(plain["text"]).startswith("About") and "quota" not in str(plain["text"]) and not plain["bad"]
    wrong = runner.estimate(*{**values, "prompt": ""}.values())
    assert wrong["bad"] and "prompt is empty" in str(wrong["text"])
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    booked = own.estimate(own.job(controls.request(*values.values()))).booked
    assert f"{booked} s of your GPU quota" in str(runner.estimate(*values.values())["text"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", " "),
        ("frames", 18),
        ("height", 33),
        ("steps", 0.5),
        ("seed", -3),
        ("sencache.tolerance", -1),
    ],
)
def test_a_mistake_is_shown_at_its_field_before_anything_queues(
    controls: Controls, field: str, value: Any
) -> None:
    values = {**usual(controls), "methods": ["sencache", "fixed"], field: value}
    told = Runner(ComparisonService(), controls, 0).validate(*values.values())
    wrong = [name for name, checked in zip(values, told, strict=True) if not checked["is_valid"]]
    assert wrong == [field]


def test_only_a_run_that_never_began_blames_the_queue(controls: Controls) -> None:
    runner = Runner(ComparisonService(), controls, 0)
    waiting = runner.announce(*usual(controls).values())
    full, run, cancel = runner.explain_failure(waiting)
    assert full["bad"] and "try again" in full["text"]
    assert run["interactive"] and not cancel["interactive"]
    for status in ({"text": "there was not enough memory", "bad": True}, None, "hostile"):
        assert "text" not in runner.explain_failure(status)[0]  # type: ignore[arg-type]


# ---- one click on Run


def test_one_click_plans_once(controls: Controls, monkeypatch: pytest.MonkeyPatch) -> None:
    """The note beside Run, the check before the queue and the run, in a service that planned nothing yet."""
    calls: Counter[str] = Counter()

    def count(module: Any, name: str) -> None:
        whole = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given: (calls.update([name]), whole(*given))[1])

    for name in ("plan_lane", "make_policy", "check_offer"):
        count(plan, name)
    for module, name in ((shelf, "own_profile"), (space, "plan_lane"), (service, "plan_request")):
        count(module, name)
    small = {"steps": 4, "height": 32, "width": 32, "frames": 5, "methods": ["sencache", "control"]}
    given = [*{**usual(controls), **small}.values(), {}]
    runner = Runner(ComparisonService(), controls, 12)
    assert not runner.announce(*given)["bad"]
    assert all(one["is_valid"] for one in runner.validate(*given))
    *_, last = runner.run(*given)
    assert str(last[0]["text"]).startswith("Done in")
    # The full run, fewer-steps and two lanes, of which each but the baselines needs a policy made.
    assert calls == {"plan_request": 1, "own_profile": 1, "plan_lane": 4, "make_policy": 2, "check_offer": 2}
