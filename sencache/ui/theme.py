"""The theme: system fonts, one accent, quiet greys; nothing is fetched from elsewhere."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

STATIC = Path(__file__).parent / "static"


def theme() -> gr.themes.Base:
    """Gradio's default with the house's accent and fonts; the rest is in `static/style.css`."""
    return gr.themes.Default(
        primary_hue="teal",
        neutral_hue="slate",
        radius_size="md",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def stylesheets() -> list[Path]:
    """All CSS files of the pages and components."""
    return sorted(STATIC.glob("*.css"))


def script(name: str) -> str:
    """The JavaScript of one component, read from `static/NAME.js`."""
    return (STATIC / f"{name}.js").read_text(encoding="utf-8")


def template(name: str) -> str:
    """The fixed HTML of one component, read from `static/NAME.html`; it holds no placeholder for any text."""
    return (STATIC / f"{name}.html").read_text(encoding="utf-8")
