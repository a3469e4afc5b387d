"""One comparison as a stream of events: their order, what they hold, and that no lane disturbs another."""

from __future__ import annotations

import copy
import importlib
import pkgutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler

import sencache
from sencache.comparison import Compared, Event, LaneDone, LaneStarted, Started, StepDone, compare
from sencache.engine.attach import attach
from sencache.engine.trace import Record
from sencache.errors import SencacheError
from sencache.models.model import Model
from sencache.plan import LaneSpec, parse_lanes
from sencache.policies import Full, Policy, make_policy, uses_profile
from sencache.profile import Profile
from sencache.report import Lane, Report
from sencache.schema import Request

STEPS = 12
BUDGET_STEPS, NFE = 16, 12
CACHING = ("fixed", "sencache", "sencache:forecast=linear", "magcache", "teacache", "easycache", "control")
LANES = ("none", "fewer-steps", *CACHING)
# The full run is typed last, to be shown first.
TYPED = ",".join((*LANES[1:], "none"))
# Knobs at which, in twelve steps, every method reuses some steps and computes others.
SETTINGS = (
    "fixed.interval=3",
    "sencache.tolerance=0.8",
    "easycache.forced_first=3",
    "easycache.threshold=0.15",
    "control.tolerance=0.1",
)
Kind = TypeVar("Kind")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and two test runs at once would fight over the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def request_of(steps: int, **changes: Any) -> Request:
    size = {"height": 64, "width": 64, "frames": 5, "guidance_scale": 4.0}
    return Request(prompt="a red circle moving right", steps=steps, **{**size, **changes})


REQUEST = request_of(STEPS, frames=17)


def with_(request: Request, **changes: Any) -> Request:
    return request.model_copy(update=changes)


def of_kind(events: list[Event], kind: type[Kind]) -> list[Kind]:
    return [event for event in events if isinstance(event, kind)]


@pytest.fixture(scope="module")
def timed(tiny_wan: Model, bundled_profile: Profile) -> tuple[list[Event], float]:
    """The comparison that most tests look at, and how long it took."""
    began = time.perf_counter()
    events = list(compare(tiny_wan, REQUEST, parse_lanes(TYPED, SETTINGS), bundled_profile))
    return events, time.perf_counter() - began


@pytest.fixture(scope="module")
def events(timed: tuple[list[Event], float]) -> list[Event]:
    return timed[0]


@pytest.fixture(scope="module")
def report(events: list[Event]) -> Report:
    return of_kind(events, Compared)[0].report


@pytest.fixture(scope="module")
def lanes(report: Report) -> dict[str, Lane]:
    return {lane.name: lane for lane in report.lanes}


@pytest.fixture(scope="module")
def frames(events: list[Event]) -> dict[str, Any]:
    return {event.lane.name: event.frames for event in of_kind(events, LaneDone)}


@pytest.fixture(scope="module")
def budget_events(tiny_wan: Model, bundled_profile: Profile) -> list[Event]:
    """All methods with their own defaults, on a budget that each of them can meet."""
    request = request_of(BUDGET_STEPS, nfe=NFE)
    return list(compare(tiny_wan, request, parse_lanes(TYPED), bundled_profile))


@dataclass
class Separate:
    """One call of the pipeline on its own."""

    frames: Any
    latents: list[torch.Tensor]
    records: list[Record]
    transformer_calls: int


def separate_call(model: Model, request: Request, policy: Policy) -> Separate:
    latents: list[torch.Tensor] = []

    def keep(_: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        latents.append(tensors["latents"].clone())
        return {}

    encoded = model.encode(request.prompt, request.negative_prompt, request.guidance_scale)
    with attach(model.pipe, policy) as trace:
        frames = model.generate(model.pipe, encoded, request, keep)
    return Separate(frames, latents, trace.records, trace.transformer_calls)


def recorded_policy(lane: Lane, profile: Profile) -> Policy:
    """The policy that the report says was used."""
    if not lane.config:
        return Full()
    return make_policy(lane.method, lane.config, profile if uses_profile(lane.method) else None)


@pytest.fixture(scope="module")
def separate(tiny_wan: Model, bundled_profile: Profile, lanes: dict[str, Lane]) -> dict[str, Separate]:
    """Every lane again, as a separate call under attach with what the report says of it."""
    return {
        name: separate_call(
            tiny_wan, with_(REQUEST, steps=lane.steps), recorded_policy(lane, bundled_profile)
        )
        for name, lane in lanes.items()
    }


def decided(records: Any) -> list[Record]:
    """The records without what a comparison measured."""
    return [record.model_copy(update={"drift": None, "seconds": None}) for record in records]


def first_reuse(lane: Lane) -> int:
    return next(record.step for record in lane.trace if record.decision == "reuse")


# ---- the stream


def test_the_stream_begins_with_started_and_ends_with_compared(events: list[Event]) -> None:
    assert isinstance(events[0], Started) and isinstance(events[-1], Compared)
    assert len(of_kind(events, Started)) == len(of_kind(events, Compared)) == 1


def test_the_full_run_comes_first_wherever_it_was_typed(events: list[Event], report: Report) -> None:
    assert of_kind(events, Started)[0].lanes == LANES
    assert tuple(lane.name for lane in report.lanes) == LANES
    assert of_kind(events, LaneStarted)[0].lane == "none"
    assert of_kind(events, LaneDone)[0].lane.name == "none"


@pytest.mark.parametrize("name", LANES)
def test_a_lane_starts_then_steps_then_ends(events: list[Event], lanes: dict[str, Lane], name: str) -> None:
    started, *steps, done = [event for event in events if lane_of(event) == name]
    assert isinstance(started, LaneStarted) and isinstance(done, LaneDone)
    assert all(isinstance(event, StepDone) for event in steps)
    assert [event.record.step for event in of_kind(steps, StepDone)] == list(range(started.steps))
    assert tuple(event.record for event in of_kind(steps, StepDone)) == done.lane.trace
    assert (started.method, started.steps) == (done.lane.method, done.lane.steps)
    assert done.lane == lanes[name]


def lane_of(event: Event) -> str | None:
    match event:
        case LaneStarted(lane=name) | StepDone(lane=name):
            return name
        case LaneDone(lane=lane):
            return lane.name
    return None


@pytest.mark.parametrize("name", CACHING)
def test_a_lane_tells_its_settings_as_it_starts(
    events: list[Event], lanes: dict[str, Lane], name: str
) -> None:
    started = next(event for event in of_kind(events, LaneStarted) if event.lane == name)
    assert started.config == lanes[name].config
    assert (lanes[name].target, lanes[name].forecast) == (
        started.config["target"],
        started.config["forecast"],
    )


def test_lanes_advance_in_lockstep(events: list[Event]) -> None:
    told = [(e.record.step, e.lane) for e in of_kind(events, StepDone) if e.lane != "fewer-steps"]
    together = [name for name in LANES if name != "fewer-steps"]
    assert told == [(step, name) for step in range(STEPS) for name in together]


def test_fewer_steps_waits_for_sencache_and_takes_as_many_steps(
    events: list[Event], lanes: dict[str, Lane]
) -> None:
    began = next(i for i, event in enumerate(events) if lane_of(event) == "fewer-steps")
    rest = {lane_of(event) for event in events[began:-1]}
    assert rest == {"fewer-steps"}
    assert lanes["fewer-steps"].steps == lanes["fewer-steps"].nfe == lanes["sencache"].nfe < STEPS
    assert lanes["sencache"].nfe not in (lanes["fixed"].nfe, lanes["sencache:forecast=linear"].nfe)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("none,fewer-steps", 2), ("control:tolerance=0,fixed:interval=3", 4), ("fixed:interval=3,control", 2)],
)
def test_fewer_steps_without_sencache_follows_the_first_caching_lane_or_halves(
    tiny_wan: Model, typed: str, expected: int
) -> None:
    events = list(compare(tiny_wan, request_of(4), parse_lanes(typed), None))
    fewer = next(lane for lane in events[-1].report.lanes if lane.method == "fewer-steps")
    assert fewer.steps == fewer.nfe == expected


# ---- what the lanes made


@pytest.mark.parametrize("name", CACHING)
def test_every_caching_lane_computes_and_reuses(lanes: dict[str, Lane], name: str) -> None:
    assert 1 < lanes[name].nfe < STEPS


@pytest.mark.parametrize("name", LANES)
def test_a_lane_is_bit_identical_to_a_separate_call(
    lanes: dict[str, Lane], frames: dict[str, Any], separate: dict[str, Separate], name: str
) -> None:
    alone = separate[name]
    assert np.array_equal(frames[name], alone.frames)
    assert decided(lanes[name].trace) == alone.records
    assert lanes[name].transformer_calls == alone.transformer_calls == 2 * lanes[name].nfe


def test_the_full_run_is_the_plain_pipeline(tiny_wan: Model, frames: dict[str, Any]) -> None:
    video = tiny_wan.pipe(
        "a red circle moving right",
        "",
        height=64,
        width=64,
        num_frames=17,
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(0),
        max_sequence_length=tiny_wan.spec.max_sequence_length,
        output_type="np",
    ).frames[0]
    assert np.array_equal(frames["none"], video)


@pytest.mark.parametrize("name", CACHING)
def test_drift_is_the_rms_distance_of_the_latents(
    lanes: dict[str, Lane], separate: dict[str, Separate], name: str
) -> None:
    for record, mine, full in zip(
        lanes[name].trace, separate[name].latents, separate["none"].latents, strict=True
    ):
        expected = np.sqrt(np.mean((mine.double() - full.double()).numpy() ** 2))
        assert record.drift == pytest.approx(expected, rel=1e-5, abs=0)


@pytest.mark.parametrize("name", CACHING)
def test_drift_is_nothing_until_the_first_reuse(lanes: dict[str, Lane], name: str) -> None:
    drifts, first = [record.drift for record in lanes[name].trace], first_reuse(lanes[name])
    assert set(drifts[:first]) == {0.0}
    assert all(drift is not None and drift > 0 for drift in drifts[first:])


def test_drift_of_the_baselines(lanes: dict[str, Lane]) -> None:
    assert {record.drift for record in lanes["none"].trace} == {0.0}
    assert {record.drift for record in lanes["fewer-steps"].trace} == {None}


# ---- what the report says


def test_the_report_is_sealed_and_names_what_ran(report: Report, tiny_wan: Model) -> None:
    assert report.digest == report.content_digest()
    assert report.request == REQUEST
    assert report.model == tiny_wan.info()
    assert report.versions["torch"] == torch.__version__.split("+")[0]


@pytest.mark.parametrize("name", LANES)
def test_times_add_up(lanes: dict[str, Lane], name: str) -> None:
    lane = lanes[name]
    seconds = [record.seconds for record in lane.trace]
    assert all(value is not None and value > 0 for value in seconds)
    assert lane.denoise_seconds == pytest.approx(sum(seconds), rel=1e-12)
    assert lane.decode_seconds > 0
    assert lane.seconds > lane.denoise_seconds + lane.decode_seconds
    assert lane.speedup == pytest.approx(lanes["none"].denoise_seconds / lane.denoise_seconds, rel=1e-12)


def test_each_lane_counts_its_own_time_only(lanes: dict[str, Lane], timed: tuple[list[Event], float]) -> None:
    assert sum(lane.seconds for lane in lanes.values()) < timed[1]


@pytest.mark.parametrize("name", LANES)
def test_counts_agree_with_the_trace(lanes: dict[str, Lane], name: str) -> None:
    lane = lanes[name]
    computed = [record.decision for record in lane.trace].count("compute")
    assert (lane.steps, lane.nfe) == (len(lane.trace), computed)
    assert lane.cache_ratio == pytest.approx((lane.steps - computed) / lane.steps)
    assert (lane.cache_bytes > 0) == (name in CACHING)


@pytest.mark.parametrize("name", LANES[1:])
def test_psnr_is_that_of_the_frames(lanes: dict[str, Lane], frames: dict[str, Any], name: str) -> None:
    error = np.mean((frames[name].astype(np.float64) - frames["none"]) ** 2)
    metrics = lanes[name].metrics
    assert metrics is not None and not metrics.identical
    assert metrics.psnr == pytest.approx(-10 * np.log10(error), rel=1e-6)
    assert len(metrics.per_frame["lpips"]) == len(frames["none"]) == 17


def test_the_full_run_is_measured_against_nothing(lanes: dict[str, Lane]) -> None:
    full = lanes["none"]
    assert (full.metrics, full.speedup, full.cache_ratio, full.config) == (None, 1.0, 0.0, {})


@pytest.mark.parametrize("name", LANES)
def test_only_methods_that_need_a_profile_name_one(
    lanes: dict[str, Lane], bundled_profile: Profile, name: str
) -> None:
    used = lanes[name].profile
    if lanes[name].method in ("sencache", "magcache", "teacache"):
        assert used is not None
        assert (used.path, used.sha256) == ("tiny-wan.unipc-50.json", bundled_profile.sha256)
        assert any("50 steps, this run 12" in note for note in lanes[name].notes)
    else:
        assert used is None and lanes[name].notes == ()


@pytest.mark.parametrize("name", ["none", "fewer-steps"])
def test_a_full_run_computes_because_it_is_told_to(lanes: dict[str, Lane], name: str) -> None:
    assert {record.reason for record in lanes[name].trace[1:]} == {"forced"}


# ---- a budget


def test_with_a_budget_the_full_run_is_made_before_all_others(budget_events: list[Event]) -> None:
    order = [lane_of(event) for event in budget_events[1:-1]]
    alone = BUDGET_STEPS + 2
    assert order[:alone] == ["none"] * alone and "none" not in order[alone:]


def test_with_a_budget_the_others_advance_in_lockstep(budget_events: list[Event]) -> None:
    told = [(e.record.step, e.lane) for e in of_kind(budget_events, StepDone) if e.lane != "none"]
    both = [(step, name) for step in range(BUDGET_STEPS) for name in LANES[1:]]
    assert told == [(step, name) for step, name in both if step < NFE or name != "fewer-steps"]


@pytest.mark.parametrize("name", LANES[1:])
def test_every_method_meets_the_budget_and_says_what_it_reached(
    budget_events: list[Event], name: str
) -> None:
    report = budget_events[-1].report
    lane = next(lane for lane in report.lanes if lane.name == name)
    assert report.request.nfe == NFE
    assert abs(lane.nfe - NFE) <= 1
    assert lane.nfe == [record.decision for record in lane.trace].count("compute")


@pytest.mark.parametrize("name", CACHING)
def test_the_report_holds_the_knob_that_met_the_budget(
    budget_events: list[Event], tiny_wan: Model, bundled_profile: Profile, name: str
) -> None:
    done = next(event for event in of_kind(budget_events, LaneDone) if event.lane.name == name)
    policy = recorded_policy(done.lane, bundled_profile)
    alone = separate_call(tiny_wan, request_of(BUDGET_STEPS), policy)
    assert decided(done.lane.trace) == alone.records
    assert np.array_equal(done.frames, alone.frames)


def test_a_budget_out_of_reach_is_missed_openly(tiny_wan: Model) -> None:
    request = request_of(12, nfe=4)
    report = list(compare(tiny_wan, request, parse_lanes("easycache:forced_first=8,fixed"), None))[-1].report
    nfe = {lane.name: lane.nfe for lane in report.lanes}
    assert nfe == {"none": 12, "fewer-steps": 4, "fixed": 4, "easycache": 9}


def test_what_the_user_set_stays_under_a_budget(tiny_wan: Model) -> None:
    typed = parse_lanes("fixed:interval=3,control:tolerance=0.25")
    report = list(compare(tiny_wan, request_of(8, nfe=6), typed, None))[-1].report
    fixed, control = (lane for lane in report.lanes if lane.config)
    assert (fixed.config["interval"], fixed.config["steps"], fixed.nfe) == (3, None, 3)
    assert control.config["tolerance"] == 0.25


# ---- again, and at once


def outcome(events: list[Event]) -> dict[str, Any]:
    """All that must not depend on when and beside what a comparison runs."""
    return {
        done.lane.name: (
            decided(done.lane.trace),
            [record.drift for record in done.lane.trace],
            done.frames.tobytes(),
        )
        for done in of_kind(events, LaneDone)
    }


def test_the_same_comparison_twice_is_the_same(
    tiny_wan: Model, bundled_profile: Profile, events: list[Event]
) -> None:
    again = list(compare(tiny_wan, REQUEST, parse_lanes(TYPED, SETTINGS), bundled_profile))
    assert outcome(again) == outcome(events)


def test_another_seed_is_another_video(tiny_wan: Model, frames: dict[str, Any]) -> None:
    other = list(compare(tiny_wan, with_(REQUEST, seed=1), parse_lanes("none"), None))
    assert not np.array_equal(of_kind(other, LaneDone)[0].frames, frames["none"])


def test_comparisons_in_two_threads_do_not_disturb_each_other(bundled_profile: Profile) -> None:
    jobs = [
        (sencache.load("tiny-wan"), request_of(8), parse_lanes("sencache:tolerance=0.6,control")),
        (sencache.load("tiny-wan"), request_of(8, seed=1, guidance_scale=1), parse_lanes("magcache,fixed")),
    ]
    start = Barrier(2)

    def run(job: Any) -> dict[str, Any]:
        return outcome(list(compare(*job, bundled_profile)))

    def run_at_once(job: Any) -> dict[str, Any]:
        start.wait(timeout=30)
        return run(job)

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(2) as two:
        alone, together = list(one.map(run, jobs)), list(two.map(run_at_once, jobs))
    assert together == alone


# ---- ended early


def plain_latent(model: Model) -> Any:
    request = request_of(3)
    encoded = model.encode(request.prompt, "", request.guidance_scale)
    return model.generate(model.pipe, encoded, request, output_type="latent")


def attachments(model: Model) -> Any:
    """Every place in which the engine or a lane could have left something."""
    module = model.pipe.transformer
    return {
        name: list(value.items()) if isinstance(value, dict) else value
        for name, value in module.__dict__.items()
        if name.startswith("_") or name == "cache_context"
    }


@pytest.fixture
def unharmed(tiny_wan: Model) -> Iterator[Model]:
    """A model that must be the same after the test: attributes, hooks, and what it makes."""
    latent = plain_latent(tiny_wan)  # first: diffusers itself adds something when a pipeline is first called
    before = attachments(tiny_wan)
    yield tiny_wan
    assert attachments(tiny_wan) == before
    assert np.array_equal(plain_latent(tiny_wan), latent)
    assert torch.is_grad_enabled()


STOPS = {"started": 1, "lane started": 2, "first step": 6, "middle of a round": 14, "a lane is done": 22}


@pytest.mark.parametrize("taken", STOPS.values(), ids=STOPS)
def test_closing_the_stream_leaves_the_model_as_it_was(
    unharmed: Model, bundled_profile: Profile, taken: int
) -> None:
    stream = compare(unharmed, request_of(4), parse_lanes("sencache,fixed,control"), bundled_profile)
    for _ in range(taken):
        next(stream)
    stream.close()
    assert list(stream) == []


def test_an_interrupt_leaves_the_model_as_it_was(unharmed: Model) -> None:
    stream = compare(unharmed, request_of(4), parse_lanes("fixed"), None)
    for _ in range(6):
        next(stream)
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt())


def test_a_failing_step_ends_all_lanes(unharmed: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    step, calls = UniPCMultistepScheduler.step, iter(range(100))

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        if next(calls) == 5:
            raise MemoryError("no memory left")
        return step(self, *args, **kwargs)

    under_way, generate = [], unharmed.generate

    def counted(*args: Any, **kwargs: Any) -> Any:
        under_way.append(1)
        try:
            return generate(*args, **kwargs)
        finally:
            under_way.pop()

    stream = compare(unharmed, request_of(4), parse_lanes("fixed,control"), None)
    with monkeypatch.context() as patched:
        patched.setattr(UniPCMultistepScheduler, "step", failing)
        patched.setattr(unharmed, "generate", counted)
        with pytest.raises(MemoryError, match="no memory left") as caught:
            list(stream)
    # The traceback keeps every frame alive, so whatever has ended was ended on purpose.
    assert caught.tb is not None and under_way == []


def test_a_comparison_changes_nothing_at_module_level(tiny_wan: Model, bundled_profile: Profile) -> None:
    for module in pkgutil.walk_packages(sencache.__path__, "sencache."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    before = module_level()
    list(compare(tiny_wan, request_of(3, nfe=2), parse_lanes("sencache,teacache,control"), bundled_profile))
    assert module_level() == before


def module_level() -> dict[str, Any]:
    """Copies of all containers that the modules of the package hold."""
    return {
        f"{module}.{name}": copy.copy(value)
        for module in sorted(sys.modules)
        if module.split(".")[0] == "sencache"
        for name, value in vars(sys.modules[module]).items()
        if isinstance(value, (dict, list, set)) and not name.startswith("__")
    }


# ---- refused before anything runs

REFUSED = {
    "no profile": ("sencache", {}, None, "sencache needs a calibrated profile"),
    "no profile, teacache": ("teacache", {}, None, "teacache needs a calibrated profile"),
    "setting out of range": ("control:tolerance=-1", {}, None, "control.tolerance is '-1'"),
    "step list too long": ("fixed:steps=0+4", {}, None, "fixed.steps names step 4"),
    "unknown preset": ("fixed", {"preset": "warp"}, None, "unknown preset 'warp'"),
    "no prompt": ("fixed", {"prompt": " "}, None, "the prompt is empty"),
    "budget above the steps": ("fixed", {"nfe": 5}, None, "a budget of 5"),
    "another architecture": ("sencache", {}, "ltx", "cannot serve a wan model"),
    "another architecture, unused": ("fixed", {}, "cogvideox", "cannot serve a wan model"),
}


@pytest.mark.parametrize(("typed", "changes", "architecture", "message"), REFUSED.values(), ids=REFUSED)
def test_a_comparison_is_refused_before_anything_runs(
    tiny_wan: Model,
    bundled_profile: Profile,
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    changes: dict[str, Any],
    architecture: str | None,
    message: str,
) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(tiny_wan, "generate", run)
    profile = of_architecture(bundled_profile, architecture) if architecture else None
    request = with_(request_of(4), **changes)
    with pytest.raises(SencacheError, match=message):
        next(compare(tiny_wan, request, parse_lanes(typed), profile))


def of_architecture(profile: Profile, architecture: str) -> Profile:
    model = profile.model.model_copy(update={"id": "other", "architecture": architecture})
    return profile.model_copy(update={"model": model})


def test_lanes_come_in_any_order_and_baselines_are_added(tiny_wan: Model) -> None:
    lanes = [LaneSpec("fixed", "fixed"), LaneSpec("none", "none")]
    report = list(compare(tiny_wan, request_of(3), lanes, None))[-1].report
    assert [lane.name for lane in report.lanes] == ["none", "fixed", "fewer-steps"]
