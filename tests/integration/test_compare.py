"""A comparison of all methods: what it tells, what its lanes made, what its report says."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import (
    CACHING,
    LANES,
    REQUEST,
    SETTINGS,
    STEPS,
    TYPED,
    Separate,
    lane_of,
    of_kind,
    recorded_policy,
    request_of,
    separate_call,
    strip_measures,
    with_,
)

from sencache.comparison.compare import Compared, Event, LaneDone, LaneStarted, Started, StepDone, compare
from sencache.comparison.plan import parse_lanes
from sencache.comparison.report import Lane, Report
from sencache.models.model import Model
from sencache.profiles.profile import Profile
from sencache.video import to_uint8

pytestmark = pytest.mark.usefixtures("one_thread")


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
def separate(tiny_wan: Model, bundled_profile: Profile, lanes: dict[str, Lane]) -> dict[str, Separate]:
    """Every lane again, as a separate call under attach with what the report says of it."""
    return {
        name: separate_call(
            tiny_wan, with_(REQUEST, steps=lane.steps), recorded_policy(lane, bundled_profile)
        )
        for name, lane in lanes.items()
    }


# ---- the stream


def test_the_full_run_comes_first_wherever_it_was_typed(events: list[Event], report: Report) -> None:
    assert isinstance(events[0], Started) and isinstance(events[-1], Compared)
    assert len(of_kind(events, Started)) == len(of_kind(events, Compared)) == 1
    assert events[0].lanes == LANES == tuple(lane.name for lane in report.lanes)
    assert of_kind(events, LaneStarted)[0].lane == of_kind(events, LaneDone)[0].lane.name == "none"


@pytest.mark.parametrize("name", LANES)
def test_a_lane_starts_then_steps_then_ends(events: list[Event], lanes: dict[str, Lane], name: str) -> None:
    started, *steps, done = [event for event in events if lane_of(event) == name]
    assert isinstance(started, LaneStarted) and isinstance(done, LaneDone)
    assert all(isinstance(event, StepDone) for event in steps)
    assert [event.record.step for event in of_kind(steps, StepDone)] == list(range(started.steps))
    assert tuple(event.record for event in of_kind(steps, StepDone)) == done.lane.trace
    assert (started.method, started.steps) == (done.lane.method, done.lane.steps)
    assert done.lane == lanes[name]
    if name in CACHING:
        assert started.config == done.lane.config
        assert done.lane.target == started.config["target"]
        assert done.lane.forecast == started.config["forecast"]


def test_lanes_advance_in_lockstep(events: list[Event]) -> None:
    seen = [(e.record.step, e.lane) for e in of_kind(events, StepDone) if e.lane != "fewer-steps"]
    together = [name for name in LANES if name != "fewer-steps"]
    assert seen == [(step, name) for step in range(STEPS) for name in together]


def test_fewer_steps_waits_for_sencache_and_takes_as_many_steps(
    events: list[Event], lanes: dict[str, Lane]
) -> None:
    began = next(i for i, event in enumerate(events) if lane_of(event) == "fewer-steps")
    assert {lane_of(event) for event in events[began:-1]} == {"fewer-steps"}
    assert lanes["fewer-steps"].steps == lanes["fewer-steps"].nfe == lanes["sencache"].nfe < STEPS
    assert lanes["sencache"].nfe not in (lanes["fixed"].nfe, lanes["sencache:repair=replay"].nfe)


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


@pytest.mark.parametrize("name", LANES)
def test_a_lane_is_bit_identical_to_a_separate_call(
    lanes: dict[str, Lane], frames: dict[str, Any], separate: dict[str, Separate], name: str
) -> None:
    alone = separate[name]
    assert np.array_equal(frames[name], to_uint8(alone.frames))
    assert strip_measures(lanes[name].trace) == alone.records
    assert lanes[name].transformer_calls == alone.transformer_calls == 2 * lanes[name].nfe


def test_the_full_run_is_the_plain_pipeline(tiny_wan: Model, frames: dict[str, Any]) -> None:
    def call(seed: int) -> Any:
        return tiny_wan.pipe(
            REQUEST.prompt,
            "",
            height=REQUEST.height,
            width=REQUEST.width,
            num_frames=REQUEST.frames,
            num_inference_steps=STEPS,
            guidance_scale=4.0,
            generator=torch.Generator().manual_seed(seed),
            max_sequence_length=tiny_wan.spec.max_sequence_length,
            output_type="np",
        ).frames[0]

    assert np.array_equal(frames["none"], to_uint8(call(0)))
    other = list(compare(tiny_wan, with_(REQUEST, seed=1), parse_lanes("none")))
    seeded = of_kind(other, LaneDone)[0].frames
    assert np.array_equal(seeded, to_uint8(call(1))) and not np.array_equal(seeded, frames["none"])


@pytest.mark.parametrize("name", CACHING)
def test_drift_is_the_rms_distance_of_the_latents(
    lanes: dict[str, Lane], separate: dict[str, Separate], name: str
) -> None:
    """And so nothing until the first reuse."""
    trace, full = lanes[name].trace, separate["none"].latents
    for record, mine, whole in zip(trace, separate[name].latents, full, strict=True):
        expected = np.sqrt(np.mean((mine.double() - whole.double()).numpy() ** 2))
        assert record.drift == pytest.approx(expected, rel=1e-5, abs=0)
    first = next(record.step for record in trace if record.decision == "reuse")
    assert {record.drift for record in trace[:first]} == {0.0}
    assert all(record.drift is not None and record.drift > 0 for record in trace[first:])


def test_a_baseline_computes_because_it_is_told_to(lanes: dict[str, Lane]) -> None:
    """Fewer-steps is on another schedule, and so has no drift."""
    for name, drift in (("none", 0.0), ("fewer-steps", None)):
        assert {record.drift for record in lanes[name].trace} == {drift}
        assert {record.reason for record in lanes[name].trace[1:]} == {"forced"}
    full = lanes["none"]
    assert (full.metrics, full.speedup, full.cache_ratio, full.config) == (None, 1.0, 0.0, {})


# ---- what the report says


def test_the_report_is_sealed_and_names_what_ran(report: Report, tiny_wan: Model) -> None:
    assert report.digest == report.content_digest()
    assert (report.request, report.model) == (REQUEST, tiny_wan.info())
    assert report.versions["torch"] == torch.__version__.split("+")[0]


@pytest.mark.parametrize("name", LANES)
def test_times_and_counts_are_those_of_the_trace(lanes: dict[str, Lane], name: str) -> None:
    lane = lanes[name]
    seconds = [record.seconds for record in lane.trace]
    assert all(value is not None and value > 0 for value in seconds)
    assert lane.denoise_seconds == pytest.approx(sum(seconds), rel=1e-12)
    assert lane.decode_seconds > 0
    assert lane.seconds > lane.denoise_seconds + lane.decode_seconds
    assert lane.speedup == pytest.approx(lanes["none"].denoise_seconds / lane.denoise_seconds, rel=1e-12)
    computed = [record.decision for record in lane.trace].count("compute")
    assert (lane.steps, lane.nfe) == (len(lane.trace), computed)
    assert lane.cache_ratio == pytest.approx((lane.steps - computed) / lane.steps)
    assert (lane.cache_bytes > 0) == (1 < lane.nfe < lane.steps) == (name in CACHING)


def test_each_lane_counts_its_own_time_only(lanes: dict[str, Lane], timed: tuple[list[Event], float]) -> None:
    assert sum(lane.seconds for lane in lanes.values()) < timed[1]


@pytest.mark.parametrize("name", LANES[1:])
def test_psnr_is_that_of_the_decoders_frames(
    lanes: dict[str, Lane], separate: dict[str, Separate], name: str
) -> None:
    """Not of the whole numbers that a video holds."""
    full = separate["none"].frames
    error = np.mean((separate[name].frames.astype(np.float64) - full) ** 2)
    metrics = lanes[name].metrics
    assert metrics is not None and not metrics.identical
    assert metrics.psnr == pytest.approx(-10 * np.log10(error), rel=1e-6)
    assert len(metrics.per_frame["lpips"]) == len(full) == REQUEST.frames


def test_only_methods_that_use_a_profile_name_one(lanes: dict[str, Lane], bundled_profile: Profile) -> None:
    for lane in lanes.values():
        if lane.method in ("sencache", "magcache", "teacache", "control"):
            assert lane.profile is not None
            assert lane.profile.path == "tiny-wan.unipc-50.json"
            assert lane.profile.sha256 == bundled_profile.sha256
            assert any("50 steps, this run 12" in note for note in lane.notes)
        else:
            assert lane.profile is None and lane.notes == ()
