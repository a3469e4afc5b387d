"""The floor under the app and its API: an `Ask` in, plain picklable events and files out.

`import spaces` comes first: on ZeroGPU it must precede everything that touches CUDA. Elsewhere `spaces.GPU`
changes nothing.
"""

from __future__ import annotations

import spaces  # isort: skip

import logging
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from sencache import comparison
from sencache.devices import device_name
from sencache.errors import SencacheError
from sencache.models.model import Model, load
from sencache.report import Lane, Report
from sencache.saving import Saving, settled
from sencache.service.aot import compile_blocks, load_blocks
from sencache.service.ask import Ask, Understood, understand
from sencache.service.bridge import Thread, in_thread
from sencache.service.deliver import PROFILE_NAME, pack, snippets
from sencache.service.failures import cut_off, explain
from sencache.service.figures import seconds_of
from sencache.service.opening import sample
from sencache.service.pace import Estimate, Paces
from sencache.service.space import ahead_of_time, longest_seconds, offered_model, on_zerogpu

Event = dict[str, Any]

BEAT_SECONDS = 0.1
# What a Space may use of a GPU while it starts.
AOT_SECONDS = 1500
# Of a reservation, for the last video to be encoded and for everything to cross.
MARGIN_SECONDS = 3.0

log = logging.getLogger(__name__)
_loading = threading.Lock()


def devices() -> tuple[str, ...]:
    """Where models run: `SENCACHE_DEVICE`, several separated by commas; else all GPUs of the first one's
    kind, but for ZeroGPU, which lends one; else the CPU.
    """
    if named := os.environ.get("SENCACHE_DEVICE"):
        return tuple(named.split(","))
    if not torch.cuda.is_available():
        return ("cpu",)
    if on_zerogpu():
        return ("cuda",)
    every = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return tuple(gpu for gpu in every if device_name(gpu) == device_name(every[0]))


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
        yield from _events(understand(ask), Path(job["folder"]), _deadline(job, begun))
    except SencacheError as error:
        yield {"kind": "error", "message": str(error)}
    except Exception as error:
        log.exception("a comparison failed")
        yield {"kind": "error", "message": explain(error, ask)}


def _deadline(job: dict[str, Any], begun: float) -> comparison.Deadline | None:
    """On ZeroGPU a call that began at `begun` ends when its reservation does; elsewhere nothing ends it."""
    if not on_zerogpu():
        return None
    return comparison.Deadline(begun + job["reserved"] - MARGIN_SECONDS, job["ending"])


def _events(
    asked: Understood, folder: Path, deadline: comparison.Deadline | None
) -> Generator[Event, None, None]:
    loaded, *copies = models(asked.spec.key)
    events = comparison.compare(loaded, asked.request, asked.lanes, asked.profile, copies, deadline)
    with Saving(folder, asked.spec.fps, beside=loaded.device.type != "cpu") as saving, closing(events):
        for event in events:
            saving.take(event)
            yield _plain(event)


def _plain(event: comparison.Event) -> Event:
    match event:
        case comparison.Started(lanes=lanes):
            return {"kind": "started", "lanes": list(lanes)}
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


def _followed(events: Iterator[Event | None]) -> Generator[Event, None, _Seen]:
    """Hand on the events of a run, to its very end."""
    seen = _Seen()
    try:
        for event in events:
            if event is None:
                yield {"kind": "wait"}
                continue
            seen.seconds = event["seconds"]
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
        self._paces = Paces()
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
        estimate = self._paces.estimate(understand(ask), torch.device(devices()[0]).type)
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
        traces.csv and comparison.zip, `profile` as JSON text, `snippets` of code by lane, and `missing`,
        sentences about the lanes that did not end, whatever cut the run off; the folder is gone when the
        iterator ends. Closing stops the run after the step it is in. Where not even the full run ended,
        raises SencacheError with one sentence, or what cut it off.
        """
        asked, estimate = understand(ask), self.estimate(ask)
        folder = Path(tempfile.mkdtemp(prefix="sencache-"))
        job = {
            "ask": ask.model_dump(mode="json"),
            "folder": str(folder),
            "reserved": estimate.reserved,
            "ending": seconds_of((asked.spec.key, "cuda"), asked.request, [(0.0, 0.0)]),
        }
        try:
            events = in_thread(lambda thread: self._take_turns(thread, job), BEAT_SECONDS)
            seen = yield from _followed(events)
            report = settled(folder, seen.taken, cut_off(seen.error))
            if report is None:
                assert seen.error is not None
                raise seen.error
            yield self._done(asked, ask, folder, report, seen.seconds)
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

    def _done(self, asked: Understood, ask: Ask, folder: Path, report: Report, seconds: float) -> Event:
        if not report.unfinished:
            self._paces.learn(report, seconds)
        if ask.profile_json is not None:
            (folder / PROFILE_NAME).write_text(ask.profile_json, encoding="utf-8")
        pack(report, folder, folder)
        code = snippets(report, asked.profile)
        profile = asked.profile.to_json() if asked.profile else None
        return {
            "kind": "done",
            "folder": str(folder),
            "snippets": code,
            "profile": profile,
            "missing": [str(one) for one in report.unfinished],
            "seconds": seconds,
        }
