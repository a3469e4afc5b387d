"""The tables of the guides, computed from the list of models: `python docs/guide_tables.py` prints them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sencache.app.seconds import ZEROGPU, costs_of, longest_call, quota, reservation
from sencache.app.space import LONGEST_SECONDS, affordable_lanes, first_run, first_seconds, sizing_lanes
from sencache.errors import SencacheError
from sencache.models.catalogue import MODELS
from sencache.models.listing import describe_model
from sencache.models.placement import Placement, Weights, Work, plan_placement
from sencache.models.spec import ModelSpec

# Sizes that cards are sold in, in 10^9 bytes; a driver and a desktop leave about this share of them free.
CARDS = (16, 24, 32, 48, 80, 141)
FREE = 0.97
# By the name that has a rate: what the column is called, and 10^9 bytes.
GPUS = {
    ZEROGPU: ("half RTX PRO 6000", 48),
    "L40S": ("L40S", 48),
    "A100": ("A100", 80),
    "H100": ("H100", 80),
    "H200": ("H200", 141),
    "RTX 4090": ("RTX 4090", 24),
}


def placement_on(spec: ModelSpec, card: int) -> Placement | None:
    """How the model would be placed on a GPU of `card` 10^9 bytes, None where it does not fit."""
    try:
        return plan_placement(
            spec.key, Weights.of(spec), Work.of(spec), int(card * 1e9 * FREE), free_ram=10**15
        )
    except SencacheError:
        return None


SHORT = {
    ("device", "device"): "all",
    ("host", "device"): "text",
    ("host", "swapped"): "swap",
    ("host", "streamed"): "stream",
    ("host", "blocks"): "blocks",
}


def short(placement: Placement | None) -> str:
    """In a word: `all`, `text`, `swap`, `stream` or `blocks`, with `+tiles` where the VAE works in tiles."""
    if placement is None:
        return "no"
    tiles = "+tiles" if placement.tiled else ""
    return SHORT[placement.text_encoder, placement.transformers] + tiles


def memory_table(specs: Iterable[ModelSpec]) -> list[str]:
    """The guide's table in Markdown: one line a model that is not bundled."""
    lines = [
        "| model | repository | weights GB | GPU GB, all parts | least GPU GB | "
        + " | ".join(f"{card} GB" for card in CARDS)
        + " | seconds a video |",
        "|---|---|--:|--:|--:|" + "---|" * len(CARDS) + "--:|",
    ]
    for spec in specs:
        if not isinstance(spec.source, Path):
            numbers = describe_model(spec)["bytes"]
            cells = [
                f"`{spec.key}`",
                f"`{spec.source}`",
                *(f"{numbers[name] / 1e9:.0f}" for name in ("weights", "gpu_all_parts", "gpu_least")),
                *(short(placement_on(spec, card)) for card in CARDS),
                "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


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
    lanes = affordable_lanes(shorter, sizing_lanes(shorter), device, longest)
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
            held = reservation(seconds)
            lines.append(f"| `{spec.key}` | {numbers} | {seconds:.0f} | {held} | {quota(held)} |")
    return lines


if __name__ == "__main__":
    listed = [spec for spec in MODELS.values() if not spec.bundled]
    from_text = [spec for spec in listed if not spec.from_image]
    print(*memory_table(listed), "", *seconds_table(listed), "", *first_run_table(from_text), sep="\n")
