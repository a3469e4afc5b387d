"""What a lane does on its device is timed and weighed here; and which device takes which lane."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from sencache.errors import SencacheError
from sencache.schema import ModelInfo


class Clock:
    """Seconds of work on one device between `start` and `stop`; on a GPU by events on the device's own
    stream, with the most memory allocated meanwhile in `peak_bytes`: weights and what other lanes keep
    included.

    An event is reached when everything queued before it is done. So what other lanes, decoding included, had
    left to do when this one started is not counted, and `stop` waits for this lane's own work, so that none
    of it is left for another lane's clock.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._cuda = device, device.type == "cuda"
        self._start: Any = None
        self._pauses: list[tuple[Any, Any]] = []
        self.peak_bytes: int | None = None

    def start(self) -> None:
        """Begin, or begin again."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._device)
        self._start, self._pauses = self._mark(), []

    def stop(self) -> float:
        """Seconds since `start`, without the pauses; waits for the device."""
        end = self._mark()
        if self._cuda:
            end.synchronize()
            self.peak_bytes = max(self.peak_bytes or 0, torch.cuda.max_memory_allocated(self._device))
        return self._between(self._start, end) - sum(self._between(*pause) for pause in self._pauses)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What the block does and queues is not counted."""
        begun = self._mark()
        yield
        self._pauses.append((begun, self._mark()))

    def _between(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end)) / 1000 if self._cuda else float(end - start)

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        # Without the stream, it would be recorded on whichever device the thread has current.
        event.record(torch.cuda.current_stream(self._device))
        return event


def named_devices(text: str) -> tuple[str, ...]:
    """The names in a list separated by commas; raises SencacheError for a device that is given twice."""
    names = tuple(name.strip() for name in text.split(","))
    # "cuda" and "cuda:0" are one GPU, and there is one CPU whatever its number.
    split = [name.partition(":")[::2] for name in names]
    places = [(kind, index or "0") if kind == "cuda" else kind for kind, index in split]
    for name, place in zip(names, places, strict=True):
        if places.count(place) > 1:
            raise SencacheError(f"device {name!r} is given twice in {text!r}; give every device once")
    return names


def share_out(costs: Sequence[float], count: int) -> list[list[int]]:
    """The indices of `costs` in `count` groups of nearly equal sums, each in ascending order: the next
    costliest always goes where least is.
    """
    groups: list[list[int]] = [[] for _ in range(count)]
    sums = [0.0] * count
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        least = sums.index(min(sums))
        groups[least].append(index)
        sums[least] += costs[index]
    return [sorted(group) for group in groups]


def check_alike(models: Sequence[ModelInfo]) -> None:
    """Raises SencacheError unless lanes on all of `models` can be compared in seconds and bit for bit."""
    first, *others = models
    gpus = [torch.device(model.device).index or 0 for model in models if model.device.startswith("cuda")]
    twice = next((index for index in gpus if gpus.count(index) > 1), None)
    if twice is not None:
        raise SencacheError(
            f"cuda:{twice} is given twice, and its lanes would disturb each other; give it once"
        )
    for other in others:
        for name in ("key", "id", "revision", "dtype", "scheduler", "placement"):
            ours, theirs = getattr(first, name), getattr(other, name)
            if ours != theirs:
                raise SencacheError(
                    f"lanes cannot be spread over {name} {ours!r} and {theirs!r}; "
                    "load the same model on every device"
                )
        here, there = device_name(first.device), device_name(other.device)
        if here != there:
            raise SencacheError(
                f"lanes cannot be spread over {here} and {there}, their seconds would not compare; "
                "use devices of one kind"
            )


def device_name(device: str) -> str:
    """What the device is called by its maker; a CPU is just that."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device.partition(":")[0]
