"""Profiles from the Hub, and onto it.

Whatever is pulled comes from one commit of a repository on the list below or of one that the user names: that
given by its full hash, else the newest, which the profile then names. It is checked like any other file, also
for what it would make of a run, before it is used or kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sencache.errors import SencacheError
from sencache.hub import card, npz
from sencache.hub.commit import README, Head, open_head
from sencache.hub.download import Asked, Hub, Progress, check_repo, fetch, keep, kept_path, newest, remember
from sencache.hub.official import KNOWN, OFFICIAL, Stated
from sencache.policies.loading import parse_profile
from sencache.profiles import profile
from sencache.profiles.profile import Profile
from sencache.reading import read_limited

# The dataset repositories that are trusted, and their files.
LISTED: Mapping[str, tuple[str, ...]] = {OFFICIAL: tuple(KNOWN)}
MAX_PROFILES = 100
_LIMITS = {".json": profile.MAX_BYTES, ".npz": npz.MAX_BYTES}
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")


def pull_profile(
    file: str,
    repo: str = OFFICIAL,
    revision: str | None = None,
    *,
    unlisted: bool = False,
    stated: Stated | None = None,
    hub: Hub | None = None,
    on_bytes: Progress = lambda done, total: None,
) -> Profile:
    """The profile in `file` (.json, or .npz by the SenCache authors) of a Hub dataset at one commit.

    Without `revision` that is the newest commit of `main`; the profile says which one it was. A copy from an
    earlier call is used first, without any network for a commit that is given. Repositories that are not on
    the list need `unlisted`, the user's own decision. `stated` is for npz files that are none of the known
    ones. `on_bytes(done, total)` is called as the file arrives. Raises SencacheError for whatever goes wrong.
    """
    hub = hub or Hub()
    check_repo(repo)
    if repo not in LISTED and not unlisted:
        raise SencacheError(
            f"{repo[:100]!r} is not a listed repository ({', '.join(LISTED)}); name it yourself with --repo"
        )
    check_file(file)
    if repo in LISTED and file not in LISTED[repo]:
        raise SencacheError(f"{repo} has no {file}; choose from {', '.join(LISTED[repo])}")
    asked = Asked(repo, file, revision or newest(repo, hub)[0])
    place = kept_path(asked, hub)
    if place.is_file():
        pulled = _read_kept(asked, place, stated)
    else:
        content = fetch(asked, hub, _LIMITS[place.suffix], on_bytes)
        pulled = _parse(asked, content, stated)
        keep(asked, content, hub)
    if revision is None:
        remember(repo, asked.revision, hub)
    return pulled


def kept_profile(file: str, repo: str, revision: str, hub: Hub | None = None) -> Profile | None:
    """What an earlier pull kept of a file at a commit; None without such a copy. Uses no network."""
    with suppress(SencacheError):
        check_file(file)
        asked = Asked(repo, file, revision)
        place = kept_path(asked, hub or Hub())
        if place.is_file():
            return _read_kept(asked, place, None)
    return None


def _read_kept(asked: Asked, place: Path, stated: Stated | None) -> Profile:
    content = read_limited(place, "profile", _LIMITS[place.suffix])
    try:
        return _parse(asked, content, stated)
    except SencacheError as error:
        raise SencacheError(f"{error}; if the kept copy is damaged, delete {place}") from None


def _parse(asked: Asked, content: bytes, stated: Stated | None) -> Profile:
    """The profile in `content`, which knows where it comes from."""
    try:
        if asked.file.endswith(".npz"):
            source = f"{asked.repo} (Hub dataset), {asked.file} at {asked.revision}"
            read = npz.parse_npz(content, asked.file, stated, source)
        else:
            read = parse_profile(content, str(asked))
    except SencacheError as error:
        raise SencacheError(str(error) if asked.file in str(error) else f"{asked}: {error}") from None
    return read.with_origin(asked.file, asked.repo, asked.revision)


def is_profile(path: str) -> bool:
    """Whether a profile may be called so: a .json or .npz file that is in no folder."""
    return bool(_FILE.fullmatch(path)) and Path(path).suffix in _LIMITS


def check_file(file: str) -> None:
    """Raise SencacheError for what no profile's file may be called."""
    if not is_profile(file):
        raise SencacheError(f"{file[:100]!r} is not a profile's file; give the name of a .json or .npz file")


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
    head = open_head(repo, f"put {file} onto {repo}", card.MARK, private, hub or Hub())
    listed = {**_other_profiles(head, file), file: pushed}
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


def _other_profiles(head: Head, file: str) -> dict[str, Profile]:
    """The profiles that the repository already holds; other files of the same kind are passed over."""
    files = sorted(p for p in head.files if p != file and p.endswith(".json") and _FILE.fullmatch(p))
    if len(files) > MAX_PROFILES:
        raise SencacheError(f"{head.repo} already holds {len(files)} JSON files; choose another repository")
    found = {}
    for other in files:
        asked = Asked(head.repo, other, head.commit)
        content = fetch(asked, head.hub, _LIMITS[".json"])
        with suppress(SencacheError):
            found[other] = parse_profile(content, str(asked))
    return found
