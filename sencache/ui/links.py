"""Settings as a link, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import gradio as gr
from gradio import update

from sencache.report import Report
from sencache.schema import MAX_PROMPT
from sencache.service.opening import evaluations
from sencache.ui.controls import BUDGETS, MATCHED, OWN, SPEEDS, Controls, bounds, fitting

TEXTS = ("prompt", "negative")
MAX_VALUE = 4000


def query_of(controls: Controls, *values: Any) -> str:
    """The query that restores these values of `controls.inputs`; fields left empty are left out."""
    names = [*controls.fields, *(knob.name for knob in controls.knobs)]
    pairs = {name: _written(value) for name, value in zip(names, values, strict=True)}
    return urlencode({name: text for name, text in pairs.items() if text})


def query_of_report(report: Report) -> str:
    """The query that asks for a finished comparison again, as near as the page's fields can say it."""
    request = report.request
    speed = next((s for s in SPEEDS if evaluations(s, request.steps) == request.nfe), None)
    methods = [lane.name for lane in report.lanes if lane.target is not None]
    pairs = {
        "prompt": request.prompt,
        "speed": speed,
        "budget": MATCHED if request.nfe else request.preset or OWN,
        "methods": ",".join(methods),
        "seed": request.seed,
        "steps": request.steps,
        "negative": request.negative_prompt,
    }
    return urlencode({name: value for name, value in pairs.items() if value not in (None, "")})


def _written(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def restored(controls: Controls, query: Mapping[str, str]) -> list[Any]:
    """An update per input. What a link says is a stranger's: a value that its field does not offer is left
    out.
    """
    updates: list[Any] = []
    for name in controls.fields:
        value = _field(controls, name, query[name]) if name in query else None
        updates.append(gr.skip() if value is None else update(value=value))
    for knob in controls.knobs:
        value = _knob(knob.setting, query[knob.name]) if knob.name in query else None
        updates.append(gr.skip() if value is None else update(value=value))
    return updates


def _field(controls: Controls, name: str, text: str) -> Any:
    if name in TEXTS:
        return text[:MAX_PROMPT]
    if name == "methods":
        offered = [method["lane"] for method in controls.offer["methods"] if not method["baseline"]]
        return [lane for lane in text.split(",") if lane in offered] if text else None
    choices = {
        "speed": SPEEDS,
        "budget": tuple(value for _, value in BUDGETS),
        "model": tuple(model["key"] for model in controls.offer["models"]),
        "profile": tuple(fitting(controls.offer)),
    }
    if name in choices:
        return text if text in choices[name] else None
    return _number(text, *bounds(name))


def _knob(setting: dict[str, Any], text: str) -> Any:
    if setting["kind"] == "list":
        return text[:MAX_VALUE]
    if setting["kind"] == "boolean":
        return text if text in ("yes", "no") else None
    if setting["kind"] == "choice":
        return text if text in setting["choices"] else None
    return _number(text, 0, 1000)


def _number(text: str, low: float, high: float) -> float | int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    if not (math.isfinite(value) and low <= value <= high):
        return None
    return int(value) if value.is_integer() else value
