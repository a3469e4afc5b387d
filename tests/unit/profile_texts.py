"""A complete small profile as text, and the same with one value put elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from strategies import profile_data, sensitivity

from sencache.errors import SencacheError


def complete(**changes: Any) -> dict[str, Any]:
    """A profile of four steps with every part, as JSON data."""
    parts: dict[str, Any] = {
        "sensitivity": sensitivity([2.0, 1.5, 1.0, 0.5], [0.01, 0.02, 0.03, 0.04]),
        "magcache": {"ratios": [1.0, 0.99, 0.98, 0.9]},
        "teacache": {
            "coefficients": [2.5, -0.5, 0.0],
            "signal": "time_projection",
            "forced_first": 1,
            "forced_last": 1,
            "fitted_range": [0.01, 0.2],
        },
        "presets": {"slow": {"sencache": {"tolerance": 0.1}, "fixed": {}}},
        "preset_nfe": {"slow": {"sencache": {"mean": 2.5, "std": 0.5, "min": 2, "max": 3}}},
        "calibration": {
            "prompts": ["a red circle"],
            "seeds": [0, 1],
            "date": "2026-11-20",
            "versions": {"torch": "2.11.0"},
            "seconds": 1.5,
            "method": "paper",
            "clips": ["a.mp4"],
            "cost": 2.0,
        },
    }
    return profile_data([1000.0, 750.5, 500.0, 250.0], **{**parts, **changes})


def text(data: Any) -> str:
    return json.dumps(data)


def altered(where: str, value: Any) -> str:
    """The complete profile's text with one value put at the dotted path `where`."""
    data = complete()
    *path, last = [int(part) if part.isdigit() else part for part in where.split(".")]
    place: Any = data
    for part in path:
        place = place[part]
    place[last] = value
    return text(data)


def refusal(call: Callable[[], object]) -> str:
    """The message of a refusal: one sentence, then a remedy."""
    with pytest.raises(SencacheError) as caught:
        call()
    message = str(caught.value)
    assert re.search(r"; (correct|check|choose|calibrate|list|give) ", message), message
    assert "\n" not in message and not re.search(r"\. [A-Z]|\.$", message), message
    return message
