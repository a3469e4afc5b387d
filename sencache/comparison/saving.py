"""The folder of one comparison: every lane's video and record are there as soon as the lane has ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from sencache.comparison.events import Compared, Event, LaneDone, LaneStarted, LaneStopped, Ledger
from sencache.comparison.report import REPORT_NAME, UNDER_WAY, Report, load_report, write_report
from sencache.video import safe_name, write_mp4


class Saving:
    """Within its block, takes the events of a comparison. Whenever a lane has ended, `folder` gets its video
    and then a report of all lanes so far, which verifies and names those that are missing.

    With `beside` that is done in a thread while the comparison goes on, which is for GPUs; else in place,
    where a CPU's lanes stand still and no clock runs. What goes wrong is raised by the next call of `take`,
    or by that with the last event, when everything is on the disk. A block that ends by an error waits for
    what it was given; one whose reader has gone does not.
    """

    def __init__(self, folder: Path, fps: int, beside: bool) -> None:
        self.folder, self.fps = folder, fps
        self.ledger = Ledger()
        self._thread = ThreadPoolExecutor(1) if beside else None
        self._given: list[Future[None]] = []

    def take(self, event: Event) -> None:
        """Follow one event; raises SencacheError when the disk is full, or frames cannot be encoded."""
        match event:
            case LaneDone():
                self._do(partial(self._add, event))
            case Compared():
                self._do(self._write)
            case LaneStarted() | LaneStopped():
                self.ledger.take(event)
                self._do(self._write)
            case _:
                self.ledger.take(event)
        while self._given and (isinstance(event, Compared) or self._given[0].done()):
            self._given.pop(0).result()

    def _do(self, work: Callable[[], None]) -> None:
        if self._thread is None:
            work()
        else:
            self._given.append(self._thread.submit(work))

    def _add(self, done: LaneDone) -> None:
        video = f"{safe_name(done.lane.name)}.mp4"
        write_mp4(self.folder / video, done.frames, self.fps)
        self.ledger.take(LaneDone(done.lane.model_copy(update={"video": video})))
        self._write()

    def _write(self) -> None:
        if self.ledger.done:
            write_report(self.ledger.report(), self.folder / REPORT_NAME)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=kind is GeneratorExit)


def final_report(folder: Path, taken: Mapping[str, int], why: str) -> Report | None:
    """The report of what a comparison that was cut off left in `folder`; None if no lane had ended.

    It says `why` the other lanes are missing, and how many steps they had `taken`. Nothing else than what it
    names stays in `folder`.
    """
    path = folder / REPORT_NAME
    if not path.exists():
        return None
    report = load_report(path)
    unfinished = []
    for one in report.unfinished:
        reason = why if one.why == UNDER_WAY else one.why
        unfinished.append(one.model_copy(update={"taken": taken.get(one.name, 0), "why": reason}))
    report = report.model_copy(update={"unfinished": tuple(unfinished)}).seal()
    write_report(report, path)
    named = {REPORT_NAME, *(lane.video for lane in report.lanes)}
    for left_over in (file for file in folder.iterdir() if file.name not in named):
        left_over.unlink()
    return report
