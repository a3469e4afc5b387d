"""What is no file, never ends, changes while it is read, or is somewhere else than it seems."""

from __future__ import annotations

import os
import socket
import stat
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile_archives import SOUND as SOUND_ARCHIVE
from hostile_profiles import SOUND as SOUND_PROFILE

from sencache import reading
from sencache.comparison.report import load_report
from sencache.errors import SencacheError
from sencache.hub.npz import import_npz
from sencache.policies.loading import load_profile

WAN: dict[str, Any] = {"model": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "shift": 5.0, "latent": (16, 21, 60, 104)}

Reader = Callable[[Path], object]
READERS: dict[str, Reader] = {
    "profile": load_profile,
    "sensitivity file": lambda path: import_npz(path, **WAN),
    "report": load_report,
}
# Reports may be larger than is worth growing one for.
SOUND = {"profile": SOUND_PROFILE, "sensitivity file": SOUND_ARCHIVE}


@pytest.fixture(params=READERS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def read(kind: str) -> Reader:
    return READERS[kind]


def refused(read: Reader, path: str | Path, code: str) -> str:
    with pytest.raises(SencacheError) as caught:
        read(path)  # type: ignore[arg-type]
    assert caught.value.code == code, str(caught.value)
    assert ";" in str(caught.value)
    return str(caught.value)


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


def below_a_file(path: Path) -> None:
    path.parent.joinpath("file").write_bytes(SOUND_PROFILE)
    path.symlink_to("file/theirs")


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (os.mkfifo, "file.not-regular"),
    "a socket": (bound_socket, "file.unreadable"),
    "a folder": (Path.mkdir, "file.unreadable"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "file.unreadable"),
    "a link to nowhere": (lambda path: path.symlink_to("nowhere"), "file.unreadable"),
    "a link to below a file": (below_a_file, "file.unreadable"),
    "a link to /dev/zero": (lambda path: path.symlink_to("/dev/zero"), "file.not-regular"),
    "a link to /dev/null": (lambda path: path.symlink_to("/dev/null"), "file.not-regular"),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_is_refused_at_once(place: str, read: Reader, nothing_stays: Path) -> None:
    make, code = PLACES[place]
    path = nothing_stays / "theirs"
    make(path)
    before = {name: name.lstat().st_mode for name in nothing_stays.iterdir()}
    refused(read, path, code)
    assert {name: name.lstat().st_mode for name in nothing_stays.iterdir()} == before


def test_no_such_file(read: Reader) -> None:
    for path in ("", ".", "/", "nowhere", "x" * 5000, "a\x00b", "\ud800", "~", "C:\\x", "/dev/fd/9999"):
        refused(read, path, "file.unreadable")


def test_a_pipe_that_somebody_writes_to_is_refused(read: Reader, nothing_stays: Path) -> None:
    path = nothing_stays / "pipe"
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR)
    try:
        os.write(end, SOUND_PROFILE[:4000])
        refused(read, path, "file.not-regular")
        refused(read, f"/dev/fd/{end}", "file.not-regular")
    finally:
        os.close(end)


def test_a_file_of_a_terabyte_is_refused_unread(read: Reader, nothing_stays: Path) -> None:
    """Sparse: it takes no space, and reading it would never end."""
    path = nothing_stays / "huge"
    with path.open("wb") as file:
        file.truncate(10**12)
    tracemalloc.start()
    refused(read, path, "file.too-large")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_file_that_claims_to_be_empty_and_is_not(read: Reader) -> None:
    """Files of /proc have the size 0 and content all the same."""
    endless = Path("/proc/self/pagemap")
    if not endless.exists():
        pytest.skip("this system has no such file")
    assert endless.stat().st_size == 0
    refused(read, endless, "file.too-large")


def shrink(path: Path) -> None:
    os.truncate(path, 1000)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(9_000_000))


@pytest.mark.parametrize("change", [shrink, grow])
@pytest.mark.parametrize("kind", SOUND)
def test_a_file_that_changes_while_it_is_read(
    change: Callable[[Path], None], kind: str, nothing_stays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at its size and the reading of its content."""
    path = nothing_stays / "changing"
    path.write_bytes(SOUND[kind])

    def look(status: int) -> os.stat_result:
        found = real(status)
        change(path)
        return found

    real = os.fstat
    monkeypatch.setattr(reading.os, "fstat", look)
    damaged = "json.syntax" if kind == "profile" else "npz.damaged"
    refused(READERS[kind], path, damaged if change is shrink else "file.too-large")


@pytest.mark.parametrize("kind", SOUND)
def test_what_a_link_points_to_is_read_once(kind: str, nothing_stays: Path) -> None:
    """A link to a sound file is no attack; the file is read, and neither is changed."""
    target, link = nothing_stays / "mine", nothing_stays / "link"
    target.write_bytes(SOUND[kind])
    target.chmod(0o444)
    link.symlink_to("mine")
    READERS[kind](link)
    assert link.is_symlink() and target.read_bytes() == SOUND[kind]
    assert stat.S_IMODE(target.stat().st_mode) == 0o444
