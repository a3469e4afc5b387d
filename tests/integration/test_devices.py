"""Lanes on several devices, and clocks that count one lane's work: with CPUs, and with a made-up GPU."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sencache
from sencache.comparison import Compared, LaneDone, LaneStarted, StepDone, compare
from sencache.devices import Clock, check_alike, share_out
from sencache.errors import SencacheError
from sencache.interleave import AHEAD, round_robin, side_by_side
from sencache.lanes import Finished, Stepped, lane
from sencache.models.model import Model
from sencache.plan import parse_lanes
from sencache.policies import Fixed, Full, Policy
from sencache.profile import Profile
from sencache.schema import ModelInfo, Request
from sencache.service import studio as service
from sencache.service.ask import make_ask

REQUEST = Request(prompt="a red circle", steps=6, height=32, width=32, frames=5, guidance_scale=4.0)
LANES = parse_lanes("sencache,fixed,control,easycache", ["fixed.interval=2", "easycache.forced_first=2"])


# --- Spread over devices --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair() -> tuple[Model, Model]:
    """The bundled model twice: two devices as far as a comparison can tell."""
    return sencache.load("tiny-wan"), sencache.load("tiny-wan")


def slowed(model: Model) -> Any:
    """The handle of a hook that makes every forward take longer than any lane's step elsewhere."""
    return model.pipe.transformer.register_forward_pre_hook(lambda *_: time.sleep(0.03))


def by_lane(events: list[Any]) -> dict[str, Any]:
    """Each lane's events in their order, without what is a matter of seconds."""
    told: dict[str, list[Any]] = {}
    for event in events:
        match event:
            case LaneStarted(lane=name, config=config, steps=steps):
                told.setdefault(name, []).append((config, steps))
            case StepDone(lane=name, record=record):
                told[name].append(record.model_copy(update={"seconds": None}))
            case LaneDone(lane=done, frames=frames):
                told[done.name].append((done.nfe, done.metrics, done.cache_bytes, frames.tobytes()))
    return told


@pytest.mark.parametrize("nfe", [None, 4])
@pytest.mark.parametrize("slow", [None, 0, 1], ids=["level", "full run behind", "full run ahead"])
def test_two_devices_tell_what_one_does(
    pair: tuple[Model, Model], bundled_profile: Profile, nfe: int | None, slow: int | None
) -> None:
    """Frames bit for bit, every record with its drift, every metric, whichever device is ahead."""
    request = REQUEST.model_copy(update={"nfe": nfe})
    alone = list(compare(pair[0], request, LANES, bundled_profile))
    handle = slowed(pair[slow]) if slow is not None else None
    try:
        spread = list(compare(pair[0], request, LANES, bundled_profile, [pair[1]]))
    finally:
        if handle is not None:
            handle.remove()
    assert by_lane(spread) == by_lane(alone)
    assert isinstance(spread[-1], Compared) and spread[-1].report.model.device == "cpu,cpu"
    names = [one.name for one in spread[-1].report.lanes]
    assert names == [one.name for one in alone[-1].report.lanes] == [spec.name for spec in LANES]


def test_nothing_is_lost_when_the_full_run_ends_last(
    pair: tuple[Model, Model], bundled_profile: Profile
) -> None:
    """Alone on the slower device: all that the other lane did waits for it, to the end."""
    lanes, handle = parse_lanes("fixed"), slowed(pair[0])
    try:
        spread = list(compare(pair[0], REQUEST, lanes, bundled_profile, [pair[1]]))
    finally:
        handle.remove()
    assert by_lane(spread) == by_lane(list(compare(pair[0], REQUEST, lanes, bundled_profile)))


def test_both_devices_work_each_in_one_thread(pair: tuple[Model, Model], bundled_profile: Profile) -> None:
    threads: dict[int, set[int]] = {0: set(), 1: set()}
    handles = [
        model.pipe.transformer.register_forward_pre_hook(
            lambda *_, seen=threads[index]: seen.add(threading.get_ident())
        )
        for index, model in enumerate(pair)
    ]
    stream = compare(pair[0], REQUEST, parse_lanes("fixed,control"), bundled_profile, [pair[1]])
    for event in stream:
        if isinstance(event, LaneDone) and event.lane.name == "control":
            # Fewer-steps follows alone, in the reader's own thread.
            break
    stream.close()
    for handle in handles:
        handle.remove()
    assert len(threads[1]) == 1 and len(threads[0] - {threading.get_ident()}) == 1
    assert not threads[0] & threads[1]


@pytest.mark.parametrize("both", [False, True], ids=["one device", "two devices"])
def test_all_lanes_of_a_device_share_one_encoding(
    pair: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch, both: bool
) -> None:
    """The very object that the model made, or one like it: models keep what they make of a still in it."""
    given: list[list[Any]] = [[], []]
    for index, model in enumerate(pair):

        def noted(pipe: Any, encoded: Any, *rest: Any, i: int = index, own: Any = model.generate) -> Any:
            given[i].append(encoded)
            return own(pipe, encoded, *rest)

        monkeypatch.setattr(model, "generate", noted)
    list(compare(pair[0], REQUEST, parse_lanes("fixed,control"), None, pair[1:] if both else ()))
    assert len(given[0]) + len(given[1]) == 4 and bool(given[1]) == both
    made = type(pair[0].encode("a", "", 1.0))
    for encodings in given:
        assert len({id(one) for one in encodings}) <= 1 and all(type(one) is made for one in encodings)


@pytest.mark.parametrize("taken", [3, 9, 20])
def test_closing_ends_the_lanes_of_all_devices(
    pair: tuple[Model, Model], bundled_profile: Profile, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    under_way = []
    for model in pair:
        generate = model.generate

        def counted(*args: Any, generate: Any = generate, **kwargs: Any) -> Any:
            under_way.append(1)
            try:
                return generate(*args, **kwargs)
            finally:
                under_way.pop()

        monkeypatch.setattr(model, "generate", counted)
    before = threading.active_count()
    stream = compare(pair[0], REQUEST, LANES, bundled_profile, [pair[1]])
    events = list(itertools.islice(stream, taken))
    stream.close()
    assert len(events) == taken
    assert under_way == [] and threading.active_count() == before


def test_what_fails_on_the_other_device_is_raised_here(
    pair: tuple[Model, Model], bundled_profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("device 1 is full")

    monkeypatch.setattr(pair[1], "generate", failing)
    before = threading.active_count()
    with pytest.raises(torch.OutOfMemoryError, match="device 1 is full"):
        list(compare(pair[0], REQUEST, LANES, bundled_profile, [pair[1]]))
    assert threading.active_count() == before


def test_a_copy_of_another_kind_is_refused(pair: tuple[Model, Model], bundled_profile: Profile) -> None:
    half = replace(pair[1], dtype=torch.bfloat16)
    with pytest.raises(SencacheError, match="dtype 'float32' and 'bfloat16'"):
        next(compare(pair[0], REQUEST, LANES, bundled_profile, [half]))


# --- In the app -----------------------------------------------------------------------------------


def test_the_app_spreads_over_the_devices_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENCACHE_DEVICE", "cpu,cpu:0")
    ask = make_ask(prompt="a red circle", steps=4, height=32, width=32, frames=5, methods=("fixed",))
    used: dict[str, set[int]] = {}
    for model in service.models("tiny-wan"):
        seen = used.setdefault(str(model.device), set())
        model.pipe.transformer.register_forward_pre_hook(
            lambda *_, seen=seen: seen.add(threading.get_ident())
        )
    events = list(service.Studio().run(ask))
    service._loaded.cache_clear()
    assert events[-1]["kind"] == "done"
    assert set(used) == {"cpu", "cpu:0"} and all(used.values())


def test_which_gpus_the_app_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the first one's kind; on ZeroGPU the one that is lent; those that are named."""
    cards = {"cuda:0": "Big", "cuda:1": "Small", "cuda:2": "Big"}
    monkeypatch.delenv("SENCACHE_DEVICE", raising=False)
    assert service.devices() == ("cpu",) or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", cards.__getitem__)
    assert service.devices() == ("cuda:0", "cuda:2")
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    assert service.devices() == ("cuda",)
    monkeypatch.setenv("SENCACHE_DEVICE", "cuda:1")
    assert service.devices() == ("cuda:1",)


def info(device: str) -> ModelInfo:
    return ModelInfo(key="m", id="m", revision=None, architecture="wan", device=device, dtype="bfloat16")


def test_devices_that_do_not_compare_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = {"cuda:0": "Big", "cuda:1": "Big", "cuda:2": "Small"}
    monkeypatch.setattr(torch.cuda, "get_device_name", cards.__getitem__)
    check_alike([info("cuda:0"), info("cuda:1")])
    with pytest.raises(SencacheError, match="Big and Small"):
        check_alike([info("cuda:0"), info("cuda:1"), info("cuda:2")])
    with pytest.raises(SencacheError, match="cuda:0 is given twice"):
        check_alike([info("cuda:0"), info("cuda")])
    with pytest.raises(SencacheError, match="Big and cpu"):
        check_alike([info("cuda:0"), info("cpu")])


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=7), st.integers(1, 3))
def test_lanes_are_shared_out_evenly(costs: list[float], count: int) -> None:
    """Every lane once; the longest device at most 4/3 of what the best split has (Graham 1969)."""
    groups = share_out(costs, count)
    assert len(groups) == count and sorted(i for group in groups for i in group) == list(range(len(costs)))
    longest = max(sum(costs[i] for i in group) for group in groups)
    best = min(
        max(sum(c for c, place in zip(costs, places, strict=True) if place == one) for one in range(count))
        for places in itertools.product(range(count), repeat=len(costs))
    )
    assert longest <= best * 4 / 3 + 1e-9
    assert 0 in groups[0] or costs[0] < max(costs), "the full run, listed first, is on the first device"


# --- side_by_side ---------------------------------------------------------------------------------


@dataclass
class Told:
    """What a group noticed of its own life."""

    threads: set[int] = field(default_factory=set)
    made: int = 0
    ended: bool = False


def numbers(told: Told, upto: int | None = None) -> Generator[tuple[int, int], None, None]:
    try:
        for number in itertools.count() if upto is None else range(upto):
            told.threads.add(threading.get_ident())
            told.made += 1
            yield id(told), number
    finally:
        told.threads.add(threading.get_ident())
        told.ended = True


def test_every_item_arrives_in_its_groups_order() -> None:
    groups = [Told(), Told(), Told()]
    merged = list(
        side_by_side([lambda g=g, n=n: numbers(g, n) for g, n in zip(groups, (5, 0, 40), strict=True)])
    )
    for group, count in zip(groups, (5, 0, 40), strict=True):
        assert [number for who, number in merged if who == id(group)] == list(range(count))
        assert len(group.threads) == 1 and threading.get_ident() not in group.threads


def test_nobody_runs_far_ahead_of_the_reader_and_closing_ends_all() -> None:
    groups = [Told(), Told()]
    merged = side_by_side([lambda g=g: numbers(g) for g in groups])
    for _ in range(3):
        next(merged)
    time.sleep(0.2)
    assert sum(group.made for group in groups) <= 3 + (AHEAD + 1) * 2
    merged.close()
    assert all(group.ended and len(group.threads) == 1 for group in groups)


def test_an_error_ends_the_other_groups_first() -> None:
    other = Told()

    def failing() -> Generator[tuple[int, int], None, None]:
        yield 0, 0
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(side_by_side([failing, lambda: numbers(other)]))
    assert other.ended


# --- A made-up GPU --------------------------------------------------------------------------------


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


def test_on_a_cpu_there_is_no_peak(tiny: pipelines.Tiny) -> None:
    def generate(pipe: Any, callback: Any) -> Any:
        return replace(tiny, pipe=pipe)(callback_on_step_end=callback).numpy()

    *_, done = lane(tiny.pipe, Full(), generate, torch.device("cpu"))
    assert isinstance(done, Finished) and done.peak_bytes is None
    assert isinstance(done.frames, np.ndarray)
