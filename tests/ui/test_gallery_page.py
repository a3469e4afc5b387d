"""The gallery's cards in a browser: those recorded elsewhere stand apart, and many take no more room."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from stage import served, visited

from sencache.app.pages.gallery import GalleryCards, cards_of, load_gallery
from sencache.gallery.card import Entry

HOSTILE = '<img src=x onerror="window.pwned=1">' + "unbroken" * 40
MANY = 24


def elsewhere(number: int) -> Entry:
    entry = load_gallery()[number % 4]
    asked = entry.report.request.model_copy(update={"prompt": HOSTILE})
    report = entry.report.model_copy(update={"request": asked})
    return replace(entry, name=f"{number}@1", report=report, source="you/cards@01234567")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    entries = [*load_gallery(), *map(elsewhere, range(MANY))]
    with served(lambda: GalleryCards(cards_of(entries, "2-equal-cost"))) as address:
        yield address


def test_many_cards_scroll_in_a_row_of_their_own(browser: Any, url: str) -> None:
    with visited(browser, url, viewport={"width": 390, "height": 900}) as page:
        page.locator(".card").first.wait_for()
        titles = page.locator("section .title").all_inner_texts()
        assert titles == [f"Recorded elsewhere ({MANY})", "Come with this software"]
        recorded, bundled = page.locator("section .row").all()
        assert (recorded.locator(".card").count(), bundled.locator(".card").count()) == (MANY, 4)
        assert recorded.locator(".source").count() == MANY and bundled.locator(".source").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert recorded.evaluate("(row) => row.scrollWidth > row.clientWidth && row.clientHeight < 260")
        assert bundled.locator("[aria-pressed=true]").count() == 1
        last = recorded.locator(".card").last
        last.focus()
        in_sight = "(card) => card.getBoundingClientRect().right <= innerWidth + 1"
        assert last.evaluate(in_sight), "keys reach it"
        assert page.evaluate("window.pwned") is None
