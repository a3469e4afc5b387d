"""Writing files so that no one ever sees half of one, and nothing is left behind when it fails."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sencache.errors import SencacheError


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside `path`, moved there when the block ends and removed when it raises.

    Missing folders are made. Raises SencacheError, before the block runs, when the place cannot be written.
    """
    path = Path(path)
    with _folder(path.parent, path):
        with _refusing(path):
            if path.is_dir():
                raise IsADirectoryError(0, "it is a folder")
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=f".partial{path.suffix}")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def stage(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A hidden folder inside `folder`, whose files move up when the block ends and vanish when it raises.

    Folders made here are removed again on failure. Raises SencacheError when the place cannot be written,
    before the block runs, and when a folder is in the way of a file, before any file is moved.
    """
    folder = Path(folder)
    with _folder(folder, folder):
        with _refusing(folder):
            stage = Path(tempfile.mkdtemp(dir=folder, prefix=".partial-"))
        try:
            yield stage
            files = sorted(stage.iterdir())
            for target in (folder / path.name for path in files):
                if target.is_dir():
                    raise SencacheError(
                        f"cannot write {target} (it is a folder); remove it or choose another folder"
                    )
            for path in files:
                os.replace(path, folder / path.name)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def whole_folder(folder: str | os.PathLike[str], replace: bool = False) -> Iterator[Path]:
    """A hidden folder beside `folder`, which it becomes when the block ends; it vanishes when it raises.

    Raises SencacheError where the disk refuses and, before the block runs, where there is something already,
    unless `replace`. What is replaced stays until all of its successor is there.
    """
    folder = Path(folder)
    with _folder(folder.parent, folder):
        if folder.exists() and not replace:
            raise SencacheError(f"{folder} exists; give another name, or --replace")
        with _refusing(folder):
            stage = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".partial-"))
        try:
            with _refusing(folder):
                yield stage
                stage.chmod(0o755)
                old = stage.with_name(f"{stage.name}.old")
                if folder.exists():
                    os.replace(folder, old)
                os.replace(stage, folder)
                shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def _folder(folder: Path, asked: Path) -> Iterator[None]:
    """`folder` made where missing; on failure every folder made here goes again, innermost first."""
    with _refusing(asked):
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for place in missing:
                place.rmdir()
        raise


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SencacheError(f"cannot write {path} ({error.strerror}); choose a writable folder") from None
