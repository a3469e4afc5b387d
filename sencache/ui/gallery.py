"""Finished comparisons that come with the app, as `python -m examples.make_gallery` made them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData, GradioModel
from pydantic import Field

from sencache.errors import SencacheError
from sencache.report import Lane, Report, load_report
from sencache.service.palette import lane_label
from sencache.ui.theme import script

GALLERY = Path(__file__).parents[2] / "examples" / "gallery"
THUMBNAIL = "thumbnail.png"


@dataclass(frozen=True)
class Entry:
    """One finished comparison: `folder` holds the report, a video per lane and a thumbnail."""

    name: str
    folder: Path
    report: Report

    @property
    def setting(self) -> str:
        """The model, and what the methods were held to, in a few words."""
        return f"{self.report.model.key} · {self._budget}"

    @property
    def _budget(self) -> str:
        request = self.report.request
        if request.nfe is not None:
            return f"every method at about {request.nfe} of {request.steps} evaluations"
        return f"preset {request.preset}" if request.preset else "the methods' own defaults"


def load_gallery(folder: Path = GALLERY) -> list[Entry]:
    """All entries by name; raises SencacheError when there is none, or one that is not complete."""
    reports = sorted(folder.glob("*/report.json"))
    if not reports:
        raise SencacheError(f"{folder} holds no comparison; make them with python -m examples.make_gallery")
    return [_entry(path) for path in reports]


def _entry(path: Path) -> Entry:
    entry = Entry(path.parent.name, path.parent, load_report(path))
    for name in (THUMBNAIL, *(lane.video for lane in entry.report.lanes)):
        if name is None or not (entry.folder / name).is_file():
            raise SencacheError(
                f"{entry.folder} lacks {name or 'a video'}; make it anew with python -m examples.make_gallery"
            )
    return entry


class Number(GradioModel):
    """One lane's figures in words."""

    lane: str
    method: str
    text: str


class Card(GradioModel):
    """What is shown of an entry before it is opened."""

    name: str
    title: str
    setting: str
    thumbnail: FileData
    numbers: list[Number]


class Cards(GradioModel):
    """All cards, and the name of the one that is open."""

    cards: list[Card] = Field(default_factory=list)
    open: str | None = None


def cards_of(entries: list[Entry], opened: str | None = None) -> Cards:
    """The cards of `entries`, the one named `opened` marked."""
    return Cards(cards=[_card(entry) for entry in entries], open=opened)


def _card(entry: Entry) -> Card:
    return Card(
        name=entry.name,
        title=entry.report.request.prompt,
        setting=entry.setting,
        thumbnail=FileData(path=str(entry.folder / THUMBNAIL)),
        numbers=[_number(lane) for lane in key_lanes(entry.report)],
    )


def key_lanes(report: Report) -> list[Lane]:
    """The lanes a card speaks of: SenCache, fewer steps, and the one that came closest to the full run."""
    measured = [lane for lane in report.lanes if lane.metrics is not None]
    closest = max(measured, key=lambda lane: _psnr(lane), default=None)
    named = [lane for lane in measured if lane.name in ("sencache", "fewer-steps")]
    return named + [lane for lane in measured if lane is closest and lane not in named]


def _psnr(lane: Lane) -> float:
    return float("inf") if lane.metrics is None or lane.metrics.psnr is None else lane.metrics.psnr


def _number(lane: Lane) -> Number:
    psnr = lane.metrics.psnr if lane.metrics else None
    quality = "identical" if psnr is None else f"{psnr:.1f} dB"
    return Number(lane=lane_label(lane.name), method=lane.method, text=f"{lane.nfe}/{lane.steps} · {quality}")


class GalleryCards(gr.HTML):
    """A row of cards. The event `pick` carries the name of the card that was pressed; see `picked`."""

    data_model = Cards

    def __init__(self, value: Cards | None = None, **options: Any) -> None:
        super().__init__(
            value=value or Cards(),
            html_template='<div class="gallery-cards" role="group" aria-label="Finished comparisons"></div>',
            js_on_load=script("gallery"),
            **options,
        )

    def api_info(self) -> dict[str, Any]:
        """What clients of the API see."""
        return Cards.model_json_schema()


def picked(entries: list[Entry], event: gr.EventData) -> Entry:
    """The entry whose card was pressed; raises SencacheError for a name that is none of theirs."""
    name = getattr(event, "_data", None) or {}
    for entry in entries:
        if entry.name == name.get("name"):
            return entry
    raise SencacheError(f"the gallery has no entry {name.get('name')!r}; choose one of its cards")
