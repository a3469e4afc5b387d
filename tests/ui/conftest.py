"""The whole app as a process of its own, and a browser to visit it with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from compare_visits import opened, settled
from served_app import served_app
from stage import chromium


@pytest.fixture(scope="session")
def app_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served_app(tmp_path_factory.mktemp("app") / "log.txt", HF_HUB_OFFLINE="1") as url:
        yield url


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One Chromium for all."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def front(browser: Any, app_url: str) -> Iterator[Any]:
    """The page as it opens, in light; tests leave it on its first tab."""
    with opened(browser, f"{app_url}/?__theme=light", viewport={"width": 1440, "height": 900}) as page:
        settled(page)
        yield page
