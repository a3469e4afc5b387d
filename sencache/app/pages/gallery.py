"""Finished comparisons: those that come with the app, and those that were recorded elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData, GradioModel
from pydantic import Field

from sencache.app.pages.theme import script
from sencache.app.palette import lane_label
from sencache.comparison.report import Lane, Report
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


def setting(report: Report) -> str:
    """The model, and what the methods were held to, in a few words."""
    return f"{report.model.key} · {_budget(report.request)}"


def _budget(request: Request) -> str:
    if request.nfe is not None:
        return f"every method at about {request.nfe} of {request.steps} evaluations"
    return f"preset {request.preset}" if request.preset else "the methods' own defaults"


def told(entry: Entry, offered: Sequence[str]) -> str:
    """What is to be known of an entry that is open, where the models `offered` are those that run here."""
    model, info = entry.report.model, entry.info
    here = model.key in offered
    if here and entry.source is None:
        return EXAMPLE
    said = [
        f"A finished comparison with {model.key}, recorded on {model.gpu or model.device}{_origin(entry)}."
    ]
    if not here:
        said.append(
            f"This Space runs {_listed(offered)}: the prompt was taken over, sizes and methods were not."
        )
    if info and info.transcoded:
        said.append(f"Its videos were encoded again ({info.videos}); all numbers are of the original frames.")
    return " ".join(said)


def _origin(entry: Entry) -> str:
    return f", from {entry.source}" if entry.source else ""


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def left_out(whats: Sequence[str]) -> str:
    """In a line, what of the recorded comparisons is not shown."""
    more = f" and {len(whats) - 1} more" if len(whats) > 1 else ""
    return f"Left out of the recorded comparisons: {whats[0][:160]}{more}; the log says why."


class Number(GradioModel):
    """One lane's figures in words."""

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
    """All cards, and the name of the one that is open."""

    cards: list[Card] = Field(default_factory=list)
    open: str | None = None


def cards_of(entries: Sequence[Entry], opened: str | None = None) -> Cards:
    """The cards of `entries`, the one named `opened` marked."""
    return Cards(cards=[_card(entry) for entry in entries], open=opened)


def _card(entry: Entry) -> Card:
    model = entry.report.model
    return Card(
        name=entry.name,
        title=entry.report.request.prompt,
        setting=setting(entry.report),
        source=f"recorded on {model.gpu or model.device} · {entry.source}" if entry.source else "",
        thumbnail=FileData(path=str(entry.folder / THUMBNAIL)),
        numbers=[_number(lane) for lane in key_lanes(entry.report)],
    )


def _number(lane: Lane) -> Number:
    text = f"{lane.nfe}/{lane.steps} · {quality(lane)}"
    return Number(lane=lane_label(lane.name), method=lane.method, text=text)


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


def picked(entries: Sequence[Entry], event: gr.EventData) -> Entry:
    """The entry whose card was pressed; raises SencacheError for a name that is none of theirs."""
    name = getattr(event, "_data", None) or {}
    for entry in entries:
        if entry.name == name.get("name"):
            return entry
    raise SencacheError(f"the gallery has no entry {name.get('name')!r}; choose one of its cards")
