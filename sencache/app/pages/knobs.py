"""The Advanced drawer's knobs: one field per setting of every method, empty where the default holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from sencache.app.palette import lane_label

BOOLEANS = {"yes": True, "no": False}


@dataclass(frozen=True)
class Knob:
    """One setting of one method, and the field in which it can be given."""

    method: str
    setting: dict[str, Any]
    field: Component

    @property
    def name(self) -> str:
        """How the setting is called in links and messages: `sencache.tolerance`."""
        return f"{self.method}.{self.setting['name']}"


def build_knobs(methods: list[dict[str, Any]]) -> list[Knob]:
    """All knobs, grouped by method; `methods` as the service describes them."""
    knobs: list[Knob] = []
    for method in methods:
        if not method["settings"] or ":" in method["lane"]:
            continue
        with gr.Accordion(lane_label(method["method"]), open=False, elem_classes="knobs"), gr.Row():
            knobs += [Knob(method["method"], s, _field(method["method"], s)) for s in method["settings"]]
    return knobs


def _field(method: str, setting: dict[str, Any]) -> Component:
    label, default = setting["name"].replace("_", " "), setting["default"]
    elem_id = f"knob-{method}-{setting['name']}".replace("_", "-")
    hint = "from the profile" if default is None else str(default)
    options: dict[str, Any] = {"label": label, "elem_id": elem_id, "min_width": 130}
    if setting["kind"] in ("choice", "boolean"):
        names = setting["choices"] or list(BOOLEANS)
        usual = next((n for n in BOOLEANS if BOOLEANS[n] is default), default)
        return gr.Dropdown([(f"default ({usual})", ""), *names], value="", **options)
    if setting["kind"] == "list":
        return gr.Textbox(placeholder="0, 1, 4, 8 …", max_length=4000, **options)
    precision = 0 if setting["kind"] == "integer" else None
    return gr.Number(None, placeholder=hint, precision=precision, minimum=setting.get("minimum"), **options)


def given(knobs: list[Knob], values: list[Any]) -> dict[str, dict[str, Any]]:
    """The settings that were filled in, by method; an empty field leaves its setting alone."""
    found: dict[str, dict[str, Any]] = {}
    for knob, value in zip(knobs, values, strict=True):
        if value is None or value == "":
            continue
        found.setdefault(knob.method, {})[knob.setting["name"]] = _plain(knob, value)
    return found


def _plain(knob: Knob, value: Any) -> Any:
    if knob.setting["kind"] == "boolean":
        return BOOLEANS.get(value, value)
    if knob.setting["kind"] == "list":
        return tuple(str(value).replace(",", " ").split())
    return value
