"""Cards of finished comparisons in datasets of the Hub: fetched at one commit, and put there.

Only files that a card may hold are asked for, each within the limit of its name. A card is kept whole or not
at all, so a kept one needs no network; whether it holds is found out by whoever shows it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from sencache.comparison.report import load_report
from sencache.errors import SencacheError
from sencache.files import whole_folder
from sencache.gallery import card
from sencache.gallery.card import CardInfo, Entry
from sencache.hub.card import PROJECT, front_matter, table
from sencache.hub.commit import README, Head, open_head
from sencache.hub.download import Asked, Hub, check_repo, fetch, is_repo, keep, kept_path, newest

DATASET = "hf://datasets/"
# For all cards of one dataset.
DEADLINE_SECONDS = 300.0
MAX_FILES = 5000

_LISTING = ".cards.json"
_PATHS = TypeAdapter(list[str])
_AT_ONCE = 8

MARK = "<!-- Written by `sencache gallery add`, which replaces it at the next card. -->"
ABOUT = (
    "Finished comparisons of step caches for video diffusion transformers: one video per method from one "
    f"noise, with the record of every step. Made, checked and shown by {PROJECT}."
)
USE = (
    "Show them in an app; `COMMIT` is the full hash of a commit here, so that nothing can change:\n\n"
    "```sh\nSENCACHE_GALLERY={repo}@COMMIT python app.py\n```\n\n"
    "Recompute every decision and look through every video:\n\n"
    "```sh\npython -m sencache gallery check {repo}@COMMIT\n```"
)
LIMITS = (
    "The distances in a report were measured on the frames as they were generated. Where a card says crf, "
    "its videos were encoded again, smaller, all lanes alike: they show less than what was measured. Each "
    "card is one prompt and one seed, which says nothing of the average."
)


@dataclass(frozen=True)
class Pinned:
    """A dataset at one commit."""

    repo: str
    revision: str

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision[:8]}"


Place = Path | Pinned


class LeftOut(NamedTuple):
    """A card, or cards, that cannot be had or do not hold, and why."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what} is left out: {self.why}"


def owners_hub() -> Hub:
    """With the token of this machine, if it has one: whoever names a private dataset here may read it."""
    import huggingface_hub

    return Hub(token=huggingface_hub.get_token())


def read_place(text: str) -> Place:
    """A folder of cards, or `owner/name@COMMIT`; raises SencacheError, with the remedy, for anything else."""
    if Path(text).is_dir():
        return Path(text)
    repo, at, revision = text.removeprefix(DATASET).partition("@")
    if not is_repo(repo):
        raise SencacheError(
            f"{text[:100]!r} is neither a folder nor a dataset at a commit; write owner/name@COMMIT"
        )
    if not at:
        raise SencacheError(
            f"{repo} is no folder here, and of a dataset no commit is given; write {repo}@COMMIT with its "
            f"full hash of 40 digits, as shown under https://huggingface.co/datasets/{repo}/commits/main"
        )
    Asked(repo, card.REPORT, revision)
    return Pinned(repo, revision)


def read_target(text: str) -> Path | str:
    """Where a card is put: the Path of a folder, or the name of a dataset.

    A folder is what exists, or is written with `./`, `../`, `/`, `~` or more than one separator; the dataset
    of the same name is `hf://datasets/owner/name`. Raises SencacheError for anything else.
    """
    if text.startswith(DATASET):
        check_repo(text.removeprefix(DATASET))
        return text.removeprefix(DATASET)
    folder = Path(text).expanduser()
    if folder.is_dir() or text.startswith((".", "/", "~")) or text.rstrip("/").count("/") > 1 or "\\" in text:
        return folder
    if is_repo(text):
        return text
    raise SencacheError(
        f"{text[:100]!r} is neither a folder that exists nor a dataset; write ./NAME for a new folder, "
        "owner/name for a dataset"
    )


def folders_of(place: Place, hub: Hub) -> tuple[list[Path], list[LeftOut]]:
    """The folders of the cards in `place`, fetched where that is a dataset, and what is missing.

    Raises SencacheError where not even the list of the cards can be had.
    """
    if isinstance(place, Path):
        listing, names = {}, [folder.name for folder in card.card_folders(place)]
    else:
        listing = _listing(place, hub)
        names = sorted(listing)
    ends = time.monotonic() + DEADLINE_SECONDS
    folders, problems = list[Path](), list[LeftOut]()
    if not names:
        problems.append(LeftOut(str(place), "it holds no card; put some there with gallery add"))
    if len(names) > card.MAX_CARDS:
        beyond = f"what {place} holds beyond the first {card.MAX_CARDS} cards"
        problems.append(LeftOut(beyond, f"there are {len(names)}; spread them over several places"))
    for name in names[: card.MAX_CARDS]:
        if isinstance(place, Path):
            folders.append(place / name)
            continue
        try:
            folders.append(_fetch_card(place, name, listing[name], hub, ends))
        except SencacheError as error:
            problems.append(LeftOut(f"{name} of {place}", str(error)))
    return folders, problems


def _listing(pinned: Pinned, hub: Hub) -> dict[str, list[str]]:
    """The files of each card by its name, from the kept copy where there is one that can be read."""
    asked = Asked(pinned.repo, _LISTING, pinned.revision)
    with suppress(OSError, ValidationError):
        return _cards(_PATHS.validate_json(kept_path(asked, hub).read_bytes()))
    _, found = newest(pinned.repo, hub, pinned.revision, f"list the cards of {pinned}")
    if len(found) > MAX_FILES:
        raise SencacheError(
            f"{pinned} has {len(found):,} files, more than {MAX_FILES:,}; give a dataset of cards"
        )
    paths = sorted(filter(_is_of_a_card, found))
    keep(asked, _PATHS.dump_json(paths), hub)
    return _cards(paths)


def _is_of_a_card(path: str) -> bool:
    name, _, file = path.partition("/")
    return card.NAME.fullmatch(name) is not None and card.limit_of(file) is not None


def _cards(paths: Collection[str]) -> dict[str, list[str]]:
    cards: dict[str, list[str]] = {}
    for path in sorted(filter(_is_of_a_card, paths)):
        name, _, file = path.partition("/")
        cards.setdefault(name, []).append(file)
    return {name: files for name, files in cards.items() if card.REPORT in files}


def _fetch_card(pinned: Pinned, name: str, files: list[str], hub: Hub, ends: float) -> Path:
    """The folder of a card, kept; the report says which videos belong to it."""
    place = kept_path(Asked(pinned.repo, name, pinned.revision), hub)
    if place.is_dir():
        return place
    with whole_folder(place) as folder:
        get = partial(_fetch_file, pinned, name, folder, hub, ends)
        get(card.REPORT)
        needed = [card.THUMBNAIL, *card.videos_of(load_report(folder / card.REPORT))]
        for file in needed:
            if file not in files:
                raise SencacheError(f"{file} is missing; add the card anew")
        optional = [file for file in files if file == card.INFO]
        optional += list(filter(card.PROFILE.fullmatch, files))[: card.MAX_PROFILES]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(get, [*needed, *optional]))
    return place


def _fetch_file(pinned: Pinned, name: str, folder: Path, hub: Hub, ends: float, file: str) -> None:
    left = ends - time.monotonic()
    if left <= 0:
        raise SencacheError(
            f"the cards did not arrive within {DEADLINE_SECONDS:g} s; start again, what arrived is kept"
        )
    limit = card.limit_of(file)
    assert limit is not None
    asked = Asked(pinned.repo, f"{name}/{file}", pinned.revision)
    (folder / file).write_bytes(fetch(asked, replace(hub, deadline=min(hub.deadline, left)), limit))


@dataclass(frozen=True)
class PushedCard:
    """What a push made: the card, the commit that pins it, and where to see it."""

    repo: str
    name: str
    revision: str
    url: str

    @property
    def setting(self) -> str:
        """The line that makes an app show it."""
        return f"SENCACHE_GALLERY={self.repo}@{self.revision}"


def push_card(
    entry: Entry, repo: str, *, private: bool = False, replaced: bool = False, hub: Hub | None = None
) -> PushedCard:
    """Put a card on the Hub in one commit of the dataset `repo`, with a page that lists all cards in it.

    The repository is made if it is missing. `hub.token` is used, or the one of the machine's login. Raises
    SencacheError, and leaves the repository as it was, for whatever goes wrong and, unless `replaced`, where
    it holds a card of that name.
    """
    check_repo(repo)
    assert entry.info is not None
    name = card.check_name(entry.info.name)
    head = open_head(repo, f"put the card {name} onto the dataset {repo}", MARK, private, hub or Hub())
    known = _cards(head.files)
    if name in known and not replaced:
        raise SencacheError(f"{repo} holds a card {name}; give another --name, or --replace")
    if len({*known, name}) > card.MAX_CARDS:
        raise SencacheError(f"{repo} holds {len(known)} cards, all that an app shows; choose another dataset")
    contents = {f"{name}/{path.name}": path.read_bytes() for path in entry.files}
    listed = {**_infos(known, head), name: entry.info}
    gone = {f"{name}/{file}" for file in known.get(name, ())} - set(contents)
    contents[README] = gallery_page(repo, listed).encode()
    commit = head.add(contents, f"Card {name}, report {entry.report.digest[:12]}", gone)
    return PushedCard(repo, name, commit.oid, str(commit.commit_url))


def _infos(known: Mapping[str, list[str]], head: Head) -> dict[str, CardInfo]:
    """What the cards there say of themselves; those that say nothing that can be read are not listed."""
    found = {}
    for name in (name for name, files in known.items() if card.INFO in files):
        asked = Asked(head.repo, f"{name}/{card.INFO}", head.commit)
        content = fetch(asked, head.hub, card.limit_of(card.INFO) or 0)
        with suppress(SencacheError):
            found[name] = card.parse_info(content, str(asked))
    return found


def gallery_page(repo: str, cards: Mapping[str, CardInfo]) -> str:
    """README.md of the dataset `repo` that holds `cards` by name, with its YAML front matter."""
    title = f"Step caching compared: {len(cards)} recorded video comparison{'s' if len(cards) > 1 else ''}"
    rows = [(name, info.title[:200], info.videos, info.source) for name, info in sorted(cards.items())]
    parts = (
        front_matter(title, {}),
        f"{MARK}\n\n# {title}\n\n{ABOUT}",
        table(("card", "prompt", "videos", "made by"), rows),
        USE.format(repo=repo),
        f"## Limits\n\n{LIMITS}\n",
    )
    return "\n\n".join(parts)
