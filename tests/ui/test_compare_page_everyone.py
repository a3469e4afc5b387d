"""The Compare page for everyone: by keyboard, on a phone, in both themes, and as screenshots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from compare_visits import LONG, STATUS, STEPS, link, opened, settled

SCREENSHOTS = Path(__file__).parent / "screenshots"


def test_by_keyboard_alone(browser: Any, app_url: str) -> None:
    with opened(browser, link(app_url, methods="sencache")) as page:
        settled(page)
        tab_to(page, "#prompt textarea")
        page.keyboard.press("Control+A")
        page.keyboard.type("a blue star")
        tab_to(page, "#run")
        page.keyboard.press("Enter")
        page.wait_for_function(f"{STATUS}.startsWith('Done')", timeout=LONG)
        assert page.inner_text(".lanes-title") == "a blue star"
        tab_to(page, ".track[aria-label^='SenCache']")
        page.keyboard.press("End")
        told = page.evaluate("document.activeElement.getAttribute('aria-valuetext')")
        assert told.startswith(f"step {STEPS} of {STEPS}")
        page.keyboard.press("ArrowLeft")
        assert page.evaluate("document.activeElement.getAttribute('aria-valuenow')") == str(STEPS - 1)


def tab_to(page: Any, selector: str) -> None:
    """Press Tab until the focus is there, and see that the focus can be seen."""
    for _ in range(120):
        if page.evaluate("(s) => document.activeElement.matches(s)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not lead to {selector}")


def test_on_a_phone_run_brings_the_lanes_into_sight(browser: Any, app_url: str) -> None:
    with opened(browser, link(app_url, methods="fixed"), viewport={"width": 390, "height": 844}) as page:
        settled(page)
        page.click("#run")
        page.wait_for_function(f"{STATUS}.startsWith('Done')", timeout=LONG)
        top = page.evaluate("document.querySelector('#lanes').getBoundingClientRect().top")
        assert 0 <= top < 400


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_nothing_sticks_out(browser: Any, app_url: str, width: int) -> None:
    with opened(browser, app_url, viewport={"width": width, "height": 844}) as page:
        settled(page)
        for tab in ("Compare", "Profiles", "How it works"):
            page.get_by_role("tab", name=tab).click()
            page.wait_for_timeout(400)
            assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width], tab


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_finding_of_axe(browser: Any, app_url: str, theme: str) -> None:
    with opened(browser, f"{app_url}/?__theme={theme}") as page:
        settled(page)
        found = []
        for tab in ("Compare", "Profiles", "How it works"):
            page.get_by_role("tab", name=tab).click()
            page.wait_for_timeout(500)
            found += [
                (tab, finding["id"], [node["html"][:160] for node in finding["nodes"]][:4])
                for finding in Axe().run(page).response["violations"]
                if finding["impact"] in ("serious", "critical")
            ]
        assert found == []


@pytest.mark.parametrize(
    ("name", "theme", "width"), [("desktop", "light", 1440), ("dark", "dark", 1440), ("phone", "light", 390)]
)
def test_screenshots_are_kept(browser: Any, app_url: str, name: str, theme: str, width: int) -> None:
    """An artefact of the run, to be looked at: the first paint as it is, and the whole page."""
    SCREENSHOTS.mkdir(exist_ok=True)
    size = {"width": width, "height": 844 if width == 390 else 900}
    with opened(browser, f"{app_url}/?__theme={theme}", viewport=size) as page:
        settled(page)
        page.wait_for_function("[...document.querySelectorAll('video')].every((v) => v.readyState >= 2)")
        for kind, whole in (("", False), ("-whole", True)):
            page.screenshot(path=SCREENSHOTS / f"{name}{kind}.png", full_page=whole)
            assert (SCREENSHOTS / f"{name}{kind}.png").stat().st_size > 20_000
