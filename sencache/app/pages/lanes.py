"""The live lanes: one row per method, one cell per step, patched from small JSON while a run goes on.

The template is fixed and `static/lanes.js` owns the DOM, so an update costs a few class changes; all texts
are set as text, never as HTML. A lane's cells are one growing text, a JSON array per line: gradio then sends
only what was appended, and the browser keeps no deep structure.
"""

from __future__ import annotations

import json
from typing import Any

from sencache.app.events import Event
from sencache.app.palette import lane_label, signal_label
from sencache.comparison.events import LaneDone, LaneStarted, LaneStopped, Started, StepDone
from sencache.comparison.report import Report
from sencache.schema import Request
from sencache.trace import StepRecord

DIGITS = 4
REASONS = {
    "first_step": "the first step is always computed",
    "warmup": "computed: the method has not seen enough steps yet",
    "last_step": "computed: the method computes the last steps",
    "forced": "computed: no cache in this lane",
    "above_tolerance": "computed: the score is above the tolerance",
    "max_reuses": "computed: enough reuses in a row",
    "no_cache": "computed: nothing to reuse",
    "within_tolerance": "reused: the score is within the tolerance",
    "scheduled": "as scheduled in advance",
}


class LaneBoard:
    def __init__(self, title: str = "", about: str = "") -> None:
        self.title, self.about = title, about
        self._lanes: dict[str, dict[str, Any]] = {}

    def take(self, event: Event) -> None:
        """Follow one event; those that the lanes do not show change nothing."""
        match event:
            case Started():
                self._lanes = {name: _waiting_lane(name) for name in event.lanes}
            case LaneStarted(lane=name, config=config, steps=steps):
                self._lanes[name].update(steps=steps, state="running", settings=_settings(config))
            case StepDone(lane=name, record=record):
                self._step(self._lanes[name], record)
            case LaneDone(lane=lane):
                ended = {"state": "done", "seconds": lane.denoise_seconds, "speedup": lane.speedup}
                self._lanes[lane.name].update(ended)
            case LaneStopped(lane=name):
                self._lanes[name].update(state="stopped", settings="not finished")

    def _step(self, lane: dict[str, Any], record: StepRecord) -> None:
        lane["cells"] += json.dumps(_cell(record), separators=(",", ":")) + "\n"
        lane["taken"] += 1
        lane["nfe"] += record.decision == "compute"
        lane["seconds"] = round(lane["seconds"] + (record.seconds or 0.0), 3)
        reference = self._lanes["none"]
        if reference["taken"] and lane["seconds"]:
            done = lane["taken"] / lane["steps"]
            full = reference["seconds"] / reference["taken"] * reference["steps"]
            lane["speedup"] = round(done * full / lane["seconds"], 2)

    def value(self) -> dict[str, Any]:
        """A new value every time: what was sent before must not change under gradio's feet."""
        lanes = [dict(lane) for lane in self._lanes.values()]
        return {"title": self.title, "about": self.about, "reasons": REASONS, "lanes": lanes}


def _waiting_lane(name: str) -> dict[str, Any]:
    named = {"name": name, "method": name.split(":")[0], "label": lane_label(name)}
    figures = {"steps": 0, "taken": 0, "nfe": 0, "seconds": 0.0, "speedup": None}
    return {**named, **figures, "state": "waiting", "settings": "", "cells": ""}


def _settings(config: dict[str, Any]) -> str:
    """The setting that decides most, which is each method's first; all are in the report."""
    found = {k: v for k, v in config.items() if k not in ("target", "forecast", "repair") and v is not None}
    if found.get("steps"):
        return f"{len(found['steps'])} steps listed"
    return next((f"{key.replace('_', ' ')} {value}" for key, value in found.items()), "")


def _cell(record: StepRecord) -> list[Any]:
    """[computed, reason, timestep, score, tolerance, drift, milliseconds, terms, signals]: the terms are the
    parts that add up to the score, where it is a sum; the signals all that was looked at, where it is not.
    """
    seen, terms = record.signals, {}
    if {"alpha_x", "dx_rms", "alpha_t", "dt"} <= seen.keys():
        terms = {
            "latent moved": seen["alpha_x"] * seen["dx_rms"],
            "time moved": seen["alpha_t"] * seen["dt"],
        }
    signals = {} if terms else {signal_label(name): value for name, value in seen.items()}
    if record.correction is not None:
        signals["latent moved by replay"] = record.correction
    return [
        int(record.decision == "compute"),
        record.reason,
        round(record.timestep, 1),
        *(_round(value) for value in (record.score, record.tolerance, record.drift)),
        None if record.seconds is None else round(record.seconds * 1000, 2),
        *([[name, _round(value)] for name, value in named.items()] for named in (terms, signals)),
    ]


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")


def about(model: str, request: Request) -> str:
    own = f"preset {request.preset}" if request.preset else "own settings"
    budget = f"about {request.nfe} of {request.steps} evaluations each" if request.nfe else own
    size = f"{request.width}×{request.height}, {request.frames} frames"
    return f"{model} · {size} · {request.steps} steps · {budget} · seed {request.seed}"


def board_of(report: Report) -> LaneBoard:
    """The lanes of a finished comparison, as its events would have left them."""
    board = LaneBoard(report.request.prompt, about(report.model.key, report.request))
    board.take(Started(report))
    for lane in report.lanes:
        board.take(LaneStarted(lane.name, lane.method, lane.config, lane.steps))
        for record in lane.trace:
            board.take(StepDone(lane.name, record))
        board.take(LaneDone(lane))
    for one in report.unfinished:
        board.take(LaneStopped(one.name, one.why))
    return board
