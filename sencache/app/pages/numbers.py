"""The numbers of a comparison as a table that can be sorted; the best of each column is marked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from sencache.app.pages.theme import script, template
from sencache.app.palette import lane_label
from sencache.comparison.report import Lane, Report

KIB = 1024


@dataclass(frozen=True)
class Column:
    """One column: its value, how that is written, and which end is better; None values belong to no one."""

    name: str
    explained: str
    value: Callable[[Lane], float | None]
    written: Callable[[float], str]
    better: str | None = None


def _psnr(lane: Lane) -> float | None:
    if lane.metrics is None:
        return None
    return math.inf if lane.metrics.psnr is None else lane.metrics.psnr


COLUMNS = (
    Column(
        "NFE",
        "Steps whose network ran; of a reused step, the share that ran",
        lambda lane: round(lane.cost, 1),
        "{:g}".format,
    ),
    Column("Cached", "Reused steps of all steps", lambda lane: lane.cache_ratio, "{:.0%}".format),
    Column("Denoising", "Seconds", lambda lane: lane.denoise_seconds, "{:.2f} s".format, "low"),
    Column("Whole call", "Seconds, with decoding", lambda lane: lane.seconds, "{:.2f} s".format, "low"),
    Column(
        "Speed-up", "Of denoising, against the full run", lambda lane: lane.speedup, "{:.2f}×".format, "high"
    ),
    Column(
        "LPIPS",
        "Perceptual distance from the full run",
        lambda lane: lane.metrics.lpips if lane.metrics else None,
        "{:.4f}".format,
        "low",
    ),
    Column(
        "PSNR",
        "Decibel, against the full run",
        _psnr,
        lambda v: "identical" if math.isinf(v) else f"{v:.1f} dB",
        "high",
    ),
    Column(
        "SSIM",
        "Structural similarity to the full run",
        lambda lane: lane.metrics.ssim if lane.metrics else None,
        "{:.4f}".format,
        "high",
    ),
    Column("Memory", "Kept for reuse", lambda lane: lane.cache_bytes, lambda v: f"{v / KIB:,.0f} KiB"),
)


def numbers_table(value: dict[str, Any] | None = None) -> gr.HTML:
    """The component; `value` is what `table_of` gives."""
    return gr.HTML(
        value or {"columns": [], "rows": []},
        html_template=template("numbers"),
        js_on_load=script("numbers"),
        elem_id="numbers",
        padding=False,
    )


def table_of(report: Report) -> dict[str, Any]:
    """Rows in the order of the lanes; a cell is [text, value to sort by or None, whether it is the best]."""
    best = [_best(report, column) for column in COLUMNS]
    return {
        "columns": [{"name": c.name, "explained": c.explained, "better": c.better} for c in COLUMNS],
        "rows": [
            {
                "label": lane_label(lane.name),
                "method": lane.method,
                "cells": [_cell(lane, column, top) for column, top in zip(COLUMNS, best, strict=True)],
            }
            for lane in report.lanes
        ],
    }


def verdict(report: Report) -> str:
    """What the numbers come to, in two sentences, with what a profile could not quite serve."""
    measured = [lane for lane in report.lanes if lane.metrics is not None]
    closest, cache = (max(some, key=_closeness, default=None) for some in (measured, _caches(measured)))
    if closest is None:
        return " ".join(missing(report))
    told = f"On this one video, {_told(closest)} is closest to the full run."
    if cache is not None and cache is not closest:
        told += f" Of the caches it is {_told(cache)}."
    return " ".join([told, *_notes(report), *missing(report)])


def _caches(lanes: list[Lane]) -> list[Lane]:
    return [lane for lane in lanes if lane.target is not None]


def _closeness(lane: Lane) -> float:
    value = _psnr(lane)
    return -math.inf if value is None else value


def _told(lane: Lane) -> str:
    value = _psnr(lane)
    quality = "identical to it" if value is None or math.isinf(value) else f"{value:.1f} dB"
    return f"{lane_label(lane.name)} ({quality} with {lane.nfe} evaluations)"


def _notes(report: Report) -> list[str]:
    """What the lanes noted, each once, with those that noted it."""
    return [
        f"{who}: {text}."
        for text, who in _grouped((n, lane.name) for lane in report.lanes for n in lane.notes)
    ]


def missing(report: Report) -> list[str]:
    """Which lanes did not end, each reason once."""
    grouped = _grouped((one.why, one.name) for one in report.unfinished)
    return [f"Missing: {who}; {why}." for why, who in grouped]


def _grouped(pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """(text, labels of the lanes that have it), each text once."""
    found: dict[str, list[str]] = {}
    for text, lane in pairs:
        found.setdefault(text, []).append(lane_label(lane))
    return ((text, ", ".join(labels)) for text, labels in found.items())


def _best(report: Report, column: Column) -> float | None:
    """Among the lanes that are measured against the full run."""
    values = [v for lane in report.lanes if lane.metrics and (v := column.value(lane)) is not None]
    if column.better is None or len(values) < 2:
        return None
    return (max if column.better == "high" else min)(values)


def _cell(lane: Lane, column: Column, best: float | None) -> list[Any]:
    value = column.value(lane)
    if value is None:
        return ["–", None, False]
    sortable = 1e9 if math.isinf(value) else value
    return [column.written(value), sortable, bool(lane.metrics) and value == best]
