"""What components are built from: the fixed HTML and the JavaScript in `static/`, and the line of text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

STATIC = Path(__file__).parent / "static"
# For listeners that answer at once.
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def script(*names: str) -> str:
    """The JavaScript of one component, read from `static/NAME.js`, after what all of them build with."""
    return "".join((STATIC / f"{name}.js").read_text(encoding="utf-8") for name in ("dom", *names))


def template(name: str) -> str:
    """The fixed HTML of one component, read from `static/NAME.html`; it holds no placeholder for any text."""
    return (STATIC / f"{name}.html").read_text(encoding="utf-8")


def part(name: str, value: dict[str, Any], elem_id: str) -> gr.HTML:
    return gr.HTML(
        value, html_template=template(name), js_on_load=script(name), elem_id=elem_id, padding=False
    )


def note(elem_id: str, text: str = "") -> gr.HTML:
    """A line beside the controls: an estimate, a state, or what is wrong; always text, never HTML. Its values
    are `message`s.
    """
    return part("note", message(text), elem_id)


def message(text: str, bad: bool = False) -> dict[str, str | bool]:
    return {"text": text, "bad": bad}
