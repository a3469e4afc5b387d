"""The floor under the app: events that are plain, runs that end when asked to, errors that say what to do."""

from __future__ import annotations

import ast
import csv
import json
import pickle
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch

from sencache.app import service
from sencache.app.events import Done, Waiting
from sencache.app.offer import describe
from sencache.app.pages.api import as_dict
from sencache.app.request import make_request, plan_request
from sencache.app.service import ComparisonService
from sencache.comparison import compare as comparison
from sencache.comparison import measuring
from sencache.comparison.events import Compared, LaneDone, LaneStarted, Started, StepDone
from sencache.comparison.job import Job
from sencache.comparison.report import load_report
from sencache.comparison.verify import verify
from sencache.errors import SencacheError
from sencache.models.model import load
from sencache.policies import make_policy
from sencache.policies.loading import load_profile
from sencache.profiles.library import bundled_profile

STEPS = 8
SMALL: dict[str, Any] = {"steps": STEPS, "height": 32, "width": 32, "frames": 5}
PATIENCE = 60


def ask(**more: Any) -> Job:
    asked = {"prompt": "a red circle", "methods": ["sencache", "control"], "nfe": 4, **SMALL, **more}
    return plan_request(make_request(**asked))


@pytest.fixture(scope="module")
def app() -> ComparisonService:
    made = ComparisonService()
    made.warm()
    return made


@pytest.fixture(scope="module")
def finished(app: ComparisonService, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Path]:
    """All events of one run, and a copy of its files."""
    kept, events = tmp_path_factory.mktemp("run") / "files", []
    for event in app.run(ask()):
        events.append(event)
        if isinstance(event, Done):
            shutil.copytree(event.folder, kept)
    return [event for event in events if not isinstance(event, Waiting)], kept


# ---- events


def test_events_cross_a_pipe_and_are_in_order(finished: tuple[list[Any], Path]) -> None:
    events, _ = finished
    assert events[0].lanes == ("none", "fewer-steps", "sencache", "control")
    assert pickle.loads(pickle.dumps(events)) == events
    assert isinstance(events[0], Started) and isinstance(events[-1], Done)
    assert json.loads(json.dumps([as_dict(event) for event in events]))[-1].keys() == {
        *("kind", "report", "snippets", "missing")
    }
    assert not any(event.frames.size for event in events if isinstance(event, LaneDone))
    for name in events[0].lanes:
        (begun,) = [e for e in events if isinstance(e, LaneStarted) and e.lane == name]
        taken = [e.record.step for e in events if isinstance(e, StepDone) and e.lane == name]
        (done,) = [e for e in events if isinstance(e, LaneDone) and e.lane.name == name]
        assert taken == list(range(begun.steps))
        assert events.index(begun) < events.index(done)
    order = [e.lane for e in events if isinstance(e, StepDone) and e.lane in ("sencache", "control")]
    assert order == ["sencache", "control"] * STEPS or order == ["control", "sencache"] * STEPS


def test_files_are_complete_and_the_report_verifies(finished: tuple[list[Any], Path]) -> None:
    events, folder = finished
    report = load_report(folder / "report.json")
    assert verify(report) == []
    videos = {lane.video for lane in report.lanes}
    files = {*videos, "report.json", "traces.csv"}
    assert {path.name for path in folder.iterdir()} == {*files, "comparison.zip"}
    with zipfile.ZipFile(folder / "comparison.zip") as packed:
        assert packed.testzip() is None
        assert set(packed.namelist()) == files
        assert packed.read("report.json") == (folder / "report.json").read_bytes()
    told = [e.record for e in events if isinstance(e, StepDone) and e.lane == "control"]
    lane = next(lane for lane in report.lanes if lane.name == "control")
    assert told == list(lane.trace)
    with (folder / "traces.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    records = [(lane, record) for lane in report.lanes for record in lane.trace]
    assert len(rows) == len(records)
    for row, (lane, record) in zip(rows, records, strict=True):
        assert (row["lane"], int(row["step"]), row["decision"]) == (lane.name, record.step, record.decision)
        assert (float(row["score"]) if row["score"] else None) == record.score
        assert {k: float(row[k]) for k in record.signals} == dict(record.signals)


def test_snippets_make_their_lanes_again(finished: tuple[list[Any], Path]) -> None:
    events, folder = finished
    report = load_report(folder / "report.json")
    for name in ("sencache", "control"):
        lane = next(lane for lane in report.lanes if lane.name == name)
        space: dict[str, Any] = {}
        exec(events[-1].snippets[name], space)
        assert [r.decision for r in space["trace"]] == [r.decision for r in lane.trace]
        assert [r.score for r in space["trace"]] == [r.score for r in lane.trace]


def test_lanes_are_measured_on_the_device_that_they_ran_on(
    app: ComparisonService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU would wait for one core otherwise; of two the second makes fewer-steps beside the full run."""
    seen, measure = [], measuring.compare_frames
    monkeypatch.setattr(
        measuring, "compare_frames", lambda *a, device: (seen.append(device), measure(*a, device=device))[1]
    )
    for _ in app.run(ask(methods=["fixed"])):
        pass
    first = service.model("tiny-wan")
    assert seen == [first.device] * 2
    other = load("tiny-wan", "cpu:0")
    monkeypatch.setattr(service, "models", lambda key: (first, other))
    for _ in app.run(ask(methods=["fixed"])):
        pass
    assert seen[2:] == [other.device, first.device]


# ---- threads, closing


def test_a_run_can_be_read_from_changing_threads_and_a_typed_text_stays_a_literal(
    app: ComparisonService,
) -> None:
    prompt = "a circle'); import os; x = ('\n{0} \\"
    events: Iterator[Any] = app.run(ask(prompt=prompt, methods=["fixed"]))
    last = None
    readers = [ThreadPoolExecutor(1) for _ in range(3)]
    for number in range(10_000):
        try:
            last = readers[number % 3].submit(next, events).result(PATIENCE)
        except StopIteration:
            break
    for reader in readers:
        reader.shutdown()
    assert isinstance(last, Done)
    for text in last.snippets.values():
        nodes = list(ast.walk(ast.parse(text)))
        assert prompt in [node.value for node in nodes if isinstance(node, ast.Constant)]
        assert not [n for n in nodes if isinstance(n, ast.Import) and "os" in n.names[0].name]


def test_closing_stops_within_two_steps_and_leaves_nothing(
    app: ComparisonService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    forwards: list[Any] = []
    hook = service.model("tiny-wan").pipe.transformer.register_forward_pre_hook(
        lambda *_: forwards.append(None)
    )
    events = app.run(ask(steps=200, nfe=None, preset=None))
    next(event for event in events if isinstance(event, StepDone) and event.record.step == 3)
    assert any(tmp_path.iterdir())
    events.close()
    made = len(forwards)
    assert made > 0
    assert app._device.acquire(timeout=PATIENCE)
    app._device.release()
    hook.remove()
    # Two branches a step, and the step under way when the reader went.
    assert len(forwards) - made <= 4
    ended = time.monotonic() + PATIENCE
    while any(tmp_path.iterdir()) and time.monotonic() < ended:
        time.sleep(0.05)
    assert not any(tmp_path.iterdir())


def test_one_comparison_at_a_time_and_one_after_a_closed_one_is_as_ever(
    app: ComparisonService, finished: tuple[list[Any], Path]
) -> None:
    first = app.run(ask(seed=5))
    next(e for e in first if isinstance(e, StepDone))
    second = app.run(ask())
    assert [next(second) for _ in range(2)] == [Waiting(), Waiting()]
    first.close()
    results = {e.lane.name: e.lane for e in second if isinstance(e, LaneDone)}
    for event in finished[0]:
        if isinstance(event, LaneDone):
            again = results[event.lane.name]
            assert (again.metrics, again.nfe) == (event.lane.metrics, event.lane.nfe)


# ---- errors


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": "x" * 2001}, "2,001"),
        ({"height": 33}, "33 pixels"),
        ({"nfe": 9}, "9 evaluations"),
        ({"methods": ["nope"]}, "nope"),
        ({"model": "nope"}, "nope"),
        ({"seed": -1}, "-1"),
        ({"profile": "nope"}, "nope"),
        ({"profile_json": "{}"}, "uploaded profile"),
        ({"settings": {"sencache": {"tolerence": 1}}}, "tolerence"),
        ({"settings": {"teacache": {"threshold": 1}}}, "teacache"),
        ({"methods": [f"fixed:interval={n}" for n in range(1, 17)]}, "16"),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence(
    wrong: dict[str, Any], said: str, app: ComparisonService
) -> None:
    with pytest.raises(SencacheError, match=said) as raised:
        next(app.run(ask(**wrong)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
        (MemoryError(), "not enough memory"),
        (ConnectionError("https://secret.example/x"), "cannot be reached"),
        (FileNotFoundError("/home/secret/weights"), "missing"),
        (ValueError("/home/secret"), "unexpected ValueError"),
        (SencacheError("the weights of tiny-wan cannot be read; install again"), "install again"),
    ],
)
def test_what_fails_inside_is_told_without_internals(
    failure: Exception, said: str, app: ComparisonService, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = comparison.run_job

    def failing(*asked: Any) -> Iterator[Any]:
        yield next(whole(*asked))
        raise failure

    monkeypatch.setattr(comparison, "run_job", failing)
    events = app.run(ask())
    with pytest.raises(SencacheError, match=said) as raised:
        list(events)
    assert "secret" not in str(raised.value) and "\n" not in str(raised.value)


# ---- cut off


def cut_after(monkeypatch: pytest.MonkeyPatch, ended: int, left: int, error: Exception) -> None:
    """The GPU is taken away when `left` events have come since so many lanes have ended."""
    whole = service._on_device

    def cut(booking: Any) -> Iterator[Any]:
        done = after = 0
        for event in whole(booking):
            yield event
            done += isinstance(event, LaneDone)
            after += done >= ended
            if after == left:
                raise error

    monkeypatch.setattr(service, "_on_device", cut)


@pytest.mark.parametrize(("ended", "left"), [(1, 1), (2, 3), (4, 1)])
def test_a_run_that_is_cut_off_ends_with_what_had_ended(
    app: ComparisonService, monkeypatch: pytest.MonkeyPatch, ended: int, left: int
) -> None:
    cut_after(monkeypatch, ended, left, gr.Error("GPU task aborted"))
    events = []
    for event in app.run(ask(methods=["sencache", "control", "fixed"])):
        events.append(event)
        if isinstance(event, Done):
            report = load_report(event.folder / "report.json")
            with zipfile.ZipFile(event.folder / "comparison.zip") as packed:
                kept = set(packed.namelist())
    assert isinstance(events[-1], Done) and verify(report) == []
    names = [event.lane.name for event in events if isinstance(event, LaneDone)]
    assert {lane.name for lane in report.lanes} == set(names) == set(events[-1].snippets)
    assert kept == {"report.json", "traces.csv", *(lane.video for lane in report.lanes)}
    for one in report.unfinished:
        assert one.taken == sum(isinstance(e, StepDone) and e.lane == one.name for e in events)
        assert one.why == "the process that made it was ended (GPU task aborted)"
    assert as_dict(events[-1])["missing"] == [str(one) for one in report.unfinished]
    assert len(report.lanes) + len(report.unfinished) == 5 and report.unfinished


def test_a_run_that_is_cut_off_before_any_lane_ended_is_an_error_and_taught_its_pace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = ComparisonService()
    assert not made.estimate(ask()).measured
    cut_after(monkeypatch, 0, 9, gr.Error("GPU task aborted"))
    with pytest.raises(gr.Error, match="GPU task aborted"):
        list(made.run(ask()))
    assert made.estimate(ask()).measured


def test_what_goes_wrong_inside_after_a_lane_is_why_the_others_are_missing(
    app: ComparisonService, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = comparison.run_job

    def failing(*asked: Any) -> Iterator[Any]:
        for event in whole(*asked):
            yield event
            if isinstance(event, comparison.LaneDone):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(comparison, "run_job", failing)
    *_, last = app.run(ask())
    missing = [str(one) for one in last.report.unfinished]
    assert len(missing) == 3
    assert all("not enough memory for tiny-wan at this size; choose" in told for told in missing)


def test_a_reservation_is_a_deadline_and_elsewhere_there_is_none(
    app: ComparisonService, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, whole = [], comparison.run_job

    def noted(*asked: Any) -> Iterator[Any]:
        given.append((asked[-1], time.monotonic()))
        return whole(*asked)

    monkeypatch.setattr(comparison, "run_job", noted)
    job = ask(methods=["fixed"])
    estimate = replace(app.estimate(job), reserved=600)
    for zerogpu in ("", "1"):
        with tempfile.TemporaryDirectory() as folder:
            monkeypatch.setenv("SPACES_ZERO_GPU", zerogpu)
            booking = service.Booking(job, Path(folder), estimate)
            assert isinstance(list(service._on_device(booking))[-1], Compared)
    (none, _), (deadline, now) = given
    assert none is None and deadline is not None
    assert now < deadline.at < now + 600 and deadline.ending == estimate.costs.rest > 0


# ---- what is offered, and how long it takes


def test_defaults_that_are_offered_are_the_methods_own() -> None:
    profile = load_profile(bundled_profile("tiny-wan.unipc-50"))
    offer = describe()
    assert json.loads(json.dumps(offer)) == offer
    for method in offer["methods"]:
        if not method["settings"]:
            continue
        given = profile if method["uses_profile"] else None
        config = make_policy(method["method"], {}, given).config()
        defaults = {s["name"]: s["default"] for s in method["settings"]}
        assert set(defaults) == set(config)
        assert {k: v for k, v in config.items() if defaults[k] is not None} == {
            k: v for k, v in defaults.items() if v is not None
        }


def test_what_takes_too_long_is_refused_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On ZeroGPU what no call could finish, elsewhere what the owner does not lend to one visitor."""
    long = ask(steps=200, nfe=200, height=192, width=192, frames=41)
    many = [f"fixed:interval={n}" for n in range(1, 15)]
    longest = ask(steps=1000, nfe=1000, height=256, width=256, frames=81, methods=many)
    seconds = ComparisonService().estimate(long).seconds
    assert 120 < seconds < 900
    too_long = r"about \d{4,} s, more than the 900 s of SENCACHE_MAX_SECONDS; choose"
    with pytest.raises(SencacheError, match=too_long):
        next(ComparisonService().run(longest))
    monkeypatch.setenv("SENCACHE_MAX_SECONDS", str(int(seconds)))
    with pytest.raises(SencacheError, match=f"more than the {int(seconds)} s"):
        ComparisonService().estimate(long)
    monkeypatch.setenv("SENCACHE_MAX_SECONDS", "1000000")
    assert ComparisonService().estimate(longest).seconds > 900
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    with pytest.raises(SencacheError, match="more than the 58 s of one call; choose fewer"):
        ComparisonService().estimate(longest)
    assert ComparisonService().estimate(ask()).reserved <= 80


@pytest.mark.parametrize("wrong", ["0", "1e3"])
def test_a_limit_that_is_no_number_is_refused_at_the_start(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENCACHE_MAX_SECONDS", wrong)
    with pytest.raises(SencacheError, match=f"SENCACHE_MAX_SECONDS is '{wrong}'; write whole seconds"):
        ComparisonService()


def test_models_are_loaded_once_under_many_threads() -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(service.model, ["tiny-wan"] * 8))
    assert len({id(model) for model in found}) == 1
