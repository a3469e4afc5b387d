"""Files appear whole or not at all, whatever happens on the way and whoever else writes."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from sencache.errors import SencacheError
from sencache.files import atomic, stage, whole_folder

FAILURES = [RuntimeError, KeyboardInterrupt]
Writer = Callable[[Path], AbstractContextManager[Path]]


def tree(folder: Path) -> dict[str, str | None]:
    """Every path below `folder`, with the text of files."""
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else None
        for path in folder.rglob("*")
    }


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write(
    writer: AbstractContextManager[Path], *names: str, failure: type[BaseException] | None = None
) -> None:
    """Write the file, or the files called `names` in the folder; at the end, fail."""
    with writer as place:
        for path in [place / name for name in names] if place.is_dir() else [place]:
            path.parent.mkdir(exist_ok=True)
            path.write_text("half")
        if failure:
            raise failure


def give_up(
    writer: AbstractContextManager[Path], failure: type[BaseException] = RuntimeError, *names: str
) -> None:
    with pytest.raises(failure):
        write(writer, *names, failure=failure)


def enter(writer: AbstractContextManager[Path]) -> None:
    with writer:
        pytest.fail("the place was taken")


# ---- atomic


def test_atomic_shows_nothing_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("old")
    with atomic(str(path)) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path and temporary.name.startswith(".")
        assert temporary.suffix == ".mp4"
    assert tree(tmp_path) == {"a.mp4": "new"}


@pytest.mark.parametrize("failure", FAILURES)
def test_atomic_leaves_everything_as_it_was(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o600)
    give_up(atomic(path), failure)
    give_up(atomic(tmp_path / "b" / "c" / "d.txt"), failure)
    assert tree(tmp_path) == {"a.txt": "old"} and mode(path) == 0o600


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_atomic_files_can_be_read_by_others(tmp_path: Path) -> None:
    """Not only by their owner, as a temporary file is; missing folders are made."""
    before = os.umask(0o077)
    try:
        with atomic(tmp_path / "a" / "b.txt") as temporary:
            assert mode(temporary) == 0o600
    finally:
        os.umask(before)
    assert mode(tmp_path / "a" / "b.txt") == 0o644


def test_atomic_refuses_a_place_that_is_none_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "out").mkdir()
    with pytest.raises(SencacheError, match=r"cannot write .*a\.txt \(.+\); choose a writable folder"):
        enter(atomic(tmp_path / "file" / "a.txt"))
    with pytest.raises(SencacheError, match=r"cannot write .*out \(it is a folder\)"):
        enter(atomic(tmp_path / "out"))
    assert tree(tmp_path) == {"file": "mine", "out": None}


def test_atomic_readers_see_one_writer_or_the_other(tmp_path: Path) -> None:
    path, size, done = tmp_path / "a.txt", 200_000, threading.Event()
    path.write_text("a" * size)

    def fill(letter: str) -> None:
        for _ in range(20):
            with atomic(path) as temporary, temporary.open("w") as file:
                for _ in range(4):
                    file.write(letter * (size // 4))
                    file.flush()

    def read() -> set[str]:
        seen = set()
        while not done.is_set():
            text = path.read_text()
            seen.add(f"{text[:1]} {len(text)} {len(set(text))}")
        return seen

    with ThreadPoolExecutor(3) as pool:
        seen = pool.submit(read)
        for writer in [pool.submit(fill, letter) for letter in "ab"]:
            writer.result()
        done.set()
    assert seen.result() <= {f"a {size} 1", f"b {size} 1"}
    assert set(tree(tmp_path)) == {"a.txt"}


# ---- staged


def test_staged_shows_nothing_before_the_end(tmp_path: Path) -> None:
    """Then it moves all files up, and keeps what it does not replace."""
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with stage(tmp_path) as folder:
        (folder / "a.txt").write_text("new")
        (folder / "b.txt").write_text("new")
        assert folder.parent == tmp_path and folder.name.startswith(".")
        assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "mine", folder.name}
        assert (tmp_path / "a.txt").read_text() == "old"
    assert tree(tmp_path) == {"a.txt": "new", "b.txt": "new", "mine": None, "mine/notes.txt": "mine"}


@pytest.mark.parametrize("failure", FAILURES)
def test_staged_leaves_everything_as_it_was(tmp_path: Path, failure: type[BaseException]) -> None:
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "empty").mkdir()
    give_up(stage(tmp_path), failure, "a.txt", "deep/b.txt")
    give_up(stage(tmp_path / "empty"), failure)
    give_up(stage(tmp_path / "a" / "b" / "c"), failure, "a.txt")
    assert tree(tmp_path) == {"a.txt": "old", "empty": None}


def test_staged_keeps_a_folder_that_somebody_else_uses_by_now(tmp_path: Path) -> None:
    give_up(stage(tmp_path / "out"), RuntimeError, "a.txt", "../theirs.txt")
    assert tree(tmp_path) == {"out": None, "out/theirs.txt": "half"}


@pytest.mark.parametrize("out", ["file", "file/deep/out"])
def test_staged_refuses_a_place_that_is_none_before_any_work(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SencacheError, match=r"cannot write .*file.* \(.+\); choose a writable folder"):
        enter(stage(tmp_path / out))
    assert tree(tmp_path) == {"file": "mine"}


def test_two_writers_of_one_folder_do_not_meet(tmp_path: Path) -> None:
    both_inside = threading.Barrier(2)

    def meet(name: str) -> None:
        with stage(tmp_path / "out") as folder:
            both_inside.wait(timeout=10)
            (folder / f"{name}.txt").write_text(name)
            (folder / "report.json").write_text(name)
            give_up(stage(tmp_path / "out"), RuntimeError, "lost.txt")
            both_inside.wait(timeout=10)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(meet, "ab"))
    found = tree(tmp_path / "out")
    assert found.pop("report.json") in {"a", "b"}
    assert found == {"a.txt": "a", "b.txt": "b"}


def test_staged_replaces_all_files_or_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "b.txt").mkdir()
    with pytest.raises(SencacheError, match=r"cannot write .*b\.txt \(it is a folder\)"):
        write(stage(tmp_path), "a.txt", "b.txt")
    assert tree(tmp_path) == {"a.txt": "old", "b.txt": None}


# ---- all of them


@pytest.mark.parametrize("writer", [stage, atomic, whole_folder])
def test_a_place_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Writer
) -> None:
    with pytest.raises(SencacheError, match="cannot write"):
        enter(writer(tmp_path / ("x" * 300) / "y"))

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    # By the system itself, because the superuser may write everywhere.
    monkeypatch.setattr(tempfile, "mkdtemp", deny)
    monkeypatch.setattr(tempfile, "mkstemp", deny)
    with pytest.raises(SencacheError, match=r"cannot write .*out \(Permission denied\); choose a writable"):
        enter(writer(tmp_path / "new" / "out"))
    assert tree(tmp_path) == {}
