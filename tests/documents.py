"""A whole, sound profile as JSON data, and copies of it with one thing changed."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from sencache.profiles.library import bundled_profile


@cache
def _text() -> str:
    return bundled_profile("tiny-wan.unipc-50").read_text(encoding="utf-8")


def whole() -> dict[str, Any]:
    """The profile of tiny-wan: every part is there, 50 steps."""
    data: dict[str, Any] = json.loads(_text())
    return data


def changed(where: str, value: Any) -> dict[str, Any]:
    """The whole profile with `value` at the path `where`, as in `sensitivity/alpha_x/0`."""
    data = whole()
    place, last = _place(data, where)
    place[last] = value
    return data


def without(where: str) -> dict[str, Any]:
    """The whole profile without the key at `where`."""
    data = whole()
    place, last = _place(data, where)
    del place[last]
    return data


def _place(data: Any, where: str) -> tuple[Any, str | int]:
    """What holds the value at `where`, and its key or index there."""
    *path, last = (int(part) if part.isdigit() else part for part in where.split("/"))
    for part in path:
        data = data[part]
    return data, last
