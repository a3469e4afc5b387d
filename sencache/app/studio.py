"""The floor under the app and its API: an `Ask` in, plain picklable events and files out.

`import spaces` comes first: on ZeroGPU it must precede everything that touches CUDA. Elsewhere `spaces.GPU`
changes nothing.
"""

from __future__ import annotations

import spaces  # isort: skip

import logging
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from sencache.app.aot import compile_blocks, load_blocks
from sencache.app.ask import Ask, Understood, understand
from sencache.app.bridge import Thread, in_thread
from sencache.app.deliver import pack, profile_files, snippets, walked
from sencache.app.failures import cut_off, explain
from sencache.app.opening import sample
from sencache.app.pace import Estimate, Listener, Pace
from sencache.app.seconds import Costs
from sencache.app.space import (
    ahead_of_time,
    devices,
    longest_seconds,
    named_device,
    offered_model,
)
from sencache.comparison import compare as comparison
from sencache.comparison.report import Lane, Report
from sencache.comparison.saving import Saving, settled
from sencache.errors import SencacheError
from sencache.models.model import Model, load
from sencache.models.zerogpu import on_zerogpu
from sencache.profiles.profile import write_profile

Event = dict[str, Any]

BEAT_SECONDS = 0.1
# What a Space may use of a GPU while it starts.
AOT_SECONDS = 1500
# Of a reservation, for the last video to be encoded and for everything to cross.
MARGIN_SECONDS = 3.0

log = logging.getLogger(__name__)
_loading = threading.Lock()


def models(key: str) -> tuple[Model, ...]:
    """The model `key` on every device, each loaded once per process."""
    with _loading:
        return tuple(_loaded(key, one) for one in devices())


def model(key: str) -> Model:
    """The model `key` on the first device."""
    return models(key)[0]


@spaces.GPU(duration=AOT_SECONDS)  # type: ignore[untyped-decorator]
def _compile(key: str, folder: str) -> Any:
    """Blocks of the model `key` for a first run's shapes into `folder`; their layout."""
    loaded, request = model(key), sample(offered_model(key))
    encoded = loaded.encode(request.prompt, "", request.guidance_scale)
    return compile_blocks(
        loaded.pipe.transformer, lambda: loaded.generate(loaded.pipe, encoded, request), Path(folder)
    )


@cache
def _loaded(key: str, on: str) -> Model:
    return load(offered_model(key), on)


def reserved_seconds(job: dict[str, Any]) -> int:
    """Seconds of GPU to reserve for `job`; a pure function of it."""
    return int(job["reserved"])


@spaces.GPU(duration=reserved_seconds)  # type: ignore[untyped-decorator]
def _on_device(job: dict[str, Any]) -> Generator[Event, None, None]:
    """The whole comparison in one call, so that it is one reservation. Everything that crosses is plain.

    What goes wrong crosses as an event too: ZeroGPU would reduce any other error to its class's name.
    """
    ask, begun = Ask.model_validate(job["ask"]), time.monotonic()
    try:
        asked = understand(ask)
        yield from _events(asked, Path(job["folder"]), _deadline(job, begun))
    except SencacheError as error:
        yield {"kind": "error", "message": str(error)}
    except Exception as error:
        log.exception("a comparison failed")
        yield {"kind": "error", "message": explain(error, ask)}


def _deadline(job: dict[str, Any], begun: float) -> comparison.Deadline | None:
    """On ZeroGPU what is reserved for the call ends, whatever is under way; elsewhere nothing does.

    Weights may have been moved to the card, on reserved seconds, before the call began.
    """
    if not on_zerogpu():
        return None
    costs = Costs(**job["costs"])
    return comparison.Deadline(begun + job["reserved"] - costs.start - MARGIN_SECONDS, costs.rest)


def _events(
    asked: Understood, folder: Path, deadline: comparison.Deadline | None
) -> Generator[Event, None, None]:
    loaded, *copies = models(asked.spec.key)
    events = comparison.compare(loaded, asked.request, asked.lanes, asked.profiles, copies, deadline)
    with Saving(folder, asked.spec.fps, beside=loaded.device.type != "cpu") as saving, closing(events):
        for event in events:
            saving.take(event)
            yield _plain(event)


def _plain(event: comparison.Event) -> Event:
    match event:
        case comparison.Started(lanes=lanes, report=report):
            return {"kind": "started", "lanes": list(lanes), "device": report.model.gpu or "cpu"}
        case comparison.LaneStarted(lane=lane, method=method, config=config, steps=steps):
            return {"kind": "lane", "lane": lane, "method": method, "config": config, "steps": steps}
        case comparison.StepDone(lane=lane, record=record):
            return {"kind": "step", "lane": lane, "record": record.model_dump(mode="json")}
        case comparison.LaneStopped(lane=lane, why=why):
            return {"kind": "lane_stopped", "lane": lane, "why": why}
        case comparison.LaneDone(lane=done):
            return {"kind": "lane_done", "lane": done.name, "result": summary(done)}
        case comparison.Compared():
            return {"kind": "saved"}


def summary(lane: Lane) -> dict[str, Any]:
    """What a lane came to, without its steps and per-frame values."""
    return lane.model_dump(mode="json", exclude={"trace": True, "metrics": {"per_frame"}})


@dataclass
class _Seen:
    """What was seen of a run: the steps of every lane, its seconds, and what cut it off."""

    taken: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    error: Exception | None = None


def _followed(events: Iterator[Event | None], listener: Listener) -> Generator[Event, None, _Seen]:
    """Hand on the events of a run, to its very end; `listener` hears them too."""
    seen = _Seen()
    try:
        for event in events:
            if event is None:
                yield {"kind": "wait"}
                continue
            seen.seconds = event["seconds"]
            listener.hear(event)
            if event["kind"] == "step":
                seen.taken[event["lane"]] += 1
            if event["kind"] == "error":
                seen.error = SencacheError(event["message"])
            elif event["kind"] != "saved":
                yield event
    except Exception as error:
        log.warning("a comparison was cut off: %r", error)
        seen.error = error
    return seen


class Studio:
    """Runs comparisons for everyone who asks, one at a time on one device, and knows how long they take."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._longest = longest_seconds()
        self._device = threading.Lock()

    def warm(self, key: str = "tiny-wan") -> None:
        """Load a model before the first visitor comes; on ZeroGPU this is when weights must be placed, and
        when its blocks are compiled if the Space wants that.
        """
        loaded = model(key)
        transformer = loaded.pipe.transformer
        log.info("%s is on %s: %s", key, ", ".join(devices()), loaded.placement or "all parts in RAM")
        if ahead_of_time():
            folder = tempfile.mkdtemp(prefix="sencache-aot-")
            load_blocks(transformer, Path(folder), _compile(key, folder))

    def estimate(self, ask: Ask) -> Estimate:
        """How long `ask` is going to take; raises SencacheError where it could not run, or not in time."""
        estimate = self._pace.estimate(understand(ask), named_device())
        if estimate.seconds > self._longest:
            limit = f"{self._longest} s of " + ("one call" if on_zerogpu() else "SENCACHE_MAX_SECONDS")
            raise SencacheError(
                f"this would take about {estimate.seconds:.0f} s, more than the {limit}; "
                "choose fewer steps, a smaller size or fewer methods"
            )
        return estimate

    def run(self, ask: Ask) -> Iterator[Event]:
        """The comparison as events: `started`, `lane`, `step`, `lane_done` or `lane_stopped`, and last
        `done`; `wait` whenever nothing came for a tenth of a second.

        Every event is a dict of plain values. `done` holds `folder` with report.json, one mp4 per lane,
        traces.csv and comparison.zip, as JSON text the `profile` that SenCache used, `snippets` of code by
        lane, and `missing`, sentences about the lanes that did not end, whatever cut the run off; the folder
        is gone when the iterator ends. Closing stops the run after the step it is in. Where not even the full
        run ended, raises SencacheError with one sentence, or what cut it off.
        """
        asked, estimate = understand(ask), self.estimate(ask)
        folder = Path(tempfile.mkdtemp(prefix="sencache-"))
        job = {
            "ask": ask.model_dump(mode="json"),
            "folder": str(folder),
            "reserved": estimate.reserved,
            "costs": asdict(estimate.costs),
        }
        listener = self._pace.listen(asked, named_device())
        try:
            events = in_thread(lambda thread: self._take_turns(thread, job), BEAT_SECONDS)
            seen = yield from _followed(events, listener)
            report = settled(folder, seen.taken, cut_off(seen.error))
            if report is None:
                assert seen.error is not None
                raise seen.error
            yield self._done(asked, folder, report, seen.seconds)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _take_turns(self, thread: Thread[Event], job: dict[str, Any]) -> Generator[Event, None, None]:
        """The job's events, once the device is free; a folder whose reader has gone is removed here."""
        thread.pause(self._device)
        begun = time.perf_counter()
        events = _on_device(job)
        try:
            for event in events:
                yield event | {"seconds": time.perf_counter() - begun}
        finally:
            events.close()
            self._device.release()
            if thread.stop.is_set():
                shutil.rmtree(job["folder"], ignore_errors=True)

    def _done(self, asked: Understood, folder: Path, report: Report, seconds: float) -> Event:
        files, profile = profile_files(report, asked.profiles), walked(report, asked.profiles)
        for name, used in files.items():
            write_profile(used, folder / name)
        pack(report, folder, folder)
        return {
            "kind": "done",
            "folder": str(folder),
            "snippets": snippets(report, files),
            "profile": profile.to_json() if profile else None,
            "missing": [str(one) for one in report.unfinished],
            "seconds": seconds,
        }
