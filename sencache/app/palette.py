"""How methods and lanes are called and coloured, the same in tables, plots, videos and on the page."""

from __future__ import annotations

from typing import NamedTuple


class Look(NamedTuple):
    """A method's name for people, and its colour on light and on dark ground."""

    label: str
    light: str
    dark: str


LOOKS = {
    "none": Look("Full run", "#445163", "#c3ccd8"),
    "fewer-steps": Look("Fewer steps", "#77828f", "#919dac"),
    "fixed": Look("Fixed interval", "#9a6a0b", "#d9a84a"),
    "sencache": Look("SenCache", "#0f766e", "#35bcab"),
    "magcache": Look("MagCache", "#6a57c8", "#a99bff"),
    "teacache": Look("TeaCache", "#b03d76", "#f083b7"),
    "easycache": Look("EasyCache", "#2867ad", "#6fb0f2"),
    "control": Look("Control", "#bb4d2a", "#f59570"),
}


def lane_label(lane: str) -> str:
    """`SenCache, linear` for the lane `sencache:forecast=linear`; an unknown method stays as it is."""
    method, *settings = lane.split(":")
    name = LOOKS[method].label if method in LOOKS else method
    return ", ".join([name, *(_said(setting) for setting in settings)])


def _said(setting: str) -> str:
    """Which forecast or target it is says enough; other settings need their name."""
    return setting.removeprefix("forecast=").removeprefix("target=").replace("=", " ").replace("_", " ")


def colour_variables() -> str:
    """CSS that defines `--method-NAME` for every method, on light ground and under `.dark`."""
    light = "".join(f"--method-{name}:{look.light};" for name, look in LOOKS.items())
    dark = "".join(f"--method-{name}:{look.dark};" for name, look in LOOKS.items())
    return f":root{{{light}}}\n.dark{{{dark}}}\n"
