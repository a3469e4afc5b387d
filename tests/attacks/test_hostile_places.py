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


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def below_a_file(path: Path) -> None:
    path.parent.joinpath("file").write_bytes(SOUND_PROFILE)
    path.symlink_to("file/theirs")


PLACES = {
    "a pipe": (fifo, "file.not-regular"),
    "a socket": (bound_socket, "file.unreadable"),
    "a folder": (Path.mkdir, "file.unreadable"),
    "a link to itself": (loop, "file.unreadable"),
    "a link to nowhere": (dangling, "file.unreadable"),
    "a link to below a file": (below_a_file, "file.unreadable"),
    **{
        f"a link to {device}": (lambda path, device=device: path.symlink_to(device), "file.not-regular")
        for device in ("/dev/zero", "/dev/null", "/dev/urandom", "/dev/full", "/dev/tty")
        if Path(device).exists()
    },
}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_is_refused_at_once(place: str, read: Reader, nothing_stays: Path) -> None:
    make, code = PLACES[place]
    path = nothing_stays / "theirs"
    make(path)
    before = {name: name.lstat().st_mode for name in nothing_stays.iterdir()}
    try:
        refused(read, path, code)
    except AssertionError:
        # Where there is no terminal, /dev/tty cannot even be opened.
        assert place == "a link to /dev/tty"
        refused(read, path, "file.unreadable")
    assert {name: name.lstat().st_mode for name in nothing_stays.iterdir()} == before


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "/", "nowhere", "no/where", "x" * 5000, "a\x00b", "\ud800", "~", "C:\\x", "/dev/fd/9999"],
    ids=repr,
)
def test_no_such_file(path: str, read: Reader) -> None:
    refused(read, path, "file.unreadable")


def test_a_pipe_that_somebody_writes_to_is_refused(read: Reader, nothing_stays: Path) -> None:
    path = nothing_stays / "pipe"
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR)
    try:
        os.write(end, SOUND_PROFILE[:4000])
        refused(read, path, "file.not-regular")
    finally:
        os.close(end)


def test_an_open_pipe_by_its_number_is_refused(read: Reader) -> None:
    out, into = os.pipe()
    try:
        os.write(into, SOUND_PROFILE[:4000])
        refused(read, f"/dev/fd/{out}", "file.not-regular")
    finally:
        os.close(out)
        os.close(into)


@pytest.mark.parametrize("size", [10**9, 10**12])
def test_a_file_of_terabytes_is_refused_unread(size: int, read: Reader, nothing_stays: Path) -> None:
    """Sparse: it takes no space, and reading it would never end."""
    path = nothing_stays / "huge"
    with path.open("wb") as file:
        file.truncate(size)
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


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize("grown", ["sound", "zeros"])
def test_a_file_that_grows_while_it_is_read(
    grown: str, kind: str, nothing_stays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at its size and the reading of its content."""
    path = nothing_stays / "growing"
    path.write_bytes(SOUND[kind])

    def grow(status: int) -> os.stat_result:
        found = real(status)
        with path.open("ab") as file:
            file.write(SOUND[kind] * 5000 if grown == "sound" else bytes(9_000_000))
        return found

    real = os.fstat
    monkeypatch.setattr(reading.os, "fstat", grow)
    refused(READERS[kind], path, "file.too-large")


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize("kept", [0, 1, 1000])
def test_a_file_that_shrinks_while_it_is_read(
    kept: int, kind: str, nothing_stays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = nothing_stays / "shrinking"
    path.write_bytes(SOUND[kind])

    def shrink(status: int) -> os.stat_result:
        found = real(status)
        os.truncate(path, kept)
        return found

    real = os.fstat
    monkeypatch.setattr(reading.os, "fstat", shrink)
    refused(READERS[kind], path, "json.syntax" if kind == "profile" else "npz.damaged")


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
