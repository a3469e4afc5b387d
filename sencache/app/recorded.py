"""Comparisons that were recorded elsewhere: fetched and proved when the app starts.

`SENCACHE_GALLERY` names datasets of the Hub, each at one commit, or folders, separated by commas. What does
not hold is left out, with a sentence; the app starts with the rest.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sencache.errors import SencacheError
from sencache.gallery import card
from sencache.gallery.card import Entry
from sencache.gallery.datasets import LeftOut, Pinned, Place, folders_of, owners_hub, read_place
from sencache.hub.download import Hub

log = logging.getLogger(__name__)

VARIABLE = "SENCACHE_GALLERY"


@dataclass(frozen=True)
class Recorded:
    """The cards that hold, and what was left out.

    The cards' files are copies in `folder`, which goes with this object: so nothing else that lies beside
    them can be served, and nothing changes what was proved.
    """

    entries: tuple[Entry, ...] = ()
    problems: tuple[LeftOut, ...] = ()
    folder: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)


def gallery_places() -> list[Place]:
    """Where `SENCACHE_GALLERY` says that cards are; raises SencacheError where it says what cannot be."""
    try:
        return [read_place(text.strip()) for text in os.environ.get(VARIABLE, "").split(",") if text.strip()]
    except SencacheError as error:
        raise SencacheError(f"{VARIABLE}: {error}") from None


def fetch_recorded(places: Sequence[Place], hub: Hub | None = None) -> Recorded:
    """All cards of `places` that hold; each problem is logged as well.

    Datasets are read with the token of this machine, as it is its owner who names them.
    """
    if not places:
        return Recorded()
    folder, problems = tempfile.TemporaryDirectory(prefix="sencache-recorded-"), list[LeftOut]()
    entries = tuple(_cards(places, Path(folder.name), hub or owners_hub(), problems))
    for problem in problems:
        log.warning("%s", problem)
    log.info("%d recorded comparisons from %s", len(entries), ", ".join(map(str, places)))
    return Recorded(entries, tuple(problems), folder)


def _cards(places: Sequence[Place], into: Path, hub: Hub, problems: list[LeftOut]) -> Iterator[Entry]:
    for number, place in enumerate(places, 1):
        # What visitors are told of it: of a folder no more than its name.
        label = str(place) if isinstance(place, Pinned) else place.name
        try:
            folders, missing = folders_of(place, hub)
        except (SencacheError, OSError) as error:
            problems.append(LeftOut(label, str(error)))
            continue
        problems.extend(missing)
        for folder in folders:
            # No name of a card holds "@", so those of several places cannot meet.
            copy = into / f"{folder.name}@{number}"
            try:
                found = card.read_card(folder, label)
                copy.mkdir()
                for path in found.files:
                    shutil.copyfile(path, copy / path.name)
                yield card.check_card(replace(found, folder=copy, name=copy.name))
            except (SencacheError, OSError) as error:
                shutil.rmtree(copy, ignore_errors=True)
                kept = f"; if the kept copy is damaged, delete {folder}" if isinstance(place, Pinned) else ""
                problems.append(LeftOut(f"{folder.name} of {label}", f"{error}{kept}"))
