"""The guide's tables of seconds: every model on every GPU, and the first run that ZeroGPU affords."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sencache.app.seconds import ZEROGPU, booked, costs_of, longest_call, reserved
from sencache.app.space import LONGEST_SECONDS, affordable_lanes, first_run, first_seconds, priced
from sencache.models.listing import placement_on, short
from sencache.models.spec import ModelSpec

# By the name that has a rate: what the column is called, and 10^9 bytes.
GPUS = {
    ZEROGPU: ("half RTX PRO 6000", 48),
    "L40S": ("L40S", 48),
    "A100": ("A100", 80),
    "H100": ("H100", 80),
    "H200": ("H200", 141),
    "RTX 4090": ("RTX 4090", 24),
}


def seconds_table(specs: Iterable[ModelSpec]) -> list[str]:
    """In Markdown, one line a model, all computed: seconds of a guided step, of a full run with decoding, and
    of a first run.
    """
    lines = ["| computed | " + " | ".join(name for name, _ in GPUS.values()) + " |"]
    lines.append("|---|" + "--:|" * len(GPUS))
    for spec in specs:
        cells = (_cell(spec, device, memory) for device, (_, memory) in GPUS.items())
        lines.append(f"| `{spec.key}` | {' | '.join(cells)} |")
    return lines


def _cell(spec: ModelSpec, device: str, memory: int) -> str:
    placed, costs = short(placement_on(spec, memory)), costs_of(spec, device)
    if placed == "no":
        return placed
    # What moving weights costs on top is not computed.
    more = "> " if placed.startswith("blocks") else ""
    full = spec.steps * costs.computed + costs.decode
    return f"{more}{_said(costs.computed)} / {_said(full)} / {_first(spec, device)}"


def _first(spec: ModelSpec, device: str) -> str:
    seconds = _first_run(spec, device)[2]
    return _said(seconds) if seconds <= _longest(device) else "no"


def _longest(device: str) -> int:
    return longest_call() if device == ZEROGPU else LONGEST_SECONDS


def _first_run(spec: ModelSpec, device: str) -> tuple[ModelSpec, Sequence[str], float]:
    """Its numbers, its lanes beside the baselines, and its seconds."""
    longest = _longest(device)
    shorter = first_run(spec, device, longest)
    lanes = affordable_lanes(shorter, priced(shorter), device, longest)
    return shorter, lanes, first_seconds(shorter, lanes, device)


def _said(seconds: float) -> str:
    return f"{seconds:.{2 if seconds < 1 else 1 if seconds < 10 else 0}f}"


def first_run_table(specs: Iterable[ModelSpec]) -> list[str]:
    """In Markdown, one line for each model that ZeroGPU can serve: its first run, and the seconds computed,
    reserved and booked for it.
    """
    lines = [
        "| model | size | frames | steps | lanes beside the full run and fewer steps | computed s "
        "| reserved s | booked s |",
        "|---|---|--:|--:|---|--:|--:|--:|",
    ]
    for spec, lanes, seconds in (_first_run(spec, ZEROGPU) for spec in specs):
        if seconds <= _longest(ZEROGPU):
            numbers = f"{spec.width}×{spec.height} | {spec.frames} | {spec.steps} | {', '.join(lanes)}"
            held = reserved(seconds)
            lines.append(f"| `{spec.key}` | {numbers} | {seconds:.0f} | {held} | {booked(held)} |")
    return lines
