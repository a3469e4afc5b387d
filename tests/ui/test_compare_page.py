"""The Compare page in a browser, on the bundled model: what a visitor sees, does, and can get wrong."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compare_visits import (
    ALL,
    CELLS,
    LONG,
    PLOTS,
    STATUS,
    STEPS,
    downloaded,
    link,
    opened,
    run_to_the_end,
    settled,
)

from sencache.app.pages.gallery import load_gallery
from sencache.comparison.report import Report
from sencache.comparison.verify import verify
from sencache.profiles.profile import Profile

HOSTILE = '<img src=x onerror="window.pwned=1">${window.pwned=2}{{7*7}}'


@pytest.fixture(scope="module")
def after_a_run(browser: Any, app_url: str) -> Iterator[Any]:
    """A page on which every method was run; tests that use it leave it as it is."""
    with opened(browser, link(app_url)) as page:
        settled(page)
        run_to_the_end(page)
        yield page


@pytest.fixture(scope="module")
def report(after_a_run: Any) -> Report:
    return Report.model_validate_json(downloaded(after_a_run, "Report, JSON"))


# ---- first paint


def test_the_page_is_alive_before_anything_is_run(front: Any) -> None:
    entry = next(e for e in load_gallery() if e.report.request.nfe)
    assert front.inner_text("#status").strip().startswith("A finished comparison")
    assert front.inner_text(".lanes-title") == entry.report.request.prompt
    assert front.input_value("#prompt textarea") == entry.report.request.prompt
    cells = front.evaluate(CELLS)
    assert list(cells.values()) == ["".join(r.decision[0] for r in lane.trace) for lane in entry.report.lanes]
    assert front.locator("#player video").count() == len(entry.report.lanes)
    assert front.locator("#numbers tbody tr").count() == len(entry.report.lanes)
    assert front.inner_text("#estimate").startswith("About")


def test_bad_input_is_refused_before_it_queues_and_a_card_takes_over_its_settings(
    browser: Any, app_url: str
) -> None:
    with opened(browser, link(app_url, frames=18, methods="control"), tolerated="422") as page:
        settled(page)
        refused(page, "18 frames")
        page.click("#advanced > button")
        page.fill("#frames input", "17")
        page.fill("#prompt textarea", " ")
        refused(page, "the prompt is empty")
        assert page.input_value("#width input") == "32"
        entry = load_gallery()[-1]
        page.locator("#gallery button").last.click()
        asked = entry.report.request
        for shown in ("'.lanes-title').textContent", "'#prompt textarea').value"):
            page.wait_for_function(f"(text) => document.querySelector({shown} === text", arg=asked.prompt)
        for field, value in (("steps", asked.steps), ("width", asked.width), ("frames", asked.frames)):
            assert page.input_value(f"#{field} input") == str(value)
        caching = sum(lane.target is not None for lane in entry.report.lanes)
        assert page.locator("#methods input:checked").count() == caching
        assert Report.model_validate_json(downloaded(page, "Report, JSON")).digest == entry.report.digest
        rows = list(csv.reader(io.StringIO(downloaded(page, "All steps, CSV").decode())))
        assert len(rows) == 1 + sum(lane.steps for lane in entry.report.lanes)


def refused(page: Any, said: str) -> None:
    page.wait_for_function("(t) => document.querySelector('#estimate').textContent.includes(t)", arg=said)
    title = page.inner_text(".lanes-title")
    with page.expect_response(lambda response: "queue/join" in response.url) as answer:
        page.click("#run")
    assert answer.value.status == 422
    assert page.inner_text(".lanes-title") == title
    assert page.is_enabled("#run")


# ---- a run


def test_every_lane_ends_and_shows_its_report(after_a_run: Any, report: Report) -> None:
    assert verify(report) == []
    assert {lane.name for lane in report.lanes} == {"none", "fewer-steps", *ALL}
    assert report.request.nfe == STEPS // 2
    shown = after_a_run.evaluate(CELLS)
    assert list(shown.values()) == ["".join(r.decision[0] for r in lane.trace) for lane in report.lanes]
    figures = after_a_run.locator(".lane-figures").all_inner_texts()
    assert [text.split()[0] for text in figures] == [f"{lane.nfe}/{lane.steps}" for lane in report.lanes]
    assert all(height > 100 for height in after_a_run.evaluate(PLOTS))
    assert "sencache.SenCache(" in after_a_run.inner_text("#code")
    with zipfile.ZipFile(io.BytesIO(downloaded(after_a_run, "Everything, ZIP"))) as packed:
        assert Report.model_validate_json(packed.read("report.json")).digest == report.digest


def test_the_table_holds_the_reports_numbers(after_a_run: Any, report: Report) -> None:
    table = after_a_run.locator("#numbers tbody tr").all_inner_texts()
    for text, lane in zip(table, report.lanes, strict=True):
        assert f"\t{lane.nfe}\t" in text and f"{lane.speedup:.2f}×" in text
        if lane.metrics is not None:
            told = "identical" if lane.metrics.psnr is None else f"{lane.metrics.psnr:.2f}"
            assert told in text and f"{lane.metrics.lpips:.4f}" in text
    measured = [lane for lane in report.lanes if lane.metrics]
    best = min(lane.metrics.lpips for lane in measured if lane.metrics)
    marked = after_a_run.locator("#numbers td:nth-child(7).best").all_inner_texts()
    assert {text.strip() for text in marked} == {f"{best:.4f}"}


def test_a_heading_sorts_its_column(after_a_run: Any, report: Report) -> None:
    header = after_a_run.locator("#numbers th", has_text="LPIPS")
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    texts = after_a_run.locator("#numbers td:nth-child(7)").all_inner_texts()
    values = [float(text.strip("● \n")) for text in texts if text != "–"]
    assert values == sorted(values) and texts[-1] == "–"
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"


def test_pointing_at_a_cell_tells_its_record(after_a_run: Any, report: Report) -> None:
    row, lane = next((i, lane) for i, lane in enumerate(report.lanes) if lane.name == "sencache")
    record = next(r for r in lane.trace if r.score is not None and r.decision == "reuse")
    track = after_a_run.locator(".track").nth(row)
    track.scroll_into_view_if_needed()
    track.locator(".cell").nth(record.step).hover()
    told = after_a_run.inner_text(".why")
    assert f"step {record.step + 1} of {lane.steps}, timestep {record.timestep:.1f}".replace(".0", "") in told
    assert "reused: the score is within the tolerance" in told
    latent = record.signals["alpha_x"] * record.signals["dx_rms"]
    time = record.signals["alpha_t"] * record.signals["dt"]
    for value in (record.score, record.tolerance, latent, time):
        assert f"{value:.4g}" in told


@pytest.fixture(scope="module")
def restored(browser: Any, after_a_run: Any) -> Iterator[Any]:
    """The page that the link on the first one leads to."""
    with opened(browser, after_a_run.locator("#settings-link a").get_attribute("href")) as page:
        settled(page)
        page.click("#advanced > button")
        yield page


def test_the_link_restores_the_settings(restored: Any, after_a_run: Any) -> None:
    after_a_run.click("#advanced > button")
    for field in ("#prompt textarea", "#steps input", "#width input", "#frames input"):
        assert restored.input_value(field) == after_a_run.input_value(field)
    checked = "[...document.querySelectorAll('#methods input')].map((box) => box.checked)"
    assert restored.evaluate(checked) == after_a_run.evaluate(checked)
    assert sum(after_a_run.evaluate(checked)) == len(ALL)


def test_a_profile_checked_on_one_page_serves_a_run_on_the_other(
    restored: Any, tmp_path: Path, bundled_profile: Profile
) -> None:
    """And what cannot be pulled is said beside the field in which it was named."""
    path, page = tmp_path / "mine.json", restored
    alone = {"magcache": None, "teacache": None, "presets": {}, "preset_nfe": {}}
    path.write_text(bundled_profile.model_copy(update=alone).to_json(), encoding="utf-8")
    page.get_by_role("tab", name="Profiles").click()
    with page.expect_file_chooser() as chooser:
        page.locator("#profile-upload").click()
    chooser.value.set_files(path)
    page.locator("#profile-facts h3", has_text="mine.json").wait_for()
    page.get_by_role("tab", name="Compare").click()
    page.click("#pull-source-button")
    page.locator("#pull-source-note .bad", has_text="the Hub is switched off").wait_for()
    page.click("#profile input")
    page.get_by_role("option", name="mine.json").click()
    run_to_the_end(page)
    report = Report.model_validate_json(downloaded(page, "Report, JSON"))
    used = {lane.method: lane.profile.path for lane in report.lanes if lane.profile}
    bundled = dict.fromkeys(("magcache", "teacache"), "tiny-wan.unipc-50.json")
    assert used == {"sencache": "mine.json", "control": "mine.json", **bundled}


# ---- runs that end otherwise


def test_cancel_stops_and_a_run_after_it_goes_through(browser: Any, app_url: str) -> None:
    with opened(browser, link(app_url, steps=400, methods="sencache,control")) as page:
        settled(page)
        page.click("#run")
        page.wait_for_function(f"{STATUS}.startsWith('Running')", timeout=LONG)
        page.wait_for_function("document.querySelectorAll('#lanes .track .cell.c').length > 5")
        page.click("#cancel")
        page.wait_for_function(f"{STATUS}.startsWith('Cancelled')")
        reached = page.evaluate(CELLS)
        assert any("-" in cells for cells in reached.values())
        page.wait_for_timeout(700)
        assert page.evaluate(CELLS) == reached
        page.click("#advanced > button")
        page.fill("#steps input", str(STEPS))
        run_to_the_end(page)
        assert Report.model_validate_json(downloaded(page, "Report, JSON")).request.steps == STEPS


def test_hostile_text_stays_text_and_a_link_sets_only_what_its_fields_offer(
    browser: Any, app_url: str
) -> None:
    """On a phone, where Run brings the lanes into sight."""
    hostile = {"prompt": HOSTILE, "speed": HOSTILE, "methods": f"{HOSTILE},fixed", "seed": "1e999"}
    phone = {"viewport": {"width": 390, "height": 844}}
    with opened(browser, link(app_url, **hostile), **phone) as page:
        settled(page)
        assert page.evaluate("window.pwned") is None
        assert page.locator("#methods input:checked").count() == 1
        assert page.locator("#speed input:checked").get_attribute("value") == "2"
        run_to_the_end(page)
        assert 0 <= page.evaluate("document.querySelector('#lanes').getBoundingClientRect().top") < 400
        assert page.inner_text(".lanes-title") == HOSTILE
        assert page.evaluate("window.pwned") is None
        assert page.locator("img[src=x]").count() == 0
        assert repr(HOSTILE) in page.inner_text("#code").replace("\n", "")
