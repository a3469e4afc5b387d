"""Writing files so that no one ever sees half of one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sencache.errors import SencacheError


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside `path`, moved there when the block ends and removed when it raises.

    Missing folders are made. Raises SencacheError when the place cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=f".partial{path.suffix}")
        os.close(handle)
    except OSError as error:
        raise SencacheError(f"cannot write {path} ({error.strerror}); choose a writable folder") from None
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def staged(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A hidden folder inside `folder`, whose files move up when the block ends and vanish when it raises.

    `folder` is made if missing, and removed again on failure if it was made here. Raises SencacheError when
    it cannot be written, before any work is done.
    """
    folder = Path(folder)
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(dir=folder, prefix=".partial-"))
    except OSError as error:
        raise SencacheError(
            f"cannot write into {folder} ({error.strerror}); choose a writable folder"
        ) from None
    try:
        yield stage
        for path in sorted(stage.iterdir()):
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if not existed and not any(folder.iterdir()):
            folder.rmdir()
