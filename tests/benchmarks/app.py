"""What the page costs a visitor: time to see something, time to the first live cell, stalls, bytes.

PYTHONPATH=. python tests/benchmarks/app.py --rounds 3

Needs chromium and requirements-test.txt; starts the app, or visits one that runs (`--url`).
"""

from __future__ import annotations

import argparse
import os
import statistics
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tests.ui.served_app import served_app

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
# Long tasks are blocks of the main thread beyond 50 ms; the observer sees them all from the first on.
WATCH = """
window.stalls = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.stalls.push([entry.startTime, entry.duration]);
}).observe({ type: 'longtask', buffered: true });
new MutationObserver(() => {
  if (!window.painted && document.querySelector('#lanes .cell.c')) window.painted = performance.now();
}).observe(document, { subtree: true, childList: true, attributes: true });
"""
LIVE = """() => new Promise((found) => {
  window.stalls.length = 0;
  const began = performance.now();
  const fresh = () => document.querySelector('#lanes .lane[data-state=running] .cell.c');
  const look = () => fresh() ? found(performance.now() - began) : requestAnimationFrame(look);
  document.querySelector('#run').click();
  look();
})"""


def main() -> None:
    """Print medians over the rounds, and the worst stall of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url")
    options = parser.parse_args()
    app = nullcontext(options.url) if options.url else served_app(Path(os.devnull))
    with app as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        size: Any = {"width": 1440, "height": 900}
        rounds = [measure(browser.new_page(viewport=size), url) for _ in range(options.rounds)]
        browser.close()
    for name in rounds[0]:
        values = [figures[name] for figures in rounds]
        print(f"{name:42} {statistics.median(values):10.1f}   {min(values):10.1f} to {max(values):.1f}")


def measure(page: Page, url: str) -> dict[str, float]:
    """One visit and one run with the settings as they are."""
    streamed = count_bytes(page)
    page.add_init_script(WATCH)
    page.goto(url)
    page.wait_for_function("window.painted && document.querySelectorAll('.js-plotly-plot').length >= 3")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    lanes, loading = page.evaluate("window.painted"), stalls(page)
    page.wait_for_timeout(1500)
    streamed.clear()
    live = page.evaluate(LIVE)
    status = "document.querySelector('#status .note').textContent"
    page.wait_for_function(f"{status}.startsWith('Measuring')", timeout=300_000)
    running = stalls(page)
    page.wait_for_function(f"{status}.startsWith('Done')", timeout=300_000)
    page.wait_for_timeout(1500)
    ended = stalls(page)
    page.close()
    return {
        "first contentful paint, ms": paint,
        "finished comparison on the page, ms": lanes,
        "long tasks while loading": len(loading),
        "first live cell after Run, ms": live,
        "long tasks while lanes run": len(running),
        "longest of them, ms": max(running, default=0.0),
        "long tasks when results come in": len(ended) - len(running),
        "longest of all since Run, ms": max(ended, default=0.0),
        "streamed during the run, KiB": sum(streamed) / 1024,
    }


def stalls(page: Page) -> list[float]:
    """Durations of the long tasks so far, in milliseconds."""
    return [duration for _, duration in page.evaluate("window.stalls")]


def count_bytes(page: Page) -> list[int]:
    """Grows by the size of every piece of every event stream."""
    session, sizes, streams = page.context.new_cdp_session(page), list[int](), set[str]()
    session.send("Network.enable")

    def began(event: dict[str, Any]) -> None:
        if "queue/data" in event["request"]["url"]:
            streams.add(event["requestId"])

    def came(event: dict[str, Any]) -> None:
        if event["requestId"] in streams:
            sizes.append(event["dataLength"])

    session.on("Network.requestWillBeSent", began)
    session.on("Network.dataReceived", came)
    return sizes


if __name__ == "__main__":
    main()
