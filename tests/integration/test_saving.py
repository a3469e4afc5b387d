"""A comparison that is cut off: what had ended is there, whole, and says what is missing."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sencache import video
from sencache.comparison.compare import Compared, Deadline, Event, LaneDone, LaneStopped, StepDone, compare
from sencache.comparison.plan import parse_lanes
from sencache.comparison.report import REPORT_NAME, UNDER_WAY, Report, load_report
from sencache.comparison.saving import Saving, final_report
from sencache.comparison.verify import verify
from sencache.errors import SencacheError
from sencache.models.model import Model
from sencache.schema import Request
from sencache.video import read_mp4

REQUEST = Request(prompt="a red circle", steps=6, height=32, width=32, frames=5, guidance_scale=4.0, nfe=4)
LANES = parse_lanes("fixed,control,fewer-steps")
NAMES = ["none", "fixed", "control", "fewer-steps"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def events(tiny_wan: Model) -> list[Event]:
    return list(compare(tiny_wan, REQUEST, LANES))


def whole(folder: Path) -> Report:
    """The report in `folder`, which holds, and every lane's video beside it."""
    report = load_report(folder / REPORT_NAME)
    assert verify(report) == []
    for lane in report.lanes:
        assert lane.video is not None
        assert len(read_mp4(folder / lane.video)) == REQUEST.frames
    return report


def ended(report: Report) -> set[str]:
    return {lane.name for lane in report.lanes}


@pytest.mark.parametrize("beside", [False, True], ids=["in place", "in a thread"])
def test_after_every_lane_the_folder_holds_all_that_have_ended(
    events: list[Event], tmp_path: Path, beside: bool
) -> None:
    done: set[str] = set()
    with Saving(tmp_path, 8, beside) as saving:
        for event in events:
            saving.take(event)
            if isinstance(event, LaneDone):
                done.add(event.lane.name)
                for future in saving._given:
                    future.exception()
                report = whole(tmp_path)
                assert ended(report) == done
                assert {one.name for one in report.unfinished} == set(NAMES) - done
                assert all(one.why == UNDER_WAY for one in report.unfinished)
    complete = events[-1]
    assert isinstance(complete, Compared)
    report = whole(tmp_path)
    assert [lane.name for lane in report.lanes] == NAMES and "unfinished" not in report.to_json()
    videos = {lane.name: lane.video for lane in report.lanes}
    told = [lane.model_copy(update={"video": videos[lane.name]}) for lane in complete.report.lanes]
    assert [lane.model_dump_json() for lane in told] == [lane.model_dump_json() for lane in report.lanes]
    assert {path.name for path in tmp_path.iterdir()} == {REPORT_NAME, *videos.values()}


@pytest.mark.parametrize(("lanes", "beside"), [(0, True), (1, False), (2, True), (3, False), (4, True)])
def test_an_error_after_any_lane_leaves_what_had_ended(
    events: list[Event], tmp_path: Path, beside: bool, lanes: int
) -> None:
    """Three steps after the lane has ended, or right at its end where no more are taken."""
    at = [0, *(index for index, event in enumerate(events) if isinstance(event, LaneDone))][lanes]
    cut = events[: min(at + 4, len(events) - 1)]
    saving = Saving(tmp_path, 8, beside)
    with suppress(MemoryError), saving:
        for event in cut:
            saving.take(event)
        raise MemoryError
    taken = {name: sum(isinstance(e, StepDone) and e.lane == name for e in cut) for name in NAMES}
    finished = {event.lane.name for event in cut if isinstance(event, LaneDone)}
    if finished:
        # As a kill leaves it: what is written is whole under its name, or hidden.
        (tmp_path / ".half.partial.mp4").write_bytes(b"half of it")
    report = final_report(tmp_path, saving.ledger.taken, "memory ran out")
    if report is None:
        assert not finished and list(tmp_path.iterdir()) == []
        return
    assert report == whole(tmp_path) and ended(report) == finished
    assert {path.name for path in tmp_path.iterdir()} == {REPORT_NAME, *(lane.video for lane in report.lanes)}
    assert [(one.name, one.taken, one.why) for one in report.unfinished] == [
        (name, taken[name], "memory ran out") for name in NAMES if name not in finished
    ]


@pytest.mark.parametrize(("what", "beside"), [("video", True), ("report", False)])
def test_a_full_disk_is_one_sentence_and_leaves_what_was_whole(
    events: list[Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool, what: str
) -> None:
    """The second lane finds the disk full, within the bytes that it writes."""
    lanes, (owner, name) = 0, {"video": (video, "run_ffmpeg"), "report": (Path, "write_text")}[what]
    write = getattr(owner, name)

    def full(first: Any, *given: Any, **named: Any) -> Any:
        if lanes < 2:
            return write(first, *given, **named)
        # ffmpeg names its target last.
        (first if isinstance(first, Path) else Path(first[-1])).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(owner, name, full)
    told = pytest.raises(SencacheError, match=r"could not be written.*space")
    with told as raised, Saving(tmp_path, 8, beside) as saving:
        for event in events:
            lanes += isinstance(event, LaneDone)
            saving.take(event)
            for future in saving._given:
                future.exception()
    assert "\n" not in str(raised.value)
    monkeypatch.undo()
    report = final_report(tmp_path, {}, str(raised.value))
    assert report == whole(tmp_path) and ended(report) == {"none"}
    assert {path.name for path in tmp_path.iterdir()} == {REPORT_NAME, "none.mp4"}


def test_only_the_full_runs_frames_are_kept(tiny_wan: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """In floats, as they were decoded; besides them there are those of the lane that ends."""
    made: list[Any] = []
    generate = tiny_wan.generate

    def noted(*given: Any) -> Any:
        frames = generate(*given)
        made.append(weakref.ref(frames))
        return frames

    monkeypatch.setattr(tiny_wan, "generate", noted)
    alive = []
    for event in compare(tiny_wan, REQUEST, LANES):
        if isinstance(event, LaneDone):
            assert event.frames.dtype == np.uint8
            alive.append(sum(frames() is not None for frames in made))
    assert alive == [1, 2, 2, 2]
    assert [frames() for frames in made] == [None] * 4


# ---- a deadline


def cut_short(model: Model, left: float, ending: float, **changes: Any) -> Iterator[Event]:
    """With `left` seconds, of which the end of each lane is expected to take `ending`."""
    request = REQUEST.model_copy(update=changes)
    return compare(model, request, LANES, deadline=Deadline(time.monotonic() + left, ending))


def test_without_a_budget_lanes_are_stopped_under_way(tiny_wan: Model) -> None:
    """Three ends fit, of four: the last caching lane goes at once, and the rest is as ever."""
    events = list(cut_short(tiny_wan, 3.5e6, 1e6, nfe=None))
    (stopped,) = (event for event in events if isinstance(event, LaneStopped))
    assert stopped.lane == "control"
    report = events[-1].report  # type: ignore[union-attr]
    assert verify(report) == []
    (one,) = report.unfinished
    assert (one.name, one.method, one.steps) == ("control", "control", 6) and 0 < one.taken < 6
    assert "s were left for about" in one.why and str(one) == (
        f"control is missing, after {one.taken} of 6 steps: {one.why}"
    )
    alone = list(compare(tiny_wan, REQUEST.model_copy(update={"nfe": None}), LANES))
    done = [{e.lane.name: e.frames for e in told if isinstance(e, LaneDone)} for told in (events, alone)]
    assert all(np.array_equal(frames, done[1][name]) for name, frames in done[0].items())


def test_where_only_the_full_run_fits_it_is_the_report(tiny_wan: Model) -> None:
    report = list(cut_short(tiny_wan, 1.5e6, 1e6, nfe=None))[-1].report  # type: ignore[union-attr]
    assert ([lane.name for lane in report.lanes], verify(report)) == (["none"], [])
    assert [one.name for one in report.unfinished] == NAMES[1:]
    assert report.unfinished[-1].taken == 0, "fewer-steps had not begun"
    with pytest.raises(SencacheError, match=r"the full run alone needs about .* choose fewer steps"):
        list(cut_short(tiny_wan, 1.0, 1e6))


def test_with_a_budget_lanes_that_do_not_fit_never_begin(tiny_wan: Model) -> None:
    """Where the time has run out by the end of the full run."""
    late, told = Deadline(time.monotonic() + 1e6, 0.0), list[Event]()
    for event in compare(tiny_wan, REQUEST, LANES, deadline=late):
        told.append(event)
        if isinstance(event, LaneDone):
            object.__setattr__(late, "at", 0.0)
    assert {e.lane for e in told if isinstance(e, StepDone)} == {"none"}
    assert [e.lane for e in told if isinstance(e, LaneStopped)] == ["control", "fixed", "fewer-steps"]
