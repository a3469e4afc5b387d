"""The page: a header, three tabs, the theme, and how the whole is launched."""

from __future__ import annotations

import errno
import logging
import os
from typing import Any

import gradio as gr

from sencache.app.offer import describe
from sencache.app.pages.api import build_api
from sencache.app.pages.compare import ComparePage
from sencache.app.pages.how import build_how_page
from sencache.app.pages.own_profiles import own_profiles
from sencache.app.pages.parts import QUIET, STATIC
from sencache.app.pages.profiles import build_profiles_page
from sencache.app.palette import colour_variables
from sencache.app.recorded import fetch_recorded, gallery_places
from sencache.app.service import ComparisonService
from sencache.errors import SencacheError

log = logging.getLogger(__name__)

HEADER = """
<header class="masthead">
  <p class="wordmark">SenCache <span>Space</span></p>
  <p class="tagline">One prompt, one noise, every step cache side by side.</p>
</header>
"""

MAX_WAITING = 16
ONE_HOUR = 3600
# Tokens of gradio's themes by what sets them; the stylesheet sets its variables for light and dark.
SURFACES = {
    "var(--paper)": "body_background_fill background_fill_secondary",
    "var(--card)": "background_fill_primary input_background_fill button_secondary_background_fill",
    "var(--ink)": "body_text_color checkbox_label_text_color checkbox_label_text_color_selected "
    "button_secondary_text_color",
    "var(--ink-2)": "block_title_text_color block_label_text_color",
    "var(--ink-3)": "body_text_color_subdued input_placeholder_color checkbox_border_color",
    "var(--line)": "border_color_primary",
    "var(--line-2)": "input_border_color button_secondary_border_color",
    "var(--accent)": "border_color_accent checkbox_background_color_selected checkbox_border_color_selected",
    "var(--accent-soft)": "color_accent_soft button_secondary_background_fill_hover",
    "var(--focus)": "input_border_color_focus",
    "var(--action)": "button_primary_background_fill",
    "var(--action-hover)": "button_primary_background_fill_hover",
    "var(--on-action)": "button_primary_text_color",
    "transparent": "block_background_fill block_label_background_fill checkbox_label_background_fill "
    "checkbox_label_background_fill_selected checkbox_label_background_fill_hover "
    "checkbox_label_border_color checkbox_label_border_color_selected checkbox_label_border_color_hover",
    "none": "block_shadow input_shadow input_shadow_focus checkbox_label_shadow",
    "0px": "block_border_width block_label_border_width",
}
PLAIN = {
    "block_padding": "0",
    "block_title_text_weight": "560",
    "block_title_text_size": "0.8125rem",
    "button_border_width": "1px",
    "button_large_text_weight": "600",
    "checkbox_label_padding": "0",
    "input_border_width": "1px",
    "form_gap_width": "0px",
    "layout_gap": "20px",
}


def start() -> gr.Blocks:
    """The app for whoever runs it as a program: its log tells how the model was placed, or in one sentence
    what is missing, with which the process ends as the command line does.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("sencache").setLevel(logging.INFO)
    try:
        return build_app()
    except SencacheError as error:
        log.error("%s", error)
        raise SystemExit(2) from None


def build_app() -> gr.Blocks:
    places, service, offer = gallery_places(), ComparisonService(), describe()
    for model in offer["models"]:
        for text in model["pulled"]:
            log.info("%s: %s", model["key"], text)
    service.warm(offer["models"][0]["key"])
    cards = fetch_recorded(places)
    app: gr.Blocks
    with gr.Blocks(
        title="SenCache Space", fill_width=True, delete_cache=(ONE_HOUR, ONE_HOUR), analytics_enabled=False
    ) as app:
        own = own_profiles()
        gr.HTML(HEADER, padding=False)
        with gr.Tabs(elem_id="pages"):
            with gr.Tab("Compare", id="compare"):
                compare = ComparePage(service, offer, cards, own)
            with gr.Tab("Profiles", id="profiles"):
                build_profiles_page(own)
            with gr.Tab("How it works", id="how"):
                build_how_page()
        compare.wire()
        build_api(service, offer)
        app.load(compare.load, None, [*compare.controls.inputs, *compare.results], **QUIET)
    app.queue(max_size=MAX_WAITING, default_concurrency_limit=4)
    return app


def launch(app: gr.Blocks) -> None:
    """Serve `app`; on ZeroGPU its weights are packed first, and a disk that fills up ends the process."""
    try:
        app.launch(**launch_options())
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        log.error("the disk is full, so the app could not start; name a smaller model in MODEL_ID")
        raise SystemExit(2) from None


def launch_options() -> dict[str, Any]:
    return {
        "theme": theme(),
        "css": colour_variables(),
        "css_paths": sorted(STATIC.glob("*.css")),
        "ssr_mode": False,
        "show_error": False,
        "max_file_size": "2mb",
        "footer_links": ["api", "settings"],
        "mcp_server": os.environ.get("SENCACHE_MCP", "") == "1",
    }


def theme() -> gr.themes.Base:
    """Gradio's default without its boxes: system fonts, one accent; the rest is in `static/style.css`."""
    base = gr.themes.Default(
        primary_hue="teal",
        neutral_hue="slate",
        radius_size="md",
        font=["Inter", "system-ui", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
    )
    tokens = {token: value for value, named in SURFACES.items() for token in named.split()}
    dark = {f"{token}_dark": value for token, value in tokens.items()}
    return base.set(**tokens, **dark, **PLAIN)
