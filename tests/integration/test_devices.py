"""Lanes on several devices: spread evenly, and what they tell is what one device does."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from comparisons import calls_under_way
from hypothesis import given
from hypothesis import strategies as st

import sencache
from sencache.app import service, space
from sencache.app.events import Done
from sencache.app.request import make_request, plan_request
from sencache.comparison import compare as comparison
from sencache.comparison.compare import Compared, LaneDone, LaneStarted, StepDone, compare
from sencache.comparison.devices import check_alike, share_out
from sencache.comparison.plan import parse_lanes
from sencache.errors import SencacheError
from sencache.models.model import Model
from sencache.profiles.profile import Profile
from sencache.schema import Request

REQUEST = Request(prompt="a red circle", steps=6, height=32, width=32, frames=5, guidance_scale=4.0)
LANES = parse_lanes("sencache,fixed,control,easycache", ["fixed.interval=2", "easycache.forced_first=2"])


# --- Spread over devices --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair() -> tuple[Model, Model]:
    """The bundled model twice: two devices as far as a comparison can tell."""
    return sencache.load("tiny-wan"), sencache.load("tiny-wan")


@contextmanager
def slow_down(*models: Model) -> Iterator[None]:
    """Every forward of them takes longer than any lane's step elsewhere."""
    hooks = [m.pipe.transformer.register_forward_pre_hook(lambda *_: time.sleep(0.03)) for m in models]
    yield
    for hook in hooks:
        hook.remove()


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


@pytest.mark.parametrize(
    ("slow", "nfe"), [(None, 4), (0, None), (1, 4)], ids=["level", "full run behind", "full run ahead"]
)
def test_two_devices_tell_what_one_does(
    pair: tuple[Model, Model], bundled_profile: Profile, nfe: int | None, slow: int | None
) -> None:
    """Frames bit for bit, every record with its drift, every metric, whichever device is ahead."""
    request = REQUEST.model_copy(update={"nfe": nfe})
    alone = list(compare(pair[0], request, LANES, bundled_profile))
    with slow_down(*(() if slow is None else [pair[slow]])):
        spread = list(compare(pair[0], request, LANES, bundled_profile, [pair[1]]))
    assert by_lane(spread) == by_lane(alone)
    assert isinstance(spread[-1], Compared) and spread[-1].report.model.device == "cpu,cpu"
    names = [one.name for one in spread[-1].report.lanes]
    assert names == [one.name for one in alone[-1].report.lanes] == [spec.name for spec in LANES]


def test_fewer_steps_takes_the_steps_of_the_first_lane_not_of_the_first_to_end(
    pair: tuple[Model, Model], bundled_profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = parse_lanes("sencache:tolerance=9:early_tolerance=9,sencache:tolerance=0")
    monkeypatch.setattr(comparison, "share_out", lambda costs, _: [[0, 1], [2]] if costs[1:] else [[0], []])
    with slow_down(pair[0]):
        report = list(compare(pair[0], REQUEST, lanes, bundled_profile, [pair[1]]))[-1].report
    nfe = {lane.name: lane.nfe for lane in report.lanes}
    assert nfe["fewer-steps"] == nfe[lanes[1].name] < nfe[lanes[2].name]


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


def test_closing_ends_the_lanes_of_all_devices(
    pair: tuple[Model, Model], bundled_profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so does what fails on another device, which is raised here."""
    under_way, before = calls_under_way(monkeypatch, *pair), threading.active_count()
    for taken in (3, 9, 20):
        stream = compare(pair[0], REQUEST, LANES, bundled_profile, [pair[1]])
        assert len(list(itertools.islice(stream, taken))) == taken
        stream.close()
        assert under_way == [] and threading.active_count() == before

    def fail(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("device 1 is full")

    monkeypatch.setattr(pair[1], "generate", fail)
    with pytest.raises(torch.OutOfMemoryError, match="device 1 is full"):
        list(compare(pair[0], REQUEST, LANES, bundled_profile, [pair[1]]))
    assert under_way == [] and threading.active_count() == before


def test_a_copy_of_another_kind_is_refused(pair: tuple[Model, Model], bundled_profile: Profile) -> None:
    half = replace(pair[1], dtype=torch.bfloat16)
    with pytest.raises(SencacheError, match="dtype 'float32' and 'bfloat16'"):
        next(compare(pair[0], REQUEST, LANES, bundled_profile, [half]))


# --- In the app -----------------------------------------------------------------------------------


def test_the_app_spreads_over_the_devices_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "devices", lambda: ("cpu", "cpu:0"))
    ask = make_request(prompt="a red circle", steps=4, height=32, width=32, frames=5, methods=("fixed",))
    used: dict[str, set[int]] = {}
    for model in service.models("tiny-wan"):
        seen = used.setdefault(str(model.device), set())
        model.pipe.transformer.register_forward_pre_hook(
            lambda *_, seen=seen: seen.add(threading.get_ident())
        )
    events = list(service.ComparisonService().run(plan_request(ask)))
    service._load.cache_clear()
    assert isinstance(events[-1], Done)
    assert set(used) == {"cpu", "cpu:0"} and all(used.values())


def test_which_gpus_the_app_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the first one's kind; on ZeroGPU the one that is lent; those that are named."""
    cards = {"cuda:0": "Big", "cuda:1": "Small", "cuda:2": "Big"}
    monkeypatch.delenv("SENCACHE_DEVICE", raising=False)
    assert space.devices() == ("cpu",) or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", cards.__getitem__)
    assert space.devices() == ("cuda:0", "cuda:2")
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    assert space.devices() == ("cuda",)
    monkeypatch.setenv("SENCACHE_DEVICE", "cuda:1, cuda:0")
    assert space.devices() == ("cuda:1", "cuda:0")

    for named in ("cpu,cpu", "cpu, cpu:0", "cuda:0,cuda:1,cuda", "cuda:1,cuda:1"):
        monkeypatch.setenv("SENCACHE_DEVICE", named)
        with pytest.raises(SencacheError, match=f"is given twice in '{named}'"):
            space.devices()


def test_devices_that_do_not_compare_are_refused(
    pair: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*devices: str) -> None:
        check_alike([pair[0].info().model_copy(update={"device": device}) for device in devices])

    cards = {"cuda:0": "Big", "cuda:1": "Big", "cuda:2": "Small"}
    monkeypatch.setattr(torch.cuda, "get_device_name", cards.__getitem__)
    check("cuda:0", "cuda:1")
    for devices, message in (
        (("cuda:0", "cuda:1", "cuda:2"), "Big and Small"),
        (("cuda:0", "cuda"), "cuda:0 is given twice"),
        (("cuda:0", "cpu"), "Big and cpu"),
    ):
        with pytest.raises(SencacheError, match=message):
            check(*devices)


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
