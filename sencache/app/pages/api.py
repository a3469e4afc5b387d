"""The named endpoints for programs: `/compare` streams, `/profiles` and `/profile` answer at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gradio as gr

from sencache.app.events import Done, Event, Waiting
from sencache.app.request import make_request
from sencache.app.service import ComparisonService
from sencache.comparison.events import LaneDone, LaneStarted, LaneStopped, Started, StepDone
from sencache.errors import SencacheError
from sencache.policies.loading import load_bundled


def build_api(service: ComparisonService, offer: dict[str, Any]) -> None:
    endpoints = _Endpoints(service, offer)
    gr.api(endpoints.compare, api_name="compare", concurrency_id="gpu", concurrency_limit=1)
    gr.api(endpoints.profiles, api_name="profiles", queue=False)
    gr.api(endpoints.profile, api_name="profile", queue=False)


class _Endpoints:
    """Functions whose signatures and docstrings are what clients see."""

    def __init__(self, service: ComparisonService, offer: dict[str, Any]) -> None:
        self._service, self._offer = service, offer

    def compare(
        self,
        prompt: str,
        methods: list[str] | None = None,
        nfe: int | None = None,
        preset: str | None = None,
        steps: int | None = None,
        seed: int = 0,
        settings: dict[str, dict[str, Any]] | None = None,
        model: str | None = None,
        negative_prompt: str = "",
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        frames: int | None = None,
        profile: str | None = None,
        profile_json: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Make one video under several step caches from the same noise, measured against the full run.

        Streams events: {"kind": "started", "lanes": [...]}, then "lane", "step" and "lane_done" per lane, and
        last {"kind": "done", "report": report.json as text, "snippets": {...}, "missing": [...]}; "wait" when
        nothing happened. A lane that the time does not suffice for ends in "lane_stopped"; what did not end,
        and why, is said in "missing".

        Parameters:
            prompt: What the video shows.
            methods: Lanes such as "sencache" or "sencache:repair=replay"; the full run and fewer-steps are
                always added.
            nfe: Network evaluations that every method's knob is set for.
            preset: A preset of the profile, "slow" or "fast", where no nfe is given.
            steps: Sampler steps of the full run; the model's own if not given.
            seed: Seed of the noise, the same in every lane.
            settings: A method's knobs in all its lanes, as {"sencache": {"tolerance": 0.1}}.
            model: A model key; the first that this app offers if not given.
            negative_prompt: What the video must not show.
            guidance_scale: 1 turns guidance off; the model's own if not given.
            height: Pixels; the model's own if not given.
            width: Pixels; the model's own if not given.
            frames: Frames; the model's own if not given.
            profile: Name of a bundled profile; the model's own if not given.
            profile_json: Content of a profile instead.
        """
        given = {k: v for k, v in locals().items() if k != "self" and v is not None}
        try:
            for event in self._service.run(self._service.job(make_request(**given))):
                yield as_dict(event)
        except SencacheError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def profiles(self) -> list[dict[str, Any]]:
        """List the bundled profiles: name, model, architecture, presets."""
        return list(self._offer["profiles"])

    def profile(self, name: str) -> dict[str, Any]:
        """Give one bundled profile as JSON.

        Parameters:
            name: A name that /profiles lists.
        """
        try:
            return dict(json.loads(load_bundled(name).to_json()))
        except SencacheError as error:
            raise gr.Error(str(error), print_exception=False) from None


def as_dict(event: Event) -> dict[str, Any]:
    """`event` as clients get it.

    A report is text, and no event names a lane's profile: gradio's client takes every object that has a
    "path" for a file, and asks for it. No one outside can read the folder of `Done`.
    """
    found: dict[str, Any]
    match event:
        case Waiting():
            return {"kind": "wait"}
        case Done(report=report, snippets=snippets):
            missing = [str(one) for one in report.unfinished]
            return {"kind": "done", "report": report.to_json(), "snippets": snippets, "missing": missing}
        case Started(lanes=lanes, report=report):
            found = {"kind": "started", "lanes": list(lanes), "device": report.model.gpu or "cpu"}
        case LaneStarted(lane=lane, method=method, config=config, steps=steps):
            found = {"kind": "lane", "lane": lane, "method": method, "config": config, "steps": steps}
        case StepDone(lane=lane, record=record):
            found = {"kind": "step", "lane": lane, "record": record.model_dump(mode="json")}
        case LaneStopped(lane=lane, why=why):
            found = {"kind": "lane_stopped", "lane": lane, "why": why}
        case LaneDone(lane=done):
            # Without its steps and per-frame values.
            left_out: Any = {"trace": True, "profile": True, "metrics": {"per_frame"}}
            result = done.model_dump(mode="json", exclude=left_out)
            found = {"kind": "lane_done", "lane": done.name, "result": result}
    return {**found, "seconds": event.seconds}
