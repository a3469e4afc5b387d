"""Everything that a finished comparison is shown with, and handed over as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import update

from sencache.app.deliver import CSV_NAME, ZIP_NAME
from sencache.app.pages.lanes import board_of, live_lanes
from sencache.app.pages.note import note, said
from sencache.app.pages.numbers import numbers_table, table_of
from sencache.app.pages.player import SyncPlayer, clips_of
from sencache.app.pages.theme import script, template
from sencache.app.palette import lane_label
from sencache.app.plots import drift_figure, timeline_figure, walked_figure
from sencache.comparison.report import REPORT_NAME, Report
from sencache.comparison.summary import verdict
from sencache.profiles.profile import Profile


@dataclass(frozen=True)
class Results:
    """The components, in the order in which they are read."""

    lanes: gr.HTML
    player: SyncPlayer
    verdict: gr.HTML
    numbers: gr.HTML
    timeline: gr.Plot
    drift: gr.Plot
    profile: gr.Plot
    downloads: list[gr.DownloadButton]
    link: gr.HTML
    lane: gr.Dropdown
    code: gr.Code
    snippets: gr.State

    @property
    def outputs(self) -> list[Any]:
        """What `shown` fills, in its order."""
        plots = [self.timeline, self.drift, self.profile]
        taken = [*self.downloads, self.link, self.lane, self.code, self.snippets]
        return [self.lanes, self.player, self.verdict, self.numbers, *plots, *taken]


def build_results() -> Results:
    """Headings, components and their places; all empty."""
    lanes = live_lanes()
    _heading("Videos", "In sync, frame by frame; hold any two against each other.")
    player = SyncPlayer(elem_id="player")
    _heading("Numbers", "Cost of every lane, and its distance from the full run on decoded frames.")
    told = note("verdict")
    numbers = numbers_table()
    _heading("Why and when", "Every decision over the steps, and what it did to the latent.")
    timeline = gr.Plot(show_label=False, elem_id="timeline", container=False)
    with gr.Row():
        with gr.Column(min_width=320):
            gr.HTML("<h3>Drift from the full run</h3>", padding=False)
            drift = gr.Plot(show_label=False, elem_id="drift", container=False)
        with gr.Column(min_width=320):
            gr.HTML("<h3>The profile, with the steps SenCache computed</h3>", padding=False)
            profile = gr.Plot(show_label=False, elem_id="walked", container=False)
    _heading("Take it away", "The report holds every decision; the code makes one lane again in diffusers.")
    with gr.Row(elem_id="downloads"):
        names = ("Report, JSON", "All steps, CSV", "Everything, ZIP")
        downloads = [gr.DownloadButton(name, min_width=150, interactive=False) for name in names]
    link = gr.HTML(
        {"query": ""},
        html_template=template("link"),
        js_on_load=script("link"),
        elem_id="settings-link",
        padding=False,
    )
    lane = gr.Dropdown([], label="Code for", elem_id="code-lane", interactive=True)
    code = gr.Code(language="python", label="Code", elem_id="code", interactive=False)
    snippets = gr.State({})
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    lane.change(_snippet, [lane, snippets], code, **quiet)
    return Results(
        lanes, player, told, numbers, timeline, drift, profile, downloads, link, lane, code, snippets
    )


def _heading(title: str, about: str) -> None:
    gr.HTML(f"<h2>{title}</h2><p>{about}</p>", padding=False, elem_classes="heading")


def _snippet(lane: str | None, snippets: Mapping[str, str]) -> str:
    return snippets.get(lane or "", "")


@dataclass(frozen=True)
class Finished:
    """A finished comparison: its report, where the videos and the other files are, the profile it used, code
    by lane, the query that restores its settings, and what the status says of it.
    """

    report: Report
    videos: Path
    files: Path
    profile: Profile | None
    snippets: dict[str, str]
    query: str
    told: str


def shown(finished: Finished) -> list[Any]:
    """Values for `Results.outputs`."""
    report, snippets = finished.report, finished.snippets
    first = "sencache" if "sencache" in snippets else next(iter(snippets))
    paths = (finished.videos / REPORT_NAME, finished.files / CSV_NAME, finished.files / ZIP_NAME)
    profile = finished.profile
    return [
        board_of(report).value(),
        clips_of(report, finished.videos),
        said(verdict(report, lane_label)),
        table_of(report),
        timeline_figure(report),
        drift_figure(report),
        walked_figure(profile, report) if profile else None,
        *(update(value=str(path), interactive=True) for path in paths),
        {"query": finished.query},
        update(choices=[(lane_label(name), name) for name in snippets], value=first),
        snippets[first],
        snippets,
    ]
