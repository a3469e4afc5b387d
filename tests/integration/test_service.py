"""The floor under the app: events that are plain, runs that end when asked to, errors that say what to do."""

from __future__ import annotations

import csv
import json
import pickle
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch

from sencache.app import studio as service
from sencache.app.ask import Ask, make_ask, understand
from sencache.app.offer import describe
from sencache.app.studio import Studio
from sencache.comparison import compare as comparison
from sencache.comparison import measuring
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


def ask(**more: Any) -> Ask:
    return make_ask(
        **{"prompt": "a red circle", "methods": ["sencache", "control"], "nfe": 4, **SMALL, **more}
    )


@pytest.fixture(scope="module")
def studio() -> Studio:
    made = Studio()
    made.warm()
    return made


@pytest.fixture(scope="module")
def finished(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    """All events of one run, and a copy of its files."""
    import shutil

    kept, events = tmp_path_factory.mktemp("run") / "files", []
    for event in studio.run(ask()):
        events.append(event)
        if event["kind"] == "done":
            shutil.copytree(event["folder"], kept)
    return [event for event in events if event["kind"] != "wait"], kept


# ---- events


def test_events_are_plain_and_in_order(finished: tuple[list[dict[str, Any]], Path]) -> None:
    events, _ = finished
    assert json.loads(json.dumps(events)) == pickle.loads(pickle.dumps(events)) == events
    assert events[0]["kind"] == "started" and events[-1]["kind"] == "done"
    for name in events[0]["lanes"]:
        kinds = [event["kind"] for event in events if event.get("lane") == name]
        steps = next(e["steps"] for e in events if e["kind"] == "lane" and e["lane"] == name)
        assert kinds == ["lane", *["step"] * steps, "lane_done"]


def test_the_baselines_come_first_and_always(finished: tuple[list[dict[str, Any]], Path]) -> None:
    assert finished[0][0]["lanes"] == ["none", "fewer-steps", "sencache", "control"]


def test_lanes_advance_in_turn(finished: tuple[list[dict[str, Any]], Path]) -> None:
    order = [e["lane"] for e in finished[0] if e["kind"] == "step" and e["lane"] in ("sencache", "control")]
    assert order == ["sencache", "control"] * STEPS or order == ["control", "sencache"] * STEPS


def test_files_are_complete_and_the_report_verifies(
    finished: tuple[list[dict[str, Any]], Path],
) -> None:
    events, folder = finished
    report = load_report(folder / "report.json")
    assert verify(report) == []
    videos = {lane.video for lane in report.lanes}
    assert {path.name for path in folder.iterdir()} == {
        *videos,
        "report.json",
        "traces.csv",
        "comparison.zip",
    }
    with zipfile.ZipFile(folder / "comparison.zip") as packed:
        assert packed.testzip() is None
        assert set(packed.namelist()) == {*videos, "report.json", "traces.csv"}
        assert packed.read("report.json") == (folder / "report.json").read_bytes()
    told = [e["record"] for e in events if e["kind"] == "step" and e["lane"] == "control"]
    lane = next(lane for lane in report.lanes if lane.name == "control")
    assert told == [record.model_dump(mode="json") for record in lane.trace]


def test_the_csv_holds_every_step(finished: tuple[list[dict[str, Any]], Path]) -> None:
    _, folder = finished
    report = load_report(folder / "report.json")
    with (folder / "traces.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    records = [(lane, record) for lane in report.lanes for record in lane.trace]
    assert len(rows) == len(records)
    for row, (lane, record) in zip(rows, records, strict=True):
        assert (row["lane"], int(row["step"]), row["decision"]) == (lane.name, record.step, record.decision)
        assert (float(row["score"]) if row["score"] else None) == record.score
        assert {k: float(row[k]) for k in record.signals} == dict(record.signals)


def test_snippets_make_their_lanes_again(finished: tuple[list[dict[str, Any]], Path]) -> None:
    events, folder = finished
    report = load_report(folder / "report.json")
    for name in ("sencache", "control"):
        lane = next(lane for lane in report.lanes if lane.name == name)
        space: dict[str, Any] = {}
        exec(events[-1]["snippets"][name], space)
        assert [r.decision for r in space["trace"]] == [r.decision for r in lane.trace]
        assert [r.score for r in space["trace"]] == [r.score for r in lane.trace]


def test_a_typed_text_stays_a_literal_in_the_snippet(studio: Studio) -> None:
    prompt = "a circle'); import os; x = ('\n{0} \\"
    code = next(e for e in studio.run(ask(prompt=prompt, methods=["fixed"])) if e["kind"] == "done")[
        "snippets"
    ]
    import ast

    for text in code.values():
        literals = [n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)]
        assert prompt in literals
        assert not [
            n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import) and "os" in n.names[0].name
        ]


def test_lanes_are_measured_on_the_device_that_they_ran_on(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU would wait for one core otherwise; of two the second makes fewer-steps beside the full run."""
    seen, measure = [], measuring.compare_frames
    monkeypatch.setattr(
        measuring, "compare_frames", lambda *a, device: (seen.append(device), measure(*a, device=device))[1]
    )
    for _ in studio.run(ask(methods=["fixed"])):
        pass
    own = service.model("tiny-wan")
    assert seen == [own.device] * 2
    other = load("tiny-wan", "cpu:0")
    monkeypatch.setattr(service, "models", lambda key: (own, other))
    for _ in studio.run(ask(methods=["fixed"])):
        pass
    assert seen[2:] == [other.device, own.device]


# ---- threads, closing


def test_a_run_can_be_read_from_changing_threads(studio: Studio) -> None:
    events: Iterator[dict[str, Any]] = studio.run(ask())
    last = {}
    readers = [ThreadPoolExecutor(1) for _ in range(3)]
    for turn in range(10_000):
        try:
            last = readers[turn % 3].submit(next, events).result(PATIENCE)
        except StopIteration:
            break
    for reader in readers:
        reader.shutdown()
    assert last["kind"] == "done"


@pytest.fixture
def forwards() -> Iterator[list[float]]:
    """The times at which any lane's network is called."""
    calls: list[float] = []
    transformer = service.model("tiny-wan").pipe.transformer
    hook = transformer.register_forward_pre_hook(lambda *_: calls.append(time.monotonic()))
    yield calls
    hook.remove()


def test_closing_stops_within_two_steps_and_leaves_nothing(
    studio: Studio, forwards: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    events = studio.run(ask(steps=200, nfe=None, preset=None))
    for event in events:
        if event["kind"] == "step" and event["record"]["step"] == 3:
            break
    assert any(tmp_path.iterdir())
    events.close()
    made = len(forwards)
    assert made > 0
    assert studio._device.acquire(timeout=PATIENCE)
    studio._device.release()
    # Two branches a step, and the step under way when the reader went.
    assert len(forwards) - made <= 4
    ended = time.monotonic() + PATIENCE
    while any(tmp_path.iterdir()) and time.monotonic() < ended:
        time.sleep(0.05)
    assert not any(tmp_path.iterdir())


def test_a_run_after_a_closed_one_is_the_same_as_before(
    studio: Studio, finished: tuple[list[dict[str, Any]], Path]
) -> None:
    closed = studio.run(ask(seed=5))
    next(e for e in closed if e["kind"] == "step")
    closed.close()
    results = {e["lane"]: e["result"] for e in studio.run(ask()) if e["kind"] == "lane_done"}
    for event in finished[0]:
        if event["kind"] == "lane_done":
            assert results[event["lane"]]["metrics"] == event["result"]["metrics"]
            assert results[event["lane"]]["nfe"] == event["result"]["nfe"]


def test_one_comparison_at_a_time(studio: Studio) -> None:
    first = studio.run(ask())
    next(e for e in first if e["kind"] == "step")
    second = studio.run(ask())
    assert [next(second)["kind"] for _ in range(2)] == ["wait", "wait"]
    first.close()
    assert next(e for e in second if e["kind"] != "wait")["kind"] == "started"
    second.close()


# ---- errors


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": "x" * 2001}, "2,001"),
        ({"frames": 18}, "18 frames"),
        ({"height": 33}, "33 pixels"),
        ({"nfe": 9}, "9 evaluations"),
        ({"methods": ["nope"]}, "nope"),
        ({"model": "nope"}, "nope"),
        ({"seed": -1}, "-1"),
        ({"profile": "nope"}, "nope"),
        ({"profile_json": "{}"}, "uploaded profile"),
        ({"settings": {"sencache": {"tolerance": -1}}}, "tolerance"),
        ({"settings": {"sencache": {"tolerence": 1}}}, "tolerence"),
        ({"settings": {"teacache": {"threshold": 1}}}, "teacache"),
        ({"methods": [f"fixed:interval={n}" for n in range(1, 17)]}, "16"),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence(wrong: dict[str, Any], said: str, studio: Studio) -> None:
    with pytest.raises(SencacheError, match=said) as raised:
        next(studio.run(ask(**wrong)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), "not enough memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
            "memory",
        ),
        (MemoryError(), "not enough memory"),
        (ConnectionError("https://secret.example/x"), "cannot be reached"),
        (FileNotFoundError("/home/secret/weights"), "missing"),
        (ValueError("/home/secret"), "unexpected ValueError"),
        (SencacheError("the weights of tiny-wan cannot be read; install again"), "install again"),
    ],
)
def test_what_fails_inside_is_told_without_internals(
    failure: Exception, said: str, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = comparison.compare

    def failing(*asked: Any) -> Iterator[Any]:
        yield next(whole(*asked))
        raise failure

    monkeypatch.setattr(comparison, "compare", failing)
    events = studio.run(ask())
    with pytest.raises(SencacheError, match=said) as raised:
        list(events)
    assert "secret" not in str(raised.value) and "\n" not in str(raised.value)
    monkeypatch.undo()
    assert [e for e in studio.run(ask(methods=["fixed"])) if e["kind"] == "done"]


# ---- cut off


def cut_after(monkeypatch: pytest.MonkeyPatch, ended: int, left: int, error: Exception) -> None:
    """The GPU is taken away when `left` events have come since so many lanes have ended."""
    whole = service._on_device

    def cut(job: dict[str, Any]) -> Iterator[Any]:
        done = after = 0
        for event in whole(job):
            yield event
            done += event["kind"] == "lane_done"
            after += done >= ended
            if after == left:
                raise error

    monkeypatch.setattr(service, "_on_device", cut)


@pytest.mark.parametrize(("ended", "left"), [(1, 1), (1, 7), (2, 3), (3, 1), (4, 1)])
def test_a_run_that_is_cut_off_ends_with_what_had_ended(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, ended: int, left: int
) -> None:
    cut_after(monkeypatch, ended, left, gr.Error("GPU task aborted"))
    events = []
    for event in studio.run(ask(methods=["sencache", "control", "fixed"])):
        events.append(event)
        if event["kind"] == "done":
            report = load_report(Path(event["folder"]) / "report.json")
            with zipfile.ZipFile(Path(event["folder"]) / "comparison.zip") as packed:
                kept = set(packed.namelist())
    assert events[-1]["kind"] == "done" and verify(report) == []
    names = [event["lane"] for event in events if event["kind"] == "lane_done"]
    assert {lane.name for lane in report.lanes} == set(names) == set(events[-1]["snippets"])
    assert kept == {"report.json", "traces.csv", *(lane.video for lane in report.lanes)}
    for one in report.unfinished:
        assert one.taken == sum(e["kind"] == "step" and e["lane"] == one.name for e in events)
        assert one.why == "the process that made it was ended (GPU task aborted)"
    assert events[-1]["missing"] == [str(one) for one in report.unfinished]
    assert len(report.lanes) + len(report.unfinished) == 5 and report.unfinished


def test_a_run_that_is_cut_off_before_any_lane_ended_is_an_error(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_after(monkeypatch, 0, 9, gr.Error("GPU task aborted"))
    with pytest.raises(gr.Error, match="GPU task aborted"):
        list(studio.run(ask()))


def test_what_goes_wrong_inside_after_a_lane_is_why_the_others_are_missing(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = comparison.compare

    def failing(*asked: Any) -> Iterator[Any]:
        for event in whole(*asked):
            yield event
            if isinstance(event, comparison.LaneDone):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(comparison, "compare", failing)
    *_, last = studio.run(ask())
    assert len(last["missing"]) == 3
    assert all("not enough memory for tiny-wan at this size; choose" in told for told in last["missing"])


def test_a_reservation_is_a_deadline_and_elsewhere_there_is_none(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, whole = [], comparison.compare

    def noted(*asked: Any) -> Iterator[Any]:
        given.append((asked[-1], time.monotonic()))
        return whole(*asked)

    monkeypatch.setattr(comparison, "compare", noted)
    asked = ask(methods=["fixed"])
    costs = asdict(studio.estimate(asked).costs)
    job = {"ask": asked.model_dump(mode="json"), "reserved": 600, "costs": costs}
    for zerogpu in ("", "1"):
        with tempfile.TemporaryDirectory() as folder:
            monkeypatch.setenv("SPACES_ZERO_GPU", zerogpu)
            assert list(service._on_device({**job, "folder": folder}))[-1]["kind"] == "saved"
    (none, _), (deadline, now) = given
    assert none is None and deadline is not None
    assert now < deadline.at < now + 600 and deadline.ending == costs["decode"] + costs["measure"] > 0


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
        assert {k: v for k, v in defaults.items() if v is not None} == {
            k: v for k, v in config.items() if defaults[k] is not None
        }
        assert set(defaults) == set(config)


@pytest.mark.parametrize(
    "change", [{"nfe": 8}, {"steps": 16}, {"frames": 9}, {"methods": ["sencache", "fixed", "control"]}]
)
def test_more_work_is_estimated_to_take_longer(change: dict[str, Any]) -> None:
    studio = Studio()
    assert studio.estimate(ask(**change)).seconds > studio.estimate(ask()).seconds > 0


def test_the_estimate_learns_from_a_run(studio: Studio, finished: object) -> None:
    assert not Studio().estimate(ask()).measured
    assert studio.estimate(ask()).measured


def test_the_estimate_learns_from_a_run_that_is_cut_off() -> None:
    studio = Studio()
    run = studio.run(ask())
    steps = (event for event in run if event["kind"] == "step" and event["record"]["step"] == 1)
    next(steps)
    run.close()
    assert studio.estimate(ask()).measured


def test_the_reservation_exceeds_the_estimate_and_is_booked_by_half_more() -> None:
    estimate = Studio().estimate(ask())
    assert 1.3 * estimate.seconds + 4 <= estimate.reserved <= 80
    assert estimate.reserved * 1.5 <= estimate.booked < estimate.reserved * 1.5 + 1


def test_what_takes_too_long_is_refused_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On ZeroGPU what no call could finish, elsewhere what the owner does not lend to one visitor."""
    long = ask(steps=200, nfe=200, height=192, width=192, frames=41)
    longest = ask(
        steps=1000,
        nfe=1000,
        height=256,
        width=256,
        frames=81,
        methods=[f"fixed:interval={n}" for n in range(1, 15)],
    )
    seconds = Studio().estimate(long).seconds
    assert 120 < seconds < 900
    with pytest.raises(
        SencacheError, match=r"about \d{4,} s, more than the 900 s of SENCACHE_MAX_SECONDS; choose"
    ):
        next(Studio().run(longest))
    monkeypatch.setenv("SENCACHE_MAX_SECONDS", str(int(seconds)))
    with pytest.raises(SencacheError, match=f"more than the {int(seconds)} s"):
        Studio().estimate(long)
    monkeypatch.setenv("SENCACHE_MAX_SECONDS", "1000000")
    assert Studio().estimate(longest).seconds > 900
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    with pytest.raises(SencacheError, match="more than the 58 s of one call; choose fewer"):
        Studio().estimate(longest)
    assert Studio().estimate(ask()).reserved <= 80


@pytest.mark.parametrize("wrong", ["0", "-5", "1e3", "ten"])
def test_a_limit_that_is_no_number_is_refused_at_the_start(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENCACHE_MAX_SECONDS", wrong)
    with pytest.raises(SencacheError, match=f"SENCACHE_MAX_SECONDS is '{wrong}'; write whole seconds"):
        Studio()


def test_models_are_loaded_once_under_many_threads() -> None:
    found, threads = (
        [],
        [threading.Thread(target=lambda: found.append(service.model("tiny-wan"))) for _ in range(8)],
    )
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len({id(model) for model in found}) == 1


def test_an_ask_understands_its_models_own_numbers() -> None:
    request = understand(make_ask(prompt="x")).request
    model = describe()["models"][0]
    assert (request.steps, request.height, request.frames) == (
        model["steps"],
        model["height"],
        model["frames"],
    )
