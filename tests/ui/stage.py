"""A part of the app mounted alone, in a real browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import gradio as gr
import pytest

from sencache.app.pages.page import launch_options

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's browser; without one the test is skipped, in CI it fails."""
    path = shutil.which("chromium")
    if path is None and not os.environ.get("CI"):
        pytest.skip("no chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def served(build: Callable[[], Any]) -> Iterator[str]:
    """The address of an app whose one page `build` makes."""
    with gr.Blocks(fill_width=True, analytics_enabled=False) as app:
        build()
    _, url, _ = app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options())
    try:
        yield url
    finally:
        app.close()


@contextmanager
def visited(browser: Browser, url: str, tolerated: str = "\0", **context: Any) -> Iterator[Page]:
    """A page of its own. Afterwards: no error was logged but the `tolerated`, and no request left the
    machine.
    """
    opened = browser.new_context(**{"viewport": {"width": 1440, "height": 1000}, **context})
    page, problems = opened.new_page(), list[str]()

    def note(message: Any) -> None:
        if message.type == "error":
            problems.append(f"{message.text} {message.location}")

    page.on("console", note)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.extend(_foreign(request.url)))
    page.goto(url)
    yield page
    opened.close()
    problems = [problem for problem in problems if tolerated not in problem]
    if problems:
        pytest.fail("\n".join(problems))


def _foreign(url: str) -> list[str]:
    parts = urlsplit(url)
    return [url] if parts.scheme in ("http", "https") and parts.hostname != "127.0.0.1" else []
