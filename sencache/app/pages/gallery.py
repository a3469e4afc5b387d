"""Finished comparisons: those that come with the app, and those that were recorded elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData, GradioModel
from pydantic import Field

from sencache.app.pages.parts import script
from sencache.app.palette import lane_label
from sencache.comparison.summary import key_lanes, quality
from sencache.errors import SencacheError
from sencache.gallery.card import THUMBNAIL, Entry, card_folders, read_card
from sencache.schema import Request

GALLERY = Path(__file__).parents[3] / "examples" / "gallery"
EXAMPLE = "A finished comparison, to look at. Choose your own settings and press Run."


def load_gallery(folder: Path = GALLERY) -> list[Entry]:
    """All bundled entries by name; raises SencacheError when there is none, or one that is not complete."""
    folders = card_folders(folder)
    if not folders:
        raise SencacheError(f"{folder} holds no comparison; make them with python -m examples.make_gallery")
    return [read_card(path) for path in folders]


def _budget(request: Request) -> str:
    if request.nfe is not None:
        return f"every method at about {request.nfe} of {request.steps} evaluations"
    return f"preset {request.preset}" if request.preset else "the methods' own defaults"


def entry_status(entry: Entry, offered: Sequence[str]) -> str:
    """What is to be known of an entry that is open, where the models `offered` are those that run here."""
    model, info = entry.report.model, entry.info
    if model.key in offered and entry.source is None:
        return EXAMPLE
    origin = f", from {entry.source}" if entry.source else ""
    sentences = [f"A finished comparison with {model.key}, recorded on {model.gpu or model.device}{origin}."]
    if model.key not in offered:
        names = " and ".join(filter(None, (", ".join(offered[:-1]), offered[-1])))
        sentences.append(f"This Space runs {names}: the prompt was taken over, sizes and methods were not.")
    if info and info.transcoded:
        sentences.append(
            f"Its videos were encoded again ({info.videos}); all numbers are of the original frames."
        )
    return " ".join(sentences)


def omission_note(whats: Sequence[str]) -> str:
    more = f" and {len(whats) - 1} more" if len(whats) > 1 else ""
    return f"Left out of the recorded comparisons: {whats[0][:160]}{more}; the log says why."


class Number(GradioModel):
    lane: str
    method: str
    text: str


class Card(GradioModel):
    """What is shown of an entry before it is opened; `source` is empty for one that comes with the app."""

    name: str
    title: str
    setting: str
    source: str
    thumbnail: FileData
    numbers: list[Number]


class Cards(GradioModel):
    cards: list[Card] = Field(default_factory=list)
    open: str | None = None


def cards_of(entries: Sequence[Entry], opened: str | None = None) -> Cards:
    """The cards of `entries`, the one named `opened` marked."""
    return Cards(cards=[_card(entry) for entry in entries], open=opened)


def _card(entry: Entry) -> Card:
    report, model = entry.report, entry.report.model
    return Card(
        name=entry.name,
        title=report.request.prompt,
        setting=f"{model.key} · {_budget(report.request)}",
        source=f"recorded on {model.gpu or model.device} · {entry.source}" if entry.source else "",
        thumbnail=FileData(path=str(entry.folder / THUMBNAIL)),
        numbers=[
            Number(
                lane=lane_label(lane.name),
                method=lane.method,
                text=f"{lane.nfe}/{lane.steps} · {quality(lane)}",
            )
            for lane in key_lanes(report)
        ],
    )


class GalleryCards(gr.HTML):
    """A row of cards. The event `pick` carries the name of the card that was pressed; see `pick_entry`."""

    data_model = Cards

    def __init__(self, value: Cards | None = None, **options: Any) -> None:
        super().__init__(
            value=value or Cards(),
            html_template='<div class="gallery-cards" role="group" aria-label="Finished comparisons"></div>',
            js_on_load=script("gallery"),
            **options,
        )

    def api_info(self) -> dict[str, Any]:
        return Cards.model_json_schema()


def pick_entry(entries: Sequence[Entry], event: gr.EventData) -> Entry:
    """The entry whose card was pressed; raises SencacheError for a name that is none of theirs."""
    name = (getattr(event, "_data", None) or {}).get("name")
    for entry in entries:
        if entry.name == name:
            return entry
    raise SencacheError(f"the gallery has no entry {name!r}; choose one of its cards")
