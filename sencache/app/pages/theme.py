"""The theme: system fonts, one accent, quiet greys; nothing is fetched from elsewhere."""

from __future__ import annotations

import gradio as gr

SURFACES = {
    "body_background_fill": "var(--paper)",
    "body_text_color": "var(--ink)",
    "body_text_color_subdued": "var(--ink-3)",
    "background_fill_primary": "var(--card)",
    "background_fill_secondary": "var(--paper)",
    "block_background_fill": "transparent",
    "block_border_width": "0px",
    "block_shadow": "none",
    "block_title_text_color": "var(--ink-2)",
    "block_label_text_color": "var(--ink-2)",
    "block_label_background_fill": "transparent",
    "block_label_border_width": "0px",
    "border_color_primary": "var(--line)",
    "border_color_accent": "var(--accent)",
    "color_accent_soft": "var(--accent-soft)",
    "input_background_fill": "var(--card)",
    "input_border_color": "var(--line-2)",
    "input_border_color_focus": "var(--focus)",
    "input_placeholder_color": "var(--ink-3)",
    "input_shadow": "none",
    "input_shadow_focus": "none",
    "checkbox_background_color_selected": "var(--accent)",
    "checkbox_border_color": "var(--ink-3)",
    "checkbox_border_color_selected": "var(--accent)",
    "checkbox_label_background_fill": "transparent",
    "checkbox_label_background_fill_selected": "transparent",
    "checkbox_label_background_fill_hover": "transparent",
    "checkbox_label_text_color": "var(--ink)",
    "checkbox_label_text_color_selected": "var(--ink)",
    "checkbox_label_border_color": "transparent",
    "checkbox_label_border_color_selected": "transparent",
    "checkbox_label_border_color_hover": "transparent",
    "checkbox_label_shadow": "none",
    "button_primary_background_fill": "var(--action)",
    "button_primary_background_fill_hover": "var(--action-hover)",
    "button_primary_text_color": "var(--on-action)",
    "button_secondary_background_fill": "var(--card)",
    "button_secondary_background_fill_hover": "var(--accent-soft)",
    "button_secondary_border_color": "var(--line-2)",
    "button_secondary_text_color": "var(--ink)",
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


def theme() -> gr.themes.Base:
    """Gradio's default without its boxes: hairlines, one accent; tokens and the rest in
    `static/style.css`.
    """
    base = gr.themes.Default(
        primary_hue="teal",
        neutral_hue="slate",
        radius_size="md",
        font=["Inter", "system-ui", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
    )
    # Light and dark alike: each value is a variable that the stylesheet sets for both.
    surfaces = {token + suffix: value for token, value in SURFACES.items() for suffix in ("", "_dark")}
    return base.set(**surfaces, **PLAIN)
