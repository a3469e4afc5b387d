"""What the list of models shows: memory as computed, and whether the weights are on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sencache.errors import SencacheError
from sencache.models.checkpoint import cached_folder
from sencache.models.placement import Placement, Weights, Work, placements, plan_placement
from sencache.models.spec import ModelSpec

# Sizes that cards are sold in, in 10^9 bytes; a driver and a desktop leave about this share of them free.
CARDS = (16, 24, 32, 48, 80, 141)
FREE = 0.97


def describe_model(spec: ModelSpec) -> dict[str, Any]:
    """One model as plain data. Bytes are computed from parameter counts and shapes, not measured.

    `weights` is what the parts take in the precision they run in; the repository may hold more.
    """
    names = ("key", "summary", "licence", "pipeline", "architecture", "from_image", "profile")
    sizes = ("width", "height", "frames", "fps", "steps", "guidance_scale", "scheduler", "shift")
    return {
        **{name: getattr(spec, name) for name in (*names, *sizes)},
        "source": "bundled" if spec.bundled else str(spec.source),
        "here": cached_folder(spec) is not None,
        "bytes": _bytes(spec),
    }


def _bytes(spec: ModelSpec) -> dict[str, Any]:
    if isinstance(spec.source, Path):
        return {"weights": sum(file.stat().st_size for file in spec.source.rglob("*.safetensors"))}
    offered = offered_placements(spec)
    return {
        "weights": Weights.of(spec).total,
        "gpu_all_parts": offered[0].device_bytes,
        "gpu_least": min(placement.device_bytes for placement in offered),
        "measured": False,
    }


def offered_placements(spec: ModelSpec) -> list[Placement]:
    """Every way to place the model, for a video of its own size; the best first."""
    return list(placements(Weights.of(spec), Work.of(spec)))


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
            numbers = _bytes(spec)
            cells = [
                f"`{spec.key}`",
                f"`{spec.source}`",
                *(f"{numbers[name] / 1e9:.0f}" for name in ("weights", "gpu_all_parts", "gpu_least")),
                *(short(placement_on(spec, card)) for card in CARDS),
                "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines
