"""The README's picture: a finished comparison as one image.

python -m sencache compare --prompt "a red circle moving right" --nfe 20 --out out/
python docs/picture.py out/ docs/comparison.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sencache.report import Lane, Report, load_report
from sencache.video import read_mp4

INK, FAINT, PAPER, COMPUTED, REUSED = "#1b2733", "#6b7a89", "#ffffff", "#0f766e", "#cfe8e4"
WIDTH, ROW, LEFT, CELL, FRAME, FRAMES = 1440, 108, 40, 13, 92, 4
LABELS, TIMELINE = 300, 50 * CELL


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own scalable font."""
    return ImageFont.load_default(size)


def main(folder: Path, out: Path) -> None:
    """Draw the report in `folder`."""
    report = load_report(folder / "report.json")
    image = Image.new("RGB", (WIDTH, 104 + ROW * len(report.lanes) + 56), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((LEFT, 26), f"“{report.request.prompt}”", INK, font(30))
    draw.text((LEFT, 68), _subtitle(report), FAINT, font(18))
    for row, lane in enumerate(report.lanes):
        _lane(image, draw, 104 + row * ROW, lane, folder)
    _legend(draw, 104 + ROW * len(report.lanes) + 18)
    image.quantize(255).save(out, optimize=True)


def _subtitle(report: Report) -> str:
    request = report.request
    return f"{report.model.id}, {request.steps} steps, seed {request.seed}: the same noise in every lane"


def _lane(image: Image.Image, draw: ImageDraw.ImageDraw, top: int, lane: Lane, folder: Path) -> None:
    draw.line((LEFT, top, WIDTH - LEFT, top), "#e4e9ee")
    draw.text((LEFT, top + 24), lane.name.replace(":forecast=", ", "), INK, font(22))
    draw.text((LEFT, top + 56), _numbers(lane), FAINT, font(16))
    for record in lane.trace:
        _cell(draw, LEFT + LABELS + record.step * CELL, top + 34, record.decision == "compute")
    assert lane.video is not None
    clip = read_mp4(folder / lane.video)
    for place in range(FRAMES):
        frame = Image.fromarray(clip[place * (len(clip) - 1) // (FRAMES - 1)]).resize((FRAME, FRAME))
        image.paste(frame, (LEFT + LABELS + TIMELINE + 28 + place * (FRAME + 6), top + 8))


def _numbers(lane: Lane) -> str:
    cost = f"NFE {lane.nfe}, {lane.speedup:.2f}x"
    if lane.metrics is None:
        return f"{cost}, the reference"
    return f"{cost}, identical" if lane.metrics.psnr is None else f"{cost}, {lane.metrics.psnr:.1f} dB"


def _cell(draw: ImageDraw.ImageDraw, x: int, y: int, computed: bool) -> None:
    box = (x, y, x + CELL - 3, y + 40)
    draw.rectangle(box, COMPUTED if computed else REUSED)
    if not computed:
        for offset in range(4, 48, 9):
            draw.line((x, y + offset, x + CELL - 3, y + offset - 8), "#7fb8b0")
        draw.rectangle(box, outline="#7fb8b0")


def _legend(draw: ImageDraw.ImageDraw, y: int) -> None:
    for x, computed, text in ((LEFT + LABELS, True, "computed"), (LEFT + LABELS + 140, False, "reused")):
        draw.rectangle((x, y, x + 18, y + 18), COMPUTED if computed else REUSED, "#7fb8b0")
        draw.text((x + 26, y - 1), text, FAINT, font(16))
    draw.text((LEFT + LABELS + 280, y - 1), "one cell per step, first step on the left", FAINT, font(16))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
