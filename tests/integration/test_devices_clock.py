"""A lane's clock and peak are those of its own turns on its own device, on a made-up GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pipelines
import pytest
import torch

from sencache.comparison.devices import Clock
from sencache.comparison.lanes import Finished, Stepped, lane
from sencache.comparison.stepping import round_robin
from sencache.policies import Fixed, Full, Policy


@dataclass
class Stream:
    """Work is queued and done in order, while the host goes on; times in seconds."""

    host: float = 0.0
    busy_until: float = 0.0

    def work(self, seconds: float) -> None:
        self.busy_until = max(self.busy_until, self.host) + seconds


class MadeUpEvent:
    """As torch.cuda.Event: reached when everything queued on its stream before it is done."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: Stream) -> None:
        self.stream, self.at = stream, max(stream.busy_until, stream.host)

    def synchronize(self) -> None:
        self.stream.host = max(self.stream.host, self.at)

    def elapsed_time(self, end: MadeUpEvent) -> float:
        assert end.stream is self.stream, "times of two devices"
        return (end.at - self.at) * 1000


@dataclass
class MadeUpGpu:
    """Two devices' streams, and the memory of one."""

    streams: tuple[Stream, Stream] = field(default_factory=lambda: (Stream(), Stream()))
    peak: int = 0

    def allocate(self, size: int) -> None:
        self.peak = max(self.peak, size)

    def reset(self, device: torch.device) -> None:
        self.peak = 0


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[MadeUpGpu]:
    made = MadeUpGpu()
    monkeypatch.setattr(torch.cuda, "Event", MadeUpEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: made.streams[device.index])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", made.reset)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: made.peak)
    return made


def generate_with(tiny: pipelines.Tiny) -> Any:
    return lambda pipe, callback: replace(tiny, pipe=pipe)(callback_on_step_end=callback).numpy()


BLOCK, DECODE = 3.0, 1000.0
POLICIES: dict[str, Policy] = {"full": Full(), "third": Fixed(interval=3), "half": Fixed(interval=2)}


def lanes_on(gpu: MadeUpGpu, tiny: pipelines.Tiny) -> list[Any]:
    """Lanes whose blocks and decoding queue work, and allocate, on device 0."""
    stream = gpu.streams[0]

    def block(*_: Any) -> None:
        stream.work(BLOCK)
        gpu.allocate(10)

    for module in tiny.blocks:
        module.register_forward_pre_hook(block)

    def generate(pipe: Any, callback: Any) -> Any:
        # Before the first step as well: the noise.
        stream.work(7.0)
        latents = replace(tiny, pipe=pipe)(callback_on_step_end=callback)
        stream.work(DECODE)
        gpu.allocate(50)
        return latents.numpy()

    device = torch.device("cuda:0")
    return [lane(tiny.pipe, policy, generate, device) for policy in POLICIES.values()]


def test_a_lane_is_charged_for_its_own_work_alone(gpu: MadeUpGpu, tiny: pipelines.Tiny) -> None:
    """Other lanes' steps and decoding, and what the reader queues and waits for between two items, are not on
    its clock; its own work, queued long after the host has gone on, is.
    """
    done: dict[int, Finished] = {}
    steps: dict[int, list[Stepped]] = {index: [] for index in range(len(POLICIES))}
    for index, item in round_robin(lanes_on(gpu, tiny)):
        gpu.streams[0].work(500.0)
        gpu.streams[0].host += 123.0
        if isinstance(item, Finished):
            done[index] = item
        else:
            steps[index].append(item)
    own_step = BLOCK * len(tiny.blocks) * tiny.branches
    for index in range(len(POLICIES)):
        assert len(steps[index]) == pipelines.STEPS
        for step in steps[index]:
            expected = own_step if step.record.decision == "compute" else 0.0
            assert step.record.seconds == pytest.approx(expected, abs=1e-6), (index, step.record.step)
        assert done[index].setup_seconds == pytest.approx(7.0)
        assert done[index].decode_seconds == pytest.approx(DECODE)


def test_memory_is_that_of_the_lanes_own_turns(gpu: MadeUpGpu) -> None:
    tiny = pipelines.wan()
    first, *others = lanes_on(gpu, tiny)
    next(first)
    gpu.allocate(7000)
    assert [next(other).record.step for other in others] == [0, 0]
    gpu.allocate(8000)
    *_, done = first
    assert done.peak_bytes == 50
    for other in others:
        other.close()


def test_a_clock_follows_its_own_device(gpu: MadeUpGpu) -> None:
    zero, one = (Clock(torch.device("cuda", index)) for index in range(2))
    zero.start()
    one.start()
    gpu.streams[0].work(5.0)
    gpu.streams[1].work(2.0)
    assert (one.stop(), zero.stop()) == (2.0, 5.0)


class Working:
    """An observer with work of its own, queued on a GPU."""

    signal = None

    def __init__(self, stream: Stream) -> None:
        self.seen, self._stream = 0, stream

    def observe(self, state: Any) -> None:
        self.seen += 1
        self._stream.work(40.0)

    def note_prediction(self, step: Any, call: Any) -> None:
        self._stream.work(20.0)


def test_an_observers_work_is_not_the_lanes(gpu: MadeUpGpu, tiny: pipelines.Tiny) -> None:
    observer = Working(gpu.streams[0])
    for module in tiny.blocks:
        module.register_forward_pre_hook(lambda *_: gpu.streams[0].work(BLOCK))
    *steps, _ = lane(tiny.pipe, Full(), generate_with(tiny), torch.device("cuda:0"), observer)
    expected = BLOCK * len(tiny.blocks) * tiny.branches
    assert [step.record.seconds for step in steps] == pytest.approx([expected] * pipelines.STEPS)
    assert observer.seen == pipelines.STEPS


def test_on_a_cpu_a_pause_is_not_counted_either(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("sencache.comparison.devices.time.perf_counter", lambda: now)
    clock = Clock(torch.device("cpu"))
    clock.start()
    now += 2.0
    with clock.pause():
        now += 70.0
    now += 3.0
    assert clock.stop() == 5.0
    clock.start()
    now += 1.0
    assert clock.stop() == 1.0, "pauses go with the time that they were in"
    assert clock.peak_bytes is None
