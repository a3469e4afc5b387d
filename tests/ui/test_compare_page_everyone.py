"""The Compare page for everyone: by keyboard, on a phone, in both themes, and as screenshots."""

from __future__ import annotations

from collections.abc import Iterator
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


@pytest.fixture(scope="module")
def dark(browser: Any, app_url: str) -> Iterator[Any]:
    size = {"width": 1440, "height": 900}
    with opened(browser, f"{app_url}/?__theme=dark", viewport=size) as page:
        settled(page)
        yield page


def at_every_tab(page: Any) -> Iterator[str]:
    for tab in ("Profiles", "How it works", "Compare"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(300)
        yield tab


def test_nothing_sticks_out(front: Any) -> None:
    for width in (390, 768, 1440):
        front.set_viewport_size({"width": width, "height": 900})
        for tab in at_every_tab(front):
            found = front.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert found == [width, width], tab


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_finding_of_axe(front: Any, dark: Any, theme: str) -> None:
    """The themes differ in their colours alone."""
    page = dark if theme == "dark" else front
    options = {"runOnly": ["color-contrast"]} if theme == "dark" else {}
    found = [
        (tab, finding["id"], [node["html"][:160] for node in finding["nodes"]][:4])
        for tab in at_every_tab(page)
        for finding in Axe().run(page, options=options).response["violations"]
        if finding["impact"] in ("serious", "critical")
    ]
    assert found == []


def test_screenshots_are_kept(front: Any, dark: Any) -> None:
    """Artefacts of the run, to be looked at: the first paint as it is, and the whole page."""
    SCREENSHOTS.mkdir(exist_ok=True)
    for name, page, width in (("desktop", front, 1440), ("dark", dark, 1440), ("phone", front, 390)):
        page.set_viewport_size({"width": width, "height": 844 if width == 390 else 900})
        page.wait_for_function("[...document.querySelectorAll('video')].every((v) => v.readyState >= 2)")
        page.evaluate("scrollTo(0, 0)")
        for kind, whole in (("", False), ("-whole", True)):
            page.screenshot(path=SCREENSHOTS / f"{name}{kind}.png", full_page=whole)
            assert (SCREENSHOTS / f"{name}{kind}.png").stat().st_size > 20_000
