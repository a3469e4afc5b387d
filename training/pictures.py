"""Loss curves and contact sheets of a training, as small files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 480, 160
INKS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a", "#bf3989", "#0a7ea4")


def save_curves(history: Sequence[dict[str, float]], path: Path) -> None:
    """One logarithmic plot per quantity over the seconds of training, as an SVG file."""
    names = [name for name in (history[-1] if history else {}) if name not in ("step", "seconds")]
    plots = [_plot(history, name, index) for index, name in enumerate(names)]
    height = HEIGHT * max(len(plots), 1)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif">'
    )
    path.write_text("\n".join([head, *plots, "</svg>"]), encoding="utf-8")


def _plot(history: Sequence[dict[str, float]], name: str, index: int) -> str:
    seconds = [entry["seconds"] for entry in history]
    values = [math.log10(max(abs(entry[name]), 1e-9)) for entry in history]
    low, high = min(values), max(values)
    span, top = (high - low) or 1.0, HEIGHT * index + 24
    across, down = (WIDTH - 20) / (seconds[-1] or 1), (HEIGHT - 40) / span
    points = " ".join(
        f"{10 + across * second:.1f},{top + down * (high - value):.1f}"
        for second, value in zip(seconds, values, strict=True)
    )
    label = (
        f"{name}: {history[-1][name]:.4g} after {seconds[-1] / 60:.1f} min, {10**low:.3g} to {10**high:.3g}"
    )
    ink = INKS[index % len(INKS)]
    return (
        f'<text x="10" y="{top - 8}" font-size="12" fill="{ink}">{label}</text>'
        f'<polyline points="{points}" fill="none" stroke="{ink}" stroke-width="1.5"/>'
    )


def contact_sheet(
    clips: Sequence[np.ndarray[Any, Any]], labels: Sequence[str], path: Path, every: int = 2, zoom: int = 2
) -> None:
    """One row per clip [T, H, W, 3] in 0..1, every `every`-th frame, its label above."""
    rows = [_row(clip[::every], label, zoom) for clip, label in zip(clips, labels, strict=True)]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    sheet.save(path)


def _row(frames: np.ndarray[Any, Any], label: str, zoom: int) -> Image.Image:
    framed = np.pad(np.clip(frames, 0, 1), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=0.8)
    strip = Image.fromarray((np.concatenate(list(framed), axis=1) * 255).round().astype(np.uint8))
    strip = strip.resize((strip.width * zoom, strip.height * zoom), Image.Resampling.NEAREST)
    row = Image.new("RGB", (strip.width, strip.height + 14), "white")
    row.paste(strip, (0, 14))
    ImageDraw.Draw(row).text((3, 1), label, fill="black")
    return row
