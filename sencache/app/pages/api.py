"""The named endpoints for programs: `/compare` streams, `/profiles` and `/profile` answer at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from sencache.app.ask import make_ask
from sencache.app.studio import Studio
from sencache.comparison.report import REPORT_NAME
from sencache.errors import SencacheError
from sencache.policies.loading import load_bundled

GPU = "gpu"


def build_api(studio: Studio, offer: dict[str, Any]) -> None:
    """Define the endpoints within the open `gr.Blocks`."""
    endpoints = _Endpoints(studio, offer)
    gr.api(endpoints.compare, api_name="compare", concurrency_id=GPU, concurrency_limit=1)
    gr.api(endpoints.profiles, api_name="profiles", queue=False)
    gr.api(endpoints.profile, api_name="profile", queue=False)


class _Endpoints:
    """Functions whose signatures and docstrings are what clients see."""

    def __init__(self, studio: Studio, offer: dict[str, Any]) -> None:
        self._studio, self._offer = studio, offer

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
            methods: Lanes such as "sencache" or "sencache:forecast=linear"; the full run and fewer-steps are
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
        yield from _told(self._studio, given)

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


def _told(studio: Studio, given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The service's events; `done` with the report itself, as no one outside can read the folder.

    The report is text, and no event names a lane's profile: gradio's client takes every object that has a
    "path" for a file, and asks for it.
    """
    try:
        for event in studio.run(make_ask(**given)):
            if event["kind"] == "done":
                report = (Path(event["folder"]) / REPORT_NAME).read_text(encoding="utf-8")
                yield {
                    "kind": "done",
                    "report": report,
                    "snippets": event["snippets"],
                    "missing": event["missing"],
                }
            elif event["kind"] == "lane_done":
                yield {**event, "result": {k: v for k, v in event["result"].items() if k != "profile"}}
            else:
                yield event
    except SencacheError as error:
        raise gr.Error(str(error), print_exception=False) from None
