"""One visitor's run: from the page's values to updates of its components, ten times a second at most."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr
from gradio import update

from sencache.app.events import Done
from sencache.app.pages.controls import Controls
from sencache.app.pages.lanes import LaneBoard, about
from sencache.app.pages.links import query_of
from sencache.app.pages.parts import message
from sencache.app.pages.results import Finished, result_values
from sencache.app.palette import lane_label
from sencache.app.service import ComparisonService
from sencache.comparison.events import LaneDone, LaneStopped, Started, StepDone
from sencache.comparison.job import Job
from sencache.comparison.report import Report
from sencache.comparison.summary import missing
from sencache.errors import SencacheError
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


class Runner:
    """What the Run button does; it fills three components of state and `width` of results."""

    def __init__(self, service: ComparisonService, controls: Controls, width: int) -> None:
        self.service, self.controls, self.width = service, controls, width

    def _job(self, values: tuple[Any, ...]) -> Job:
        return self.service.job(self.controls.request(*values))

    def estimate(self, *values: Any) -> dict[str, str | bool]:
        """What the note beside Run says: the time it takes, or what stands in the way."""
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
        """What the status says from the click until the run begins."""
        told = self.estimate(*values)
        return told if told["bad"] else message(WAITING)

    def explain_failure(self, status: dict[str, Any]) -> list[Any]:
        """Status, Run and Cancel when the run failed: before it began, only a full queue is to blame."""
        waited = isinstance(status, dict) and status.get("text") == WAITING
        told = message(FULL, bad=True) if waited else gr.skip()
        return [told, update(interactive=True), update(interactive=False)]

    def cancel(self) -> list[Any]:
        """Status, Run and Cancel after the visitor pressed Cancel."""
        return _state("Cancelled; the lanes show how far it came.", running=False)

    def run(self, *values: Any) -> Iterator[list[Any]]:
        """The comparison as updates of status, Run, Cancel and all results."""
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
    """What the status says at the end: that all is there, or what is missing and why."""
    if not report.unfinished:
        return f"Done in {seconds:.1f} s."
    return f"Cut off after {seconds:.1f} s. {' '.join(missing(report, lane_label))}"
