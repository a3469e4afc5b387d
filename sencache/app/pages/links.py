"""Settings as a link, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from gradio import update

from sencache.app.pages.controls import (
    BOOLEANS,
    BUDGETS,
    MATCHED,
    MAX_SEED,
    OWN,
    SPEEDS,
    Controls,
    bundled_choices,
)
from sencache.app.space import evaluations
from sencache.comparison.report import Report
from sencache.schema import MAX_PROMPT, MAX_STEPS

TEXTS = ("prompt", "negative")
MAX_VALUE = 4000
# The smallest and largest value that a link may set; anything else is checked when it is run.
BOUNDS = {"seed": (0, MAX_SEED), "steps": (1, MAX_STEPS)}


def query_of(controls: Controls, *values: Any) -> str:
    """The query that restores these values of `controls.inputs`."""
    return _query(dict(zip(controls.names, values, strict=True)))


def query_of_report(report: Report) -> str:
    """The query that asks for a finished comparison again, as near as the page's fields can say it."""
    request = report.request
    return _query(
        {
            "prompt": request.prompt,
            "speed": next((s for s in SPEEDS if evaluations(s, request.steps) == request.nfe), None),
            "budget": MATCHED if request.nfe else request.preset or OWN,
            "methods": [lane.name for lane in report.lanes if lane.target is not None],
            "model": report.model.key,
            "negative": request.negative_prompt,
            "guidance": request.guidance_scale,
            **{name: getattr(request, name) for name in ("seed", "steps", "width", "height", "frames")},
        }
    )


def _query(values: Mapping[str, Any]) -> str:
    """Fields left empty are left out; but no method at all is a choice."""
    texts = {
        name: ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        for name, value in values.items()
    }
    return urlencode({n: text for n, text in texts.items() if text not in (None, "") or n == "methods"})


def read_query(query: str) -> dict[str, str]:
    """What `query_of` and `query_of_report` wrote, by field."""
    return dict(parse_qsl(query, keep_blank_values=True))


def restore(controls: Controls, query: Mapping[str, str]) -> list[Any]:
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
        "budget": [value for _, value in BUDGETS],
        "model": [model["key"] for model in controls.offer["models"]],
        "profile": bundled_choices(controls.offer),
    }
    if name in choices:
        return text if text in choices[name] else None
    return _number(text, *BOUNDS.get(name, (0, 10_000)))


def _knob(setting: dict[str, Any], text: str) -> Any:
    if setting["kind"] == "list":
        return text[:MAX_VALUE]
    if setting["kind"] in ("boolean", "choice"):
        return text if text in (setting["choices"] or BOOLEANS) else None
    return _number(text, 0, 1000)


def _number(text: str, low: float, high: float) -> float | int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    if not (math.isfinite(value) and low <= value <= high):
        return None
    return int(value) if value.is_integer() else value
