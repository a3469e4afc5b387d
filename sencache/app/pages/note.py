"""One line of text beside the controls: an estimate, a state, or what is wrong; always text, never HTML."""

from __future__ import annotations

import gradio as gr

from sencache.app.pages.theme import script, template


def note(elem_id: str, text: str = "") -> gr.HTML:
    """The component; its value is `{"text": …, "bad": whether it reports a mistake}`."""
    return gr.HTML(
        said(text), html_template=template("note"), js_on_load=script("note"), elem_id=elem_id, padding=False
    )


def said(text: str, bad: bool = False) -> dict[str, str | bool]:
    """The value that makes a note say `text`."""
    return {"text": text, "bad": bad}
