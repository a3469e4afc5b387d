"""Visits to the Compare page: its address, its first paint, a run to the end, a download."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from stage import visited

STEPS = 10
ALL = ["fixed", "sencache", "sencache:repair=replay", "magcache", "teacache", "easycache", "control"]
SMALL = {"width": 32, "height": 32, "frames": 5, "steps": STEPS}
LONG = 90_000

STATUS = "document.querySelector('#status .note').textContent"
PLOTS = "[...document.querySelectorAll('.js-plotly-plot')].map((plot) => plot.offsetHeight)"
CELLS = """() => Object.fromEntries([...document.querySelectorAll('#lanes .lane')].map((lane) => [
  lane.querySelector('.lane-label').textContent,
  [...lane.querySelectorAll('.track .cell')].map((cell) => cell.classList[1]?.[0] ?? '-').join(''),
]))"""


def link(url: str, **settings: Any) -> str:
    """The page with settings in its query, as the page's own links have them."""
    given = {"prompt": "a red circle moving right", "methods": ",".join(ALL), "speed": 2, **SMALL, **settings}
    return f"{url}/?{urlencode(given)}"


def opened(browser: Any, address: str, **context: Any) -> AbstractContextManager[Any]:
    return visited(browser, address, reduced_motion="reduce", **context)


def settled(page: Any) -> None:
    """First paint: the lanes are drawn, and so are the plots."""
    page.wait_for_selector("#lanes .cell.c")
    page.wait_for_function(f"{PLOTS}.length >= 3 && {PLOTS}.every((height) => height > 0)")


def run_to_the_end(page: Any) -> None:
    page.wait_for_function("!document.querySelector('#run').disabled")
    page.click("#run")
    page.wait_for_function("document.querySelector('#run').disabled")
    page.wait_for_function(f"{STATUS}.startsWith('Done')", timeout=LONG)
    page.wait_for_function("!document.querySelector('#run').disabled")


def downloaded(page: Any, name: str) -> bytes:
    with page.expect_download() as waiting:
        page.get_by_role("button", name=name).click()
    return Path(waiting.value.path()).read_bytes()
