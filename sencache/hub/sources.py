"""Sources of profiles on the Hub, written `repo[@commit][:file]`, and what can be had from them.

Without a commit the newest one is taken; without a file, all profiles at the repository's root.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sencache.errors import SencacheError
from sencache.hub.download import COMMIT, Hub, check_repo, kept_files, last_commit, newest, remember
from sencache.hub.exchange import LISTED, check_file, is_profile, kept_profile, pull_profile
from sencache.profiles.profile import Profile

MAX_SOURCES = 16
MAX_FILES = 16
_SOURCE = re.compile(r"(?P<repo>[^@:]+)(?:@(?P<revision>[^@:]+))?(?::(?P<file>[^@:]+))?")


@dataclass(frozen=True)
class Source:
    """A dataset repository, with the commit and the file if they are named."""

    repo: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        at = f"@{self.revision[:8]}" if self.revision else ""
        return f"{self.repo}{at}{f':{self.file}' if self.file else ''}"


@dataclass(frozen=True)
class Gathered:
    """What came of a source: profiles, and why they are copies from earlier; or none, and why."""

    source: Source
    profiles: tuple[Profile, ...] = ()
    trouble: str | None = None


def parse_source(text: str) -> Source:
    """The source written as `repo[@commit][:file]`; raises SencacheError for any other text."""
    found = _SOURCE.fullmatch(text.strip())
    if found is None:
        raise SencacheError(f"{text[:100]!r} is not a source of profiles; write owner/name[@commit][:file]")
    source = Source(**found.groupdict())
    check_repo(source.repo)
    if source.revision and not COMMIT.fullmatch(source.revision):
        raise SencacheError(
            f"{source.revision[:60]!r} is not a full commit hash; give its 40 hexadecimal digits, or leave "
            "it away to take the newest"
        )
    if source.file:
        check_file(source.file)
    return source


def parse_sources(text: str) -> tuple[Source, ...]:
    """Sources separated by commas; raises SencacheError for too many, and as `parse_source`."""
    parts = [part for part in text.split(",") if part.strip()]
    if len(parts) > MAX_SOURCES:
        raise SencacheError(f"{len(parts)} sources of profiles are too many; name at most {MAX_SOURCES}")
    return tuple(parse_source(part) for part in parts)


def pull_source(source: Source, hub: Hub, seconds: float) -> tuple[Profile, ...]:
    """The profiles in `source`, all of one commit, within `seconds`; files that are none are passed over
    where none is named.

    Raises SencacheError where there is no profile at all, and for whatever goes wrong on the way.
    """
    ends = time.monotonic() + seconds
    revision, files = _list_files(source, _until(ends, hub))
    found, refused = list[Profile](), None
    for file in files:
        try:
            at = _until(ends, hub)
            found.append(pull_profile(file, source.repo, revision, unlisted=True, hub=at))
        except SencacheError as error:
            refused = refused or error
    if refused is not None and not found:
        raise refused
    if source.revision is None:
        remember(source.repo, revision, hub)
    return tuple(found)


def gather(sources: Sequence[Source], hub: Hub, seconds: float) -> tuple[Gathered, ...]:
    """What can be had from each of `sources` within `seconds` altogether.

    Where the Hub cannot be asked, or its newest files cannot be used, the copies of the last commit that
    could are taken. Raises nothing: what went wrong is said.
    """
    ends, found = time.monotonic() + seconds, list[Gathered]()
    for source in sources:
        try:
            found.append(Gathered(source, pull_source(source, hub, ends - time.monotonic())))
        except SencacheError as error:
            found.append(Gathered(source, _copies(source, hub), str(error)))
    return tuple(found)


def _copies(source: Source, hub: Hub) -> tuple[Profile, ...]:
    """Those that are kept of the commit that is named, else of the one last taken; no network is used."""
    revision = source.revision or last_commit(source.repo, hub)
    if revision is None:
        return ()
    files = [file for file in kept_files(source.repo, revision, hub) if source.file in (None, file)]
    copies = (kept_profile(file, source.repo, revision, hub) for file in files)
    return tuple(copy for copy in copies if copy is not None)


def _until(ends: float, hub: Hub) -> Hub:
    left = ends - time.monotonic()
    if left <= 0:
        raise SencacheError("the Hub took too long to answer; try again later")
    return replace(hub, timeout=min(hub.timeout, left), deadline=min(hub.deadline, left))


def _list_files(source: Source, hub: Hub) -> tuple[str, tuple[str, ...]]:
    """The commit to take, and its files to read."""
    named = (source.file,) if source.file else LISTED.get(source.repo, ())
    if source.revision and named:
        return source.revision, named
    revision, present = newest(source.repo, hub, source.revision or "main")
    files = named or tuple(sorted(filter(is_profile, present)))
    if not 1 <= len(files) <= MAX_FILES:
        raise SencacheError(
            f"{source.repo} holds {len(files)} .json and .npz files at {revision[:8]}, and 1 to {MAX_FILES} "
            f"are read; name the file, as {source.repo}:FILE"
        )
    return revision, files
