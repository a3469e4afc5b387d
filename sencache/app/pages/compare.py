"""The Compare page: settings on one side, the comparison on the other, alive before anything is run; and one
visitor's run, from the page's values to updates of its components, ten times a second at most.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import update

from sencache.app.deliver import pack, profile_files, profiles_of, sencache_profile, snippets
from sencache.app.events import Done
from sencache.app.pages import gallery
from sencache.app.pages.controls import (
    MATCHED,
    Controls,
    build_controls,
    profile_choices,
    query_of,
    query_of_report,
    read_query,
    restore,
    speed_label,
)
from sencache.app.pages.lanes import LaneBoard, about
from sencache.app.pages.own_profiles import Own, pull
from sencache.app.pages.parts import QUIET, message, note
from sencache.app.pages.results import Finished, build_results, result_values
from sencache.app.palette import lane_label
from sencache.app.recorded import Recorded
from sencache.app.service import ComparisonService
from sencache.comparison.events import LaneDone, LaneStopped, Started, StepDone
from sencache.comparison.job import Job
from sencache.comparison.report import Report
from sencache.comparison.summary import missing
from sencache.errors import SencacheError
from sencache.gallery.card import Entry
from sencache.models import words
from sencache.models.zerogpu import on_zerogpu

log = logging.getLogger(__name__)

UPDATE_SECONDS = 0.1
WAITING = "Waiting for a free device…"
FULL = "Too many comparisons are waiting already; try again in a minute."
STATUS: dict[type, str] = {
    Started: "Encoding the prompt…",
    StepDone: "Running; every lane starts from the same noise.",
    LaneDone: "Measuring the videos against the full run…",
    LaneStopped: "The time is running out: a lane was stopped, so that the others can end.",
}

# On a narrow screen the lanes are below the settings.
SHOW_RESULTS = """() => {
  delete document.body.dataset.stopped;
  const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
  if (innerWidth < 1080)
    document.querySelector('#results').scrollIntoView({ behavior: calm ? 'auto' : 'smooth' });
}"""

STOP_LANES = "() => { document.body.dataset.stopped = '' }"

INTRO = """
<div class="intro">
  <h1>The same video, with fewer network evaluations</h1>
  <p>A video diffusion model evaluates its network at every step. A step cache reuses an earlier result
  instead, and each method decides by a different signal. Here they make one video side by side, from the same
  noise, and every decision can be looked at.</p>
</div>
"""


class ComparePage:
    """The page, built within a `gr.Blocks`; `wire` and `load` make it act."""

    def __init__(
        self,
        service: ComparisonService,
        offer: dict[str, Any],
        recorded: Recorded,
        own: gr.State | None = None,
    ) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="sencache-gallery-")
        self._offered = [model["key"] for model in offer["models"]]
        bundled = gallery.load_gallery()
        # Kept with their folder of copies, which goes with `recorded`.
        self._recorded = recorded
        self.entries = [*bundled, *recorded.entries]
        self.finished = [self._finish(entry) for entry in self.entries]
        # The page's main knob is a budget: open a comparison that has one, and that could be run here.
        self.first = next((n for n, entry in enumerate(bundled) if entry.report.request.nfe), 0)
        gr.HTML(INTRO, padding=False)
        cards = gallery.cards_of(self.entries, self.entries[self.first].name)
        self.cards = gallery.GalleryCards(cards, elem_id="gallery")
        if recorded.problems:
            note("left-out", gallery.omission_note([problem.what for problem in recorded.problems]))
        with gr.Row(elem_id="workbench"):
            with gr.Column(scale=0, min_width=340, elem_id="controls"):
                self.controls = build_controls(offer, own)
            with gr.Column(scale=1, min_width=320, elem_id="results"):
                self.status = note("status", self.finished[self.first].status)
                self.results = build_results()
        self.runner = Runner(service, self.controls, len(self.results))

    def _finish(self, entry: Entry) -> Finished:
        folder = Path(self._scratch.name) / entry.name
        folder.mkdir()
        pack(entry.report, entry.folder, folder)
        profiles = profiles_of(entry.report, entry.folder)
        return Finished(
            entry.report,
            videos=entry.folder,
            files=folder,
            profile=sencache_profile(entry.report, profiles),
            snippets=snippets(entry.report, profile_files(entry.report, profiles)),
            query=query_of_report(entry.report),
            status=gallery.entry_status(entry, self._offered),
        )

    def wire(self) -> None:
        controls, results = self.controls, self.results
        state = [self.status, controls.run, controls.cancel]
        # Listeners of one button run one after another: these two answer at once, the third one queues.
        controls.run.click(None, None, None, js=SHOW_RESULTS)
        controls.run.click(self.runner.announce, controls.asked, self.status, **QUIET)
        running = controls.run.click(
            self.runner.run,
            controls.asked,
            [*state, *results],
            validator=self.runner.validate,
            concurrency_id="gpu",
            concurrency_limit=1,
            show_progress="hidden",
            # Else the browser copies every output, videos and plots too, at each update.
            show_progress_on=self.status,
            api_visibility="private",
        )
        running.failure(self.runner.explain_failure, self.status, state, **QUIET)
        controls.cancel.click(None, None, None, js=STOP_LANES)
        controls.cancel.click(self.runner.cancel, None, state, cancels=[running], **QUIET)
        self.cards.pick(self.open_card, None, [self.cards, self.status, *controls.inputs, *results], **QUIET)
        gr.on(
            [component.change for component in controls.inputs],  # type: ignore[attr-defined]
            self.relabel,
            controls.asked,
            [controls.fields["speed"], controls.estimate],
            trigger_mode="always_last",
            **QUIET,
        )
        # What a visitor pulls here or checks on another page can be chosen here.
        profile = controls.fields["profile"]
        source, button, told = controls.pull
        button.click(
            self.pull_profile,
            [source, controls.fields["model"], controls.own],
            [controls.own, profile, told],
            show_progress="hidden",
            api_visibility="private",
        )
        controls.own.change(self.list_profiles, controls.own, profile, **QUIET)

    def list_profiles(self, own: Own) -> Any:
        return update(choices=profile_choices(self.controls.offer, own))

    def pull_profile(self, text: str, model: str, own: Own) -> Iterator[tuple[Any, Any, Any]]:
        offer = self.controls.offer
        architecture = next(m["architecture"] for m in offer["models"] if m["key"] == model)
        for held, name, told in pull(text, architecture, own):
            yield held, update(choices=profile_choices(offer, held), value=name) if name else gr.skip(), told

    def load(self, request: gr.Request) -> list[Any]:
        """First paint: the first finished comparison, and its settings or those of the link."""
        asked, first = dict(request.query_params), self.finished[self.first]
        query = asked if "prompt" in asked else read_query(first.query)
        return [*restore(self.controls, query), *result_values(first)]

    def open_card(self, event: gr.EventData) -> list[Any]:
        """Show the finished comparison whose card was pressed, and take over its settings."""
        try:
            entry = gallery.pick_entry(self.entries, event)
        except SencacheError as error:
            raise gr.Error(str(error), print_exception=False) from None
        finished = self.finished[self.entries.index(entry)]
        fields = restore(self.controls, read_query(finished.query))
        cards = gallery.cards_of(self.entries, entry.name)
        return [cards, message(finished.status), *fields, *result_values(finished)]

    def relabel(self, *values: Any) -> list[Any]:
        given = self.controls.by_name(values)
        label = speed_label(given["speed"], self.controls.steps(values), given["budget"])
        matched = given["budget"] == MATCHED
        return [update(label=label, interactive=matched), self.runner.estimate(*values)]


class Runner:
    """What the Run button does; it fills three components of state and `width` of results."""

    def __init__(self, service: ComparisonService, controls: Controls, width: int) -> None:
        self.service, self.controls, self.width = service, controls, width

    def _job(self, values: tuple[Any, ...]) -> Job:
        return self.service.job(self.controls.request(*values))

    def estimate(self, *values: Any) -> dict[str, str | bool]:
        try:
            job = self._job(values)
            estimate = self.service.estimate(job)
        except SencacheError as error:
            return message(str(error), bad=True)
        basis = "by steps timed on this machine" if estimate.measured else "computed, a rough figure"
        booked = f", {estimate.booked} s of your GPU quota" if on_zerogpu() else ""
        # Words of the prompt that a bundled model has never seen; it runs all the same.
        hint = (words.hint(job.request.prompt) if job.spec.bundled else None) or ""
        return message(f"About {max(1, round(estimate.seconds))} s{booked} ({basis}). {hint}".rstrip())

    def validate(self, *values: Any) -> list[dict[str, Any]]:
        """Refuse before queueing, at the field that the message names first, else at the prompt."""
        try:
            self.service.estimate(self._job(values))
        except SencacheError as error:
            problem = str(error)
            named = [
                (problem.find(name), index)
                for index, name in enumerate(self.controls.names)
                if name in problem
            ]
            _, at = min(named, default=(0, 0))
            return [gr.validate(index != at, problem) for index in range(len(values))]
        return [gr.validate(True, "")] * len(values)

    def announce(self, *values: Any) -> dict[str, str | bool]:
        told = self.estimate(*values)
        return told if told["bad"] else message(WAITING)

    def explain_failure(self, status: dict[str, Any]) -> list[Any]:
        """Status, Run and Cancel when the run failed: before it began, only a full queue is to blame."""
        waited = isinstance(status, dict) and status.get("text") == WAITING
        told = message(FULL, bad=True) if waited else gr.skip()
        return [told, update(interactive=True), update(interactive=False)]

    def cancel(self) -> list[Any]:
        return _state("Cancelled; the lanes show how far it came.", running=False)

    def run(self, *values: Any) -> Iterator[list[Any]]:
        rest = [gr.skip()] * self.width
        try:
            yield [*_state("Starting…", running=True), *rest]
            job, query = self._job(values), query_of(self.controls, *values[: len(self.controls.names)])
            board, text, sent = LaneBoard(job.request.prompt, about(job.spec.key, job.request)), WAITING, 0.0
            for event in self.service.run(job):
                if isinstance(event, Done):
                    status = ending(event.report, event.seconds)
                    folder = event.folder
                    finished = Finished(
                        event.report, folder, folder, event.profile, event.snippets, query, status
                    )
                    yield [*_state(status, running=False), *result_values(finished)]
                    continue
                board.take(event)
                text = STATUS.get(type(event), text)
                if time.monotonic() - sent >= UPDATE_SECONDS:
                    sent = time.monotonic()
                    yield [message(text), gr.skip(), gr.skip(), board.value(), *rest[1:]]
        except Exception as error:
            sentence = _sentence(error)
            yield [*_state(sentence, running=False, bad=True), *rest]
            raise gr.Error(sentence, print_exception=False) from None


def _state(text: str, running: bool, bad: bool = False) -> list[Any]:
    return [message(text, bad), update(interactive=not running), update(interactive=running)]


def _sentence(error: Exception) -> str:
    """What the visitor reads; ZeroGPU speaks in gradio's own errors, as of a quota that is used up."""
    if isinstance(error, gr.Error):
        return str(error.message)
    if isinstance(error, SencacheError):
        return str(error)
    log.exception("a run of the page failed")
    return f"the page stopped on an unexpected {type(error).__name__}; reload it and run again"


def ending(report: Report, seconds: float) -> str:
    if not report.unfinished:
        return f"Done in {seconds:.1f} s."
    return f"Cut off after {seconds:.1f} s. {' '.join(missing(report, lane_label))}"
