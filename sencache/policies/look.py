"""How a method is shown: its name for people, and its colour on light and on dark ground."""

from __future__ import annotations

import colorsys
import zlib
from typing import NamedTuple


class Look(NamedTuple):
    """A method's name for people, and its colour on light and on dark ground as `#rrggbb`."""

    label: str
    light: str
    dark: str


def plain_look(name: str) -> Look:
    """For a method that has none of its own: a hue that follows from the name, the same everywhere."""
    hue = zlib.crc32(name.encode()) % 360 / 360
    return Look(name.replace("-", " ").capitalize(), _hex(hue, 0.32, 0.6), _hex(hue, 0.72, 0.65))


def _hex(hue: float, lightness: float, saturation: float) -> str:
    rgb = colorsys.hls_to_rgb(hue, lightness, saturation)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
