"""The Compare page: settings on one side, the comparison on the other, alive before anything is run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import update

from sencache.app.deliver import pack, profile_files, profiles_of, snippets, walked
from sencache.app.pages.controls import MATCHED, Controls, build_controls, profile_choices, speed_label
from sencache.app.pages.gallery import GalleryCards, cards_of, left_out, load_gallery, picked, told
from sencache.app.pages.links import query_of_report, read_query, restored
from sencache.app.pages.note import note, said
from sencache.app.pages.own_profiles import Own, pulled
from sencache.app.pages.results import Finished, Results, build_results, shown
from sencache.app.pages.running import Runner
from sencache.app.recorded import Recorded
from sencache.app.service import ComparisonService
from sencache.errors import SencacheError
from sencache.gallery.card import Entry

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

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
        self._recorded = recorded
        self._offered = [model["key"] for model in offer["models"]]
        bundled = load_gallery()
        self.entries = [*bundled, *recorded.entries]
        self.finished = [self._finished(entry) for entry in self.entries]
        # The page's main knob is a budget: open a comparison that has one, and that could be run here.
        budgets = (n for n, entry in enumerate(bundled) if entry.report.request.nfe)
        self.first = next(budgets, 0)
        gr.HTML(INTRO, padding=False)
        self.cards = GalleryCards(cards_of(self.entries, self.entries[self.first].name), elem_id="gallery")
        if recorded.problems:
            note("left-out", left_out([problem.what for problem in recorded.problems]))
        with gr.Row(elem_id="workbench"):
            with gr.Column(scale=0, min_width=340, elem_id="controls"):
                self.controls: Controls = build_controls(offer, own)
            with gr.Column(scale=1, min_width=320, elem_id="results"):
                self.status = note("status", self.finished[self.first].told)
                self.results: Results = build_results()
        self.runner = Runner(service, self.controls, len(self.results.outputs))

    def _finished(self, entry: Entry) -> Finished:
        """What the gallery shows of an entry; its CSV and zip are made when the app starts."""
        folder = Path(self._scratch.name) / entry.name
        folder.mkdir()
        pack(entry.report, entry.folder, folder)
        profiles, query = profiles_of(entry.report, entry.folder), query_of_report(entry.report)
        code = snippets(entry.report, profile_files(entry.report, profiles))
        profile, about = walked(entry.report, profiles), told(entry, self._offered)
        return Finished(entry.report, entry.folder, folder, profile, code, query, about)

    def wire(self) -> None:
        """All listeners of the page."""
        controls, results = self.controls, self.results
        state = [self.status, controls.run, controls.cancel]
        # Listeners of one button run one after another: these two answer at once, the third one queues.
        controls.run.click(None, None, None, js=SHOW_RESULTS)
        controls.run.click(self.runner.announce, controls.asked, self.status, **QUIET)
        running = controls.run.click(
            self.runner.run,
            controls.asked,
            [*state, *results.outputs],
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
        self.cards.pick(
            self.open_card, None, [self.cards, self.status, *controls.inputs, *results.outputs], **QUIET
        )
        changing: list[Any] = controls.inputs
        labels = [controls.fields["speed"], controls.estimate]
        gr.on(
            [component.change for component in changing],
            self.relabel,
            controls.asked,
            labels,
            trigger_mode="always_last",
            **QUIET,
        )
        self._wire_profiles()

    def _wire_profiles(self) -> None:
        """What a visitor pulls here or checks on another page can be chosen here."""
        controls, profile = self.controls, self.controls.fields["profile"]
        controls.pull.button.click(
            self.pulled,
            [controls.pull.source, controls.fields["model"], controls.own],
            [controls.own, profile, controls.pull.told],
            show_progress="hidden",
            api_visibility="private",
        )
        controls.own.change(self.listed, controls.own, profile, **QUIET)

    def listed(self, own: Own) -> Any:
        """The list of profiles with the visitor's own."""
        return update(choices=profile_choices(self.controls.offer, own))

    def pulled(self, text: str, model: str, own: Own) -> Iterator[tuple[Any, Any, Any]]:
        """Pull what the visitor named; it is the chosen profile then."""
        offered = self.controls.offer
        architecture = next(m["architecture"] for m in offered["models"] if m["key"] == model)
        for held, name, news in pulled(text, architecture, own):
            listed = update(choices=profile_choices(offered, held), value=name) if name else gr.skip()
            yield held, listed, news

    def loaded(self, request: gr.Request) -> list[Any]:
        """First paint: the first finished comparison, and its settings or those of the link."""
        asked = dict(request.query_params)
        first = self.finished[self.first]
        query = asked if "prompt" in asked else read_query(first.query)
        return [*restored(self.controls, query), *shown(first)]

    def open_card(self, event: gr.EventData) -> list[Any]:
        """Show the finished comparison whose card was pressed, and take over its settings."""
        try:
            entry = picked(self.entries, event)
        except SencacheError as error:
            raise gr.Error(str(error), print_exception=False) from None
        finished = self.finished[self.entries.index(entry)]
        fields = restored(self.controls, read_query(finished.query))
        return [cards_of(self.entries, entry.name), said(finished.told), *fields, *shown(finished)]

    def relabel(self, *values: Any) -> list[Any]:
        """What the main knob and the estimate say of the settings as they are."""
        named = dict(zip(self.controls.fields, values, strict=False))
        label = speed_label(named["speed"], self.controls.steps(*values), named["budget"])
        matched = named["budget"] == MATCHED
        return [update(label=label, interactive=matched), self.runner.estimate(*values)]
