"""Profiles from the Hub, and onto it.

Whatever is pulled comes from one commit, given by its full hash, of a repository on the list below or of one
that the user names; it is checked like any other file before it is used or kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sencache import profile
from sencache.errors import SencacheError
from sencache.hub import archive, card, npz
from sencache.hub.commit import README, open_head, with_token
from sencache.hub.download import Asked, Hub, check_repo, fetch, keep, kept
from sencache.hub.official import KNOWN, OFFICIAL, Stated
from sencache.profile import Profile, parse_profile
from sencache.reading import read_limited


@dataclass(frozen=True)
class Listed:
    """A dataset repository that is trusted, its files, and the commit to take them from.

    Without `revision` the caller must give one, as nothing is ever taken from a moving branch.
    """

    repo: str
    files: tuple[str, ...]
    revision: str | None


LISTED: Mapping[str, Listed] = {
    entry.repo: entry
    for entry in (Listed(OFFICIAL, files=tuple(known.file for known in KNOWN), revision=None),)
}

MAX_PROFILES = 100
_LIMITS = {".json": profile.MAX_BYTES, ".npz": archive.MAX_BYTES}
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")


def pull_profile(
    file: str,
    repo: str = OFFICIAL,
    revision: str | None = None,
    *,
    unlisted: bool = False,
    stated: Stated | None = None,
    hub: Hub | None = None,
    on_bytes: Callable[[int, int], object] = lambda done, total: None,
) -> Profile:
    """The profile in `file` (.json, or .npz by the SenCache authors) of a Hub dataset at one commit.

    A copy from an earlier call is used first, without any network. Repositories that are not on the list need
    `unlisted`, the user's own decision. `stated` is for npz files that are none of the known ones.
    `on_bytes(done, total)` is called as the file arrives. Raises SencacheError for whatever goes wrong.
    """
    hub = hub or Hub()
    asked = _asked(file, repo, revision, unlisted)
    place = kept(asked, hub)
    if place.is_file():
        content = read_limited(place, "profile", _LIMITS[place.suffix])
        return _read(asked, content, stated, f"; if the kept copy is damaged, delete {place}")
    content = fetch(asked, hub, _LIMITS[Path(file).suffix], on_bytes)
    pulled = _read(asked, content, stated, "")
    keep(asked, content, hub)
    return pulled


def _asked(file: str, repo: str, revision: str | None, unlisted: bool) -> Asked:
    entry = LISTED.get(repo)
    if entry is None and not unlisted:
        raise SencacheError(
            f"{repo[:100]!r} is not a listed repository ({', '.join(LISTED)}); "
            "name it yourself with --repo and --revision"
        )
    if not _FILE.fullmatch(file) or Path(file).suffix not in _LIMITS:
        raise SencacheError(f"{file[:100]!r} is not a profile's file; give the name of a .json or .npz file")
    if entry and file not in entry.files:
        raise SencacheError(f"{repo} has no {file}; choose from {', '.join(entry.files)}")
    pinned = entry.revision if entry else None
    if pinned and revision not in (None, pinned) and not unlisted:
        raise SencacheError(
            f"{repo} is taken at commit {pinned}, not {revision[:60]!r}; name both with --repo and --revision"
        )
    revision = revision or pinned
    if revision is None:
        raise SencacheError(
            f"no commit of {repo} is given; state its full hash of 40 digits with --revision, "
            f"as shown under https://huggingface.co/datasets/{repo}/commits/main"
        )
    return Asked(repo, file, revision)


def _read(asked: Asked, content: bytes, stated: Stated | None, remedy: str) -> Profile:
    """The profile in `content`, which knows where it comes from."""
    try:
        if asked.file.endswith(".npz"):
            source = f"{asked.repo} (Hub dataset), {asked.file} at {asked.revision}"
            read = npz.parse_npz(content, asked.file, stated, source)
        else:
            read = parse_profile(content, str(asked))
    except SencacheError as error:
        raise SencacheError(f"{error}{remedy}") from None
    return read.located(asked.file, asked.repo, asked.revision)


@dataclass(frozen=True)
class Pushed:
    """What a push made: the file, the commit that pins it, and where to see it."""

    repo: str
    file: str
    revision: str
    url: str
    sha256: str


def push_profile(
    pushed: Profile,
    repo: str,
    name: str,
    plot: Callable[[Profile], str],
    *,
    private: bool = False,
    hub: Hub | None = None,
) -> Pushed:
    """Put a profile on the Hub as `name`.json, with its plot and a card, in one commit of the dataset `repo`.

    The repository is made if it is missing; a card that lists the other profiles in it is written anew.
    `plot` draws a profile as SVG text. `hub.token` is used, or the one of the machine's login. Raises
    SencacheError, and leaves the repository as it was, for whatever goes wrong.
    """
    check_repo(repo)
    file = _pushable(pushed, name)
    head = open_head(repo, f"put {file} onto {repo}", card.MARK, private, with_token(hub or Hub()))
    listed = {**dict(_profiles(repo, head.commit, set(head.files) - {file}, head.hub)), file: pushed}
    texts = {file: pushed.to_json(), f"{name}.svg": plot(pushed), README: card.dataset_card(repo, listed)}
    contents = {path: text.encode() for path, text in texts.items()}
    commit = head.add(contents, f"Profile {name}, sha256 {pushed.sha256[:12]}")
    return Pushed(repo, file, commit.oid, str(commit.commit_url), pushed.sha256)


def _pushable(pushed: Profile, name: str) -> str:
    """The file's name; raises SencacheError for a bad one and for numbers that may not be passed on."""
    file = f"{name}.json"
    if not _FILE.fullmatch(file) or ".." in file:
        raise SencacheError(f"{name[:100]!r} is no name for a profile; use letters, digits, '.', '_' and '-'")
    if pushed.provenance.licence == "unknown":
        raise SencacheError(
            f"the licence of {name} is unknown ({pushed.provenance.source[:100]}), so it may not be "
            "published again; point others to its source"
        )
    return file


def _profiles(repo: str, revision: str, present: set[str], hub: Hub) -> Iterator[tuple[str, Profile]]:
    """The profiles that the repository already holds; other files of the same kind are passed over."""
    files = sorted(path for path in present if path.endswith(".json") and _FILE.fullmatch(path))
    if len(files) > MAX_PROFILES:
        raise SencacheError(f"{repo} already holds {len(files)} JSON files; choose another repository")
    for file in files:
        asked = Asked(repo, file, revision)
        content = fetch(asked, hub, _LIMITS[".json"])
        try:
            yield file, parse_profile(content, str(asked))
        except SencacheError:
            continue
