"""Where nothing can be written, and after an interrupt, nothing is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import LONG, Program, assert_one_line, compare_small, tree, written
from diffusers import UniPCMultistepScheduler

from sencache.cli.tables import LaneProgress
from sencache.comparison.report import load_report
from sencache.errors import SencacheError
from sencache.trace import StepRecord

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- places that cannot be written


@pytest.mark.usefixtures("no_work")
def test_a_folder_below_a_file_is_refused_before_any_work(run: Program, tmp_path: Path) -> None:
    file = written(tmp_path / "file", "mine")
    for out in (file, file / "out"):
        assert_one_line(compare_small(run, out), f"cannot write {out}")
    assert file.read_text() == "mine" and tree(tmp_path) == {"file"}


def test_a_name_too_long_is_refused(run: Program, tmp_path: Path) -> None:
    assert_one_line(compare_small(run, tmp_path / LONG), "cannot write")
    assert_one_line(run("calibrate", "--out", tmp_path / LONG), "cannot write")
    assert_one_line(run("profiles", "show", LONG), "no bundled profile")
    assert_one_line(run("profiles", "validate", LONG), "cannot read profile")
    assert_one_line(run("verify", LONG), "cannot read report")


def test_a_refusal_removes_all_folders_made_on_the_way_and_no_other(run: Program, tmp_path: Path) -> None:
    assert compare_small(run, tmp_path / "a" / "b" / "c", "--methods", "fixed:interval=0").code == 2
    assert tree(tmp_path) == set()
    written(tmp_path / "report.json", "mine")
    assert compare_small(run, tmp_path, "--methods", "fixed:interval=0").code == 2
    assert tree(tmp_path) == {"report.json"}
    assert (tmp_path / "report.json").read_text() == "mine"


# ---- interrupted


@pytest.mark.parametrize("place", ["lane", "consumer"])
def test_an_interrupt_leaves_nothing(
    run: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    if place == "lane":
        monkeypatch.setattr(UniPCMultistepScheduler, "step", interrupt)
    else:
        monkeypatch.setattr("sencache.cli.tables.LaneProgress.step", interrupt)
    answer = compare_small(run, tmp_path / "out")
    assert answer.code not in (0, 2)
    assert answer.out == "" and "Traceback" not in answer.err
    assert tree(tmp_path) == set()


FULL = "the disk is full; free some space"


@pytest.mark.parametrize(
    ("error", "code", "why"),
    [(KeyboardInterrupt(), 130, "it was cut off by KeyboardInterrupt"), (SencacheError(FULL), 2, FULL)],
    ids=["Ctrl-C", "error"],
)
def test_lanes_that_had_ended_are_kept(
    run: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, why: str
) -> None:
    """With a report that holds and says what is missing."""
    step = LaneProgress.step

    def cut(progress: LaneProgress, lane: str, record: StepRecord) -> None:
        step(progress, lane, record)
        if lane == "fewer-steps":
            raise error

    monkeypatch.setattr(LaneProgress, "step", cut)
    written(tmp_path / "mine", "mine")
    answer = compare_small(run, tmp_path)
    assert (answer.code, answer.out) == (code, "")
    sentence = f"cut off; report and videos of the lanes that had ended are in {tmp_path}: none, fixed\n"
    assert sentence in answer.err and ("error: the disk is full" in answer.err) == (code == 2)
    assert tree(tmp_path) == {"mine", "report.json", "none.mp4", "fixed.mp4"}
    assert run("verify", str(tmp_path / "report.json")).code == 0
    (missing,) = load_report(tmp_path / "report.json").unfinished
    assert str(missing) == f"fewer-steps is missing, after 1 of 2 steps: {why}"
