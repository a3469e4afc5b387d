"""How it works: the score taught on a recorded run, and what every method looks at."""

from __future__ import annotations

from typing import Any

import gradio as gr

from sencache.app.pages.gallery import GALLERY
from sencache.app.pages.replay import REPLAY, Replay, load_replay
from sencache.app.pages.theme import script, template


class HowItWorks(gr.HTML):
    """The page's text with the replay inside; everything moves in the browser."""

    def __init__(self, value: Replay, **options: Any) -> None:
        super().__init__(
            value=value.model_dump(mode="json", by_alias=True),
            html_template=template("how"),
            js_on_load=script("rule", "how"),
            **options,
        )


def build_how_page() -> None:
    """Put the page into the block that is open; the run is the gallery's recorded one."""
    found = sorted(GALLERY.glob(f"*/{REPLAY}"))
    HowItWorks(load_replay(found[0] if found else GALLERY / REPLAY), elem_id="how")
