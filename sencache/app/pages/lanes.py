"""The live lanes: one row per method, one cell per step, patched from small JSON while a run goes on.

The template is fixed and `static/lanes.js` owns the DOM, so an update costs a few class changes; all texts
are set as text, never as HTML. A lane's cells are one growing text, a JSON array per line: gradio then sends
only what was appended, and the browser keeps no deep structure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gradio as gr

from sencache.app.events import Event
from sencache.app.pages.theme import script, template
from sencache.app.palette import lane_label
from sencache.app.wording import REASONS, signals, terms
from sencache.comparison.events import LaneDone, LaneStarted, LaneStopped, Started, StepDone
from sencache.comparison.report import Report
from sencache.schema import Request
from sencache.trace import StepRecord

DIGITS = 4


def live_lanes(value: dict[str, Any] | None = None) -> gr.HTML:
    """The component; `value` is what a `LaneBoard` gives."""
    return gr.HTML(
        value or LaneBoard().value(),
        html_template=template("lanes"),
        js_on_load=script("lanes"),
        elem_id="lanes",
        padding=False,
    )


class LaneBoard:
    """What the lanes show, built up event by event."""

    def __init__(self, title: str = "", about: str = "") -> None:
        self.title, self.about = title, about
        self._lanes: dict[str, dict[str, Any]] = {}

    def take(self, event: Event) -> None:
        """Follow one event; those that the lanes do not show change nothing."""
        match event:
            case Started():
                self._lanes = {name: _waiting(name) for name in event.lanes}
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


def _waiting(name: str) -> dict[str, Any]:
    figures = {"steps": 0, "taken": 0, "nfe": 0, "seconds": 0.0, "speedup": None}
    said = {"state": "waiting", "settings": "", "cells": ""}
    return {"name": name, "method": name.split(":")[0], "label": lane_label(name), **figures, **said}


def _settings(config: dict[str, Any]) -> str:
    """The setting that decides most, which is each method's first; all are in the report."""
    said = {k: v for k, v in config.items() if k not in ("target", "forecast") and v is not None}
    if said.get("steps"):
        return f"{len(said['steps'])} steps listed"
    return next((f"{key.replace('_', ' ')} {value}" for key, value in said.items()), "")


def _cell(record: StepRecord) -> list[Any]:
    """[computed, reason, timestep, score, tolerance, drift, milliseconds, terms, signals]."""
    milliseconds = None if record.seconds is None else round(record.seconds * 1000, 2)
    return [
        int(record.decision == "compute"),
        record.reason,
        round(record.timestep, 1),
        *(_rounded(value) for value in (record.score, record.tolerance, record.drift)),
        milliseconds,
        [[name, _rounded(value)] for name, value in terms(record)],
        [[name, _rounded(value)] for name, value in signals(record)],
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")


def about(model: str, request: Request) -> str:
    """One line under the prompt: what was run."""
    own = f"preset {request.preset}" if request.preset else "own settings"
    budget = f"about {request.nfe} of {request.steps} evaluations each" if request.nfe else own
    size = f"{request.width}×{request.height}, {request.frames} frames"
    return f"{model} · {size} · {request.steps} steps · {budget} · seed {request.seed}"


def board_of(report: Report) -> LaneBoard:
    """The lanes of a finished comparison."""
    board = LaneBoard(report.request.prompt, about(report.model.key, report.request))
    for event in _replayed(report):
        board.take(event)
    return board


def _replayed(report: Report) -> Iterator[Event]:
    """The events of a comparison that ran before, lane after lane."""
    yield Started(report)
    for lane in report.lanes:
        yield LaneStarted(lane.name, lane.method, lane.config, lane.steps)
        yield from (StepDone(lane.name, record) for record in lane.trace)
        yield LaneDone(lane)
    yield from (LaneStopped(one.name, one.why) for one in report.unfinished)
