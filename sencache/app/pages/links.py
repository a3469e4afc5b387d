"""Settings as a link, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from gradio import update

from sencache.app.opening import evaluations
from sencache.app.pages.controls import BUDGETS, MATCHED, OWN, SPEEDS, Controls, bounds, fitting
from sencache.comparison.report import Report
from sencache.schema import MAX_PROMPT

TEXTS = ("prompt", "negative")
MAX_VALUE = 4000


def query_of(controls: Controls, *values: Any) -> str:
    """The query that restores these values of `controls.inputs`."""
    return _query(dict(zip(controls.names, values, strict=True)))


def query_of_report(report: Report) -> str:
    """The query that asks for a finished comparison again, as near as the page's fields can say it."""
    request = report.request
    speed = next((s for s in SPEEDS if evaluations(s, request.steps) == request.nfe), None)
    sizes = {name: getattr(request, name) for name in ("seed", "steps", "width", "height", "frames")}
    return _query(
        {
            "prompt": request.prompt,
            "speed": speed,
            "budget": MATCHED if request.nfe else request.preset or OWN,
            "methods": [lane.name for lane in report.lanes if lane.target is not None],
            "model": report.model.key,
            "negative": request.negative_prompt,
            "guidance": request.guidance_scale,
            **sizes,
        }
    )


def _query(values: Mapping[str, Any]) -> str:
    """Fields left empty are left out; but no method at all is a choice."""
    pairs = {name: _written(value) for name, value in values.items()}
    return urlencode({name: text for name, text in pairs.items() if text or name == "methods"})


def _written(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def read_query(query: str) -> dict[str, str]:
    """What `query_of` and `query_of_report` wrote, by field."""
    return dict(parse_qsl(query, keep_blank_values=True))


def restored(controls: Controls, query: Mapping[str, str]) -> list[Any]:
    """An update per input, whatever is in it now: the query's value, else that of an untouched page.

    What a link says is a stranger's: a value that its field does not offer is left out. So is all but the
    texts where the query is for a model that is not offered here, as sizes and methods are that model's.
    """
    known = [model["key"] for model in controls.offer["models"]]
    if query.get("model", known[0]) not in known:
        query = {name: text for name, text in query.items() if name in TEXTS}
    found = {name: _field(controls, name, text) for name, text in query.items() if name in controls.fields}
    for knob in controls.knobs:
        if knob.name in query:
            found[knob.name] = _knob(knob.setting, query[knob.name])
    untouched = zip(controls.names, (field.value for field in controls.inputs), strict=True)
    return [update(value=own if found.get(name) is None else found[name]) for name, own in untouched]


def _field(controls: Controls, name: str, text: str) -> Any:
    if name in TEXTS:
        return text[:MAX_PROMPT]
    if name == "methods":
        offered = [method["lane"] for method in controls.offer["methods"] if not method["baseline"]]
        return [lane for lane in text.split(",") if lane in offered]
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
