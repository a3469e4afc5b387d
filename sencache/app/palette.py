"""How methods and lanes are called and coloured, the same in tables, plots, videos and on the page."""

from __future__ import annotations

from sencache.policies import METHODS, Look, look_of, words

NAMED = ("forecast=", "target=", "repair=")
FEWER_STEPS = Look("Fewer steps", "#77828f", "#919dac")


def looks() -> dict[str, Look]:
    """Of everything that can be a lane, in the order shown."""
    full, *caching = METHODS
    return {full: look_of(full), "fewer-steps": FEWER_STEPS, **{name: look_of(name) for name in caching}}


def lane_label(lane: str) -> str:
    """`SenCache, replay` for the lane `sencache:repair=replay`; an unknown method stays as it is."""
    method, *settings = lane.split(":")
    known = looks()
    # Which forecast, target or repair it is says enough; other settings need their name.
    short = (text.partition("=")[2] if text.startswith(NAMED) else text for text in settings)
    plain = (text.replace("=", " ").replace("_", " ") for text in short)
    return ", ".join([known[method].label if method in known else method, *plain])


def signal_label(name: str) -> str:
    return words().get(name, name.replace("_", " "))


def colour_variables() -> str:
    """CSS that defines `--method-NAME` for every method, on light ground and under `.dark`."""
    light = "".join(f"--method-{name}:{look.light};" for name, look in looks().items())
    dark = "".join(f"--method-{name}:{look.dark};" for name, look in looks().items())
    return f":root{{{light}}}\n.dark{{{dark}}}\n"
