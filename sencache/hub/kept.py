"""Copies of pulled files, by repository and commit, and which commit was last taken of a repository."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from sencache.errors import SencacheError
from sencache.files import atomic
from sencache.hub.download import COMMIT, Asked, Hub

LAST = "last-commit"


def kept(asked: Asked, hub: Hub) -> Path:
    """Where a copy of the file is kept, whether it is there or not."""
    return _folder(asked.repo, hub) / asked.revision / asked.file


def keep(asked: Asked, content: bytes, hub: Hub) -> None:
    """Store a copy for next time, if copies are kept; raises SencacheError where it cannot be written."""
    if hub.keeps:
        _store(kept(asked, hub), content)


def kept_files(repo: str, revision: str, hub: Hub) -> tuple[str, ...]:
    """The names of the files that are kept of a commit."""
    with suppress(OSError):
        return tuple(sorted(path.name for path in (_folder(repo, hub) / revision).iterdir()))
    return ()


def remember(repo: str, revision: str, hub: Hub) -> None:
    """Note `revision` as the commit that was last taken of `repo`, for when the Hub cannot be asked."""
    if hub.keeps:
        _store(_folder(repo, hub) / LAST, revision.encode())


def remembered(repo: str, hub: Hub) -> str | None:
    """The commit that was last taken of `repo`."""
    with suppress(OSError, ValueError):
        revision = (_folder(repo, hub) / LAST).read_text(encoding="ascii")
        return revision if COMMIT.fullmatch(revision) else None
    return None


def _folder(repo: str, hub: Hub) -> Path:
    from huggingface_hub import constants

    return (hub.cache or Path(constants.HF_ASSETS_CACHE, "sencache")) / repo.replace("/", "--")


def _store(path: Path, content: bytes) -> None:
    try:
        with atomic(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise SencacheError(
            f"cannot keep {path} ({error.strerror}); make room there or set HF_HOME"
        ) from None
