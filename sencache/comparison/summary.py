"""What a finished comparison comes to, alike on terminal, page and cards: columns, best values, verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from sencache.comparison.report import Lane, Report
from sencache.schema import Metrics

# How a lane is called where the summary is shown.
Label = Callable[[str], str]


def psnr(lane: Lane) -> float | None:
    """In dB against the full run: infinite for identical frames, None for what was not measured."""
    if lane.metrics is None:
        return None
    return math.inf if lane.metrics.psnr is None else lane.metrics.psnr


def _metric(value: Callable[[Metrics], float]) -> Callable[[Lane], float | None]:
    return lambda lane: value(lane.metrics) if lane.metrics else None


class Column(NamedTuple):
    """One quantity of a lane: its value, the format it is written in, and which end is better, if any."""

    name: str
    explained: str
    value: Callable[[Lane], float | None]
    written: str
    better: str | None = None


_COLUMNS = (
    Column(
        "NFE",
        "Steps whose network ran; of a reused step, the share that ran",
        lambda lane: round(lane.cost, 1),
        "{:g}",
    ),
    Column("cached", "Reused steps of all steps", lambda lane: lane.cache_ratio, "{:.0%}"),
    Column("denoising", "Seconds", lambda lane: lane.denoise_seconds, "{:.2f} s", "low"),
    Column("whole call", "Seconds, with decoding", lambda lane: lane.seconds, "{:.2f} s", "low"),
    Column("speed-up", "Of denoising, against the full run", lambda lane: lane.speedup, "{:.2f}×", "high"),
    Column("LPIPS", "Perceptual distance from the full run", _metric(lambda m: m.lpips), "{:.4f}", "low"),
    Column("PSNR dB", "Against the full run", psnr, "{:.2f}", "high"),
    Column("SSIM", "Structural similarity to the full run", _metric(lambda m: m.ssim), "{:.4f}", "high"),
    Column("memory", "Kept for reuse", lambda lane: lane.cache_bytes / 1024, "{:,.0f} KiB"),
)
COLUMNS = {column.name: column for column in _COLUMNS}


class Cell(NamedTuple):
    """A lane's value in a column; `best` of all that were measured against the full run."""

    text: str
    value: float | None
    best: bool


def cells(report: Report, columns: Iterable[Column]) -> list[tuple[Cell, ...]]:
    """A row for each lane."""
    return list(zip(*(_column_cells(report.lanes, column) for column in columns), strict=True))


def _column_cells(lanes: Sequence[Lane], column: Column) -> Iterator[Cell]:
    rated = [value for lane in lanes if lane.metrics and (value := column.value(lane)) is not None]
    contest = column.better is not None and len(rated) > 1
    best = (max if column.better == "high" else min)(rated) if contest else None
    for lane in lanes:
        value = column.value(lane)
        if value is None:
            yield Cell("–", None, False)
        else:
            text = "identical" if math.isinf(value) else column.written.format(value)
            yield Cell(text, value, lane.metrics is not None and value == best)


def quality(lane: Lane) -> str:
    """How close it came to the full run, in a word or two."""
    value = psnr(lane)
    return "identical" if value is None or math.isinf(value) else f"{value:.1f} dB"


def closest(lanes: Iterable[Lane]) -> Lane | None:
    """The one that came closest to the full run; None where none was measured."""
    return max((lane for lane in lanes if lane.metrics), key=lambda lane: psnr(lane) or 0.0, default=None)


def key_lanes(report: Report) -> list[Lane]:
    """The lanes a card speaks of: SenCache, fewer steps, and the one that came closest to the full run."""
    named = [lane for lane in report.lanes if lane.metrics and lane.name in ("sencache", "fewer-steps")]
    best = closest(report.lanes)
    return named if best is None or best in named else [*named, best]


def verdict(report: Report, label: Label = str) -> str:
    """What the numbers come to, in two sentences, with what the lanes noted and what is missing."""
    best, cache = closest(report.lanes), closest(lane for lane in report.lanes if lane.target is not None)
    if best is None:
        return " ".join(missing(report, label))

    def result(lane: Lane) -> str:
        close = quality(lane).replace("identical", "identical to it")
        return f"{label(lane.name)} ({close} with {lane.nfe} evaluations)"

    sentences = [f"On this one video, {result(best)} is closest to the full run."]
    if cache is not None and cache is not best:
        sentences.append(f"Of the caches it is {result(cache)}.")
    return " ".join([*sentences, *notes(report, label), *missing(report, label)])


def notes(report: Report, label: Label = str) -> list[str]:
    """What the lanes noted of their runs, each once, with those that noted it."""
    pairs = ((note, label(lane.name)) for lane in report.lanes for note in lane.notes)
    return [f"{who}: {note}." for note, who in _join_names(pairs)]


def missing(report: Report, label: Label = str) -> list[str]:
    """Which lanes did not end, each reason once."""
    pairs = ((one.why, label(one.name)) for one in report.unfinished)
    return [f"Missing: {who}; {why}." for why, who in _join_names(pairs)]


def _join_names(pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """(text, names of all that have it), each text once."""
    found: dict[str, list[str]] = {}
    for text, who in pairs:
        found.setdefault(text, []).append(who)
    return ((text, ", ".join(names)) for text, names in found.items())
