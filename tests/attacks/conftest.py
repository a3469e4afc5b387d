"""What every attack must leave as it was, and how long it may take."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

# Refusals take milliseconds; this only keeps a reader that hangs from stopping the whole run.
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """Interrupt whatever waits or computes for ever, system calls included."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def too_long(*_: object) -> None:
        raise TimeoutError(f"still at it after {PATIENCE:.0f} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that holds nothing but what the test puts there, with no new open files or threads after it.

    Payloads write `OWNED` into the working directory.
    """
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    opened, threads = open_files(), threading.active_count()
    yield folder
    assert not list(folder.rglob("OWNED*")), "code from a file was run"
    assert open_files() <= opened and threading.active_count() <= threads


def open_files() -> int:
    """Of this process, where the system tells."""
    place = Path("/proc/self/fd")
    return len(os.listdir(place)) if place.is_dir() else 0
