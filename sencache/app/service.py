"""The floor under the app and its API: a request in, a job planned once, its events and files out.

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
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import huggingface_hub.errors as hub
import torch

from sencache.app import space
from sencache.app.aot import compile_blocks, load_blocks
from sencache.app.deliver import pack, profile_files, sencache_profile, snippets
from sencache.app.events import Done, Event, Failed, Waiting
from sencache.app.request import ComparisonRequest, plan_request
from sencache.app.seconds import Estimate, Listener, Pace
from sencache.comparison import compare as comparison
from sencache.comparison.events import Ledger
from sencache.comparison.job import Job
from sencache.comparison.report import Report
from sencache.comparison.saving import Saving, final_report
from sencache.comparison.stepping import in_threads
from sencache.errors import SencacheError
from sencache.models.model import Model, load
from sencache.models.zerogpu import on_zerogpu
from sencache.profiles.profile import write_profile

BEAT_SECONDS = 0.1
# What a Space may use of a GPU while it starts.
AOT_SECONDS = 1500
# Of a reservation, for the last video to be encoded and for everything to cross.
MARGIN_SECONDS = 3.0
# Jobs kept for the click that follows the estimate, of as many visitors.
KEPT_JOBS = 16
NETWORK = (ConnectionError, TimeoutError, hub.HfHubHTTPError, hub.LocalEntryNotFoundError)

log = logging.getLogger(__name__)
_loading = threading.Lock()


def models(key: str) -> tuple[Model, ...]:
    with _loading:
        return tuple(_load(key, device) for device in space.devices())


@cache
def _load(key: str, device: str) -> Model:
    return load(space.offered_model(key), device)


def model(key: str) -> Model:
    return models(key)[0]


@spaces.GPU(duration=AOT_SECONDS)  # type: ignore[untyped-decorator]
def _compile(key: str, folder: str) -> Any:
    """Blocks of the model `key` for a first run's shapes into `folder`; their layout."""
    loaded, request = model(key), space.sample(space.offered_model(key))
    encoded = loaded.encode(request.prompt, "", request.guidance_scale)
    return compile_blocks(
        loaded.pipe.transformer, lambda: loaded.generate(loaded.pipe, encoded, request), Path(folder)
    )


@dataclass(frozen=True)
class Booking:
    """A job on its way to the device, and where its files go."""

    job: Job
    folder: Path
    estimate: Estimate

    def deadline(self, begun: float) -> comparison.Deadline | None:
        """On ZeroGPU what is reserved for the call ends, whatever is under way; elsewhere nothing does.

        Weights may have been moved to the card, on reserved seconds, before the call began.
        """
        if not on_zerogpu():
            return None
        left = self.estimate.reserved - self.estimate.costs.start - MARGIN_SECONDS
        return comparison.Deadline(begun + left, self.estimate.costs.rest)


@spaces.GPU(duration=attrgetter("estimate.reserved"))  # type: ignore[untyped-decorator]
def _on_device(booking: Booking) -> Generator[comparison.Event | Failed, None, None]:
    """The whole comparison in one call, so that it is one reservation. Everything that crosses is plain data,
    and no frames.

    What goes wrong crosses as an event too: ZeroGPU would reduce any other error to its class's name.
    """
    begun, job = time.monotonic(), booking.job
    try:
        loaded = models(job.spec.key)
        saving = Saving(booking.folder, job.spec.fps, beside=loaded[0].device.type != "cpu")
        with saving, closing(comparison.run_job(job, loaded, booking.deadline(begun))) as events:
            for event in events:
                saving.take(event)
                if isinstance(event, comparison.LaneDone):
                    event = comparison.LaneDone(event.lane)
                yield replace(event, seconds=time.monotonic() - begun)
    except SencacheError as error:
        yield Failed(str(error), seconds=time.monotonic() - begun)
    except Exception as error:
        log.exception("a comparison failed")
        yield Failed(_explain(error, job.spec.key), seconds=time.monotonic() - begun)


class ComparisonService:
    """Runs comparisons for everyone who asks, one at a time on one device, and knows how long they take."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._longest = space.longest_seconds()
        self._device = threading.Lock()
        self._planning = threading.Lock()
        self._jobs = lru_cache(KEPT_JOBS)(plan_request)

    def warm(self, key: str = "tiny-wan") -> None:
        """Load a model before the first visitor comes; on ZeroGPU this is when weights must be placed, and
        when its blocks are compiled if the Space wants that.
        """
        loaded = model(key)
        transformer = loaded.pipe.transformer
        log.info("%s is on %s: %s", key, ", ".join(space.devices()), loaded.placement or "all parts in RAM")
        if space.ahead_of_time():
            folder = tempfile.mkdtemp(prefix="sencache-aot-")
            load_blocks(transformer, Path(folder), _compile(key, folder))

    def job(self, asked: ComparisonRequest) -> Job:
        """The job that `asked` comes to, planned once for all who ask for it one after another: the estimate,
        the check before the queue, and the run. Raises SencacheError where it could not run.
        """
        with self._planning:
            return self._jobs(asked)

    def estimate(self, job: Job) -> Estimate:
        estimate = self._pace.estimate(job, space.timed_device())
        if estimate.seconds > self._longest:
            limit = f"{self._longest} s of " + ("one call" if on_zerogpu() else "SENCACHE_MAX_SECONDS")
            raise SencacheError(
                f"this would take about {estimate.seconds:.0f} s, more than the {limit}; "
                "choose fewer steps, a smaller size or fewer methods"
            )
        return estimate

    def run(self, job: Job) -> Iterator[Event]:
        """The comparison's events, the last of all `Done`; `Waiting` whenever nothing came for a tenth of a
        second.

        The folder in `Done` is gone when the iterator ends. Closing stops the run after the step it is in.
        Where not even the full run ended, raises SencacheError with one sentence, or what cut it off.
        """
        estimate, gone = self.estimate(job), threading.Event()
        folder = Path(tempfile.mkdtemp(prefix="sencache-"))
        booking = Booking(job, folder, estimate)
        ledger, listener = Ledger(), Listener(self._pace, job, space.timed_device())
        start, seconds = partial(self._when_free, booking, gone), 0.0
        failure: Exception | None = None
        try:
            try:
                with closing(in_threads([start], ahead=0, beat=BEAT_SECONDS, joins=False)) as events:
                    for event in events:
                        if event is None:
                            yield Waiting()
                            continue
                        seconds = event.seconds
                        if isinstance(event, Failed):
                            failure = SencacheError(event.message)
                            continue
                        ledger.take(event)
                        listener.hear(event)
                        if not isinstance(event, comparison.Compared):
                            yield event
            except Exception as error:
                log.warning("a comparison was cut off: %r", error)
                failure = error
            report = final_report(folder, ledger.taken, _why_cut_off(failure))
            if report is None:
                assert failure is not None
                raise failure
            yield _hand_over(job, folder, report, seconds)
        finally:
            gone.set()
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _when_free(
        self, booking: Booking, gone: threading.Event
    ) -> Iterator[Iterator[comparison.Event | Failed]]:
        """The booking's events, once the device is free; a folder whose reader has gone is removed here."""
        while not self._device.acquire(timeout=BEAT_SECONDS):
            if gone.is_set():
                yield iter(())
                return
        try:
            with closing(_on_device(booking)) as events:
                yield events
        finally:
            self._device.release()
            if gone.is_set():
                shutil.rmtree(booking.folder, ignore_errors=True)


def _hand_over(job: Job, folder: Path, report: Report, seconds: float) -> Done:
    files, profile = profile_files(report, job.profiles), sencache_profile(report, job.profiles)
    for name, used in files.items():
        write_profile(used, folder / name)
    pack(report, folder, folder)
    return Done(folder, report, profile, snippets(report, files), seconds=seconds)


def _explain(error: Exception, model: str) -> str:
    """One sentence for a visitor; no internals, no paths."""
    # On a CPU torch raises a plain RuntimeError.
    full = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if full or isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return (
            f"there was not enough memory for {model} at this size; "
            "choose a smaller size, fewer frames or fewer methods"
        )
    if isinstance(error, NETWORK) or isinstance(error.__cause__, NETWORK):
        return f"the Hub cannot be reached for {model}; check the network and try again"
    if isinstance(error, FileNotFoundError):
        return f"a file of {model} is missing; install the package again, or choose another model"
    return (
        f"the comparison stopped on an unexpected {type(error).__name__}; "
        "run it again, and report it with the settings link if it stays"
    )


def _why_cut_off(error: Exception | None) -> str:
    """Why lanes are missing from a run that `error` ended, as when ZeroGPU takes the GPU back."""
    if isinstance(error, SencacheError):
        return str(error)
    # ZeroGPU speaks in gradio's errors, which hold their text apart.
    told = getattr(error, "message", None) or type(error).__name__
    return f"the process that made it was ended ({told})"
