"""Whole comparisons of the bundled models: every method, target and forecast, with and without a budget."""

from __future__ import annotations

import itertools
from typing import Any

import emulation  # noqa: F401
import numpy as np
import pytest

import sencache
from sencache.comparison.compare import Compared, LaneDone, compare
from sencache.comparison.plan import parse_lanes
from sencache.comparison.report import Report
from sencache.comparison.verify import profiles_at_hand, verify
from sencache.models.model import Model, own_profile
from sencache.schema import Request
from sencache.video import to_uint8

MODELS = ("tiny-wan", "tiny-cogvideox", "tiny-ltx")
CACHING = ("fixed", "sencache", "magcache", "teacache", "easycache", "control")
TARGETS, FORECASTS = ("residual", "output", "delta"), ("hold", "linear")
WAYS = [f":target={target}:forecast={forecast}" for target, forecast in itertools.product(TARGETS, FORECASTS)]
# Two ways for a method on each model: all of them on all three.
LANES = {
    key: [CACHING[k] + WAYS[(k + 2 * nth + more) % 6] for k in range(6) for more in (0, 1)]
    for nth, key in enumerate(MODELS)
}
SETTINGS = [
    *("fixed.interval=3", "easycache.forced_first=3", "easycache.threshold=1", "teacache.threshold=50"),
    *("sencache.tolerance=2", "magcache.threshold=1", "control.tolerance=1"),
]


def compared(
    models: list[Model], lanes: str, settings: list[str], **changes: Any
) -> tuple[Report, dict[str, Any]]:
    """The report, whose every decision holds, and every lane's frames."""
    (model, *copies), frames = models, {}
    size = {"steps": 6, "height": 32, "width": 32, "frames": 9, "guidance_scale": 4.0}
    request = Request(prompt="a red circle", **{**size, **changes})
    profile = own_profile(model.spec)
    for event in compare(model, request, parse_lanes(lanes, settings), profile, copies):
        if isinstance(event, LaneDone):
            frames[event.lane.name] = event.frames
    assert isinstance(event, Compared)
    assert verify(event.report, profiles_at_hand([profile])) == []
    return event.report, frames


@pytest.mark.parametrize("key", MODELS)
def test_every_method_target_and_forecast(key: str) -> None:
    """All reuse, and where they do not, they are the plain run of a CPU, bit for bit."""
    model, host, lanes = sencache.load(key, "cuda"), sencache.load(key), LANES[key]
    exact = [f"control:tolerance=0:target={target}" for target in TARGETS]
    report, frames = compared([model], ",".join([*lanes, *exact]), SETTINGS)
    assert (report.model.device, report.model.dtype) == ("cuda", "float32")
    done = {lane.name: lane for lane in report.lanes}
    assert [name for name in lanes if done[name].nfe == 6] == []
    assert all(done[name].nfe == 6 and np.array_equal(frames[name], frames["none"]) for name in exact)
    request = report.request
    encoded = host.encode(request.prompt, "", request.guidance_scale)
    assert np.array_equal(frames["none"], to_uint8(host.generate(host.pipe, encoded, request)))


def test_a_budget_is_met_by_every_method() -> None:
    model = sencache.load("tiny-cogvideox", "cuda")
    # Both of EasyCache's that are forced come off the budget.
    report, _ = compared([model], ",".join(CACHING), ["easycache.forced_first=2"], nfe=4)
    nfe = {lane.method: lane.nfe for lane in report.lanes}
    assert nfe == {**dict.fromkeys(("fewer-steps", *CACHING), 4), "none": 6}


REPLAYED = (
    *("fixed:interval=3:target=prediction:repair=replay", "sencache:forecast=fitted:repair=replay"),
    *("magcache:forecast=fitted:repair=replay:target=prediction", "control"),
)


@pytest.mark.parametrize("key", MODELS)
def test_replayed_and_fitted_lanes_are_those_of_a_cpu(key: str) -> None:
    settings = ["sencache.tolerance=2", "magcache.threshold=1", "control.tolerance=1"]
    made = [
        compared([sencache.load(key, device)], ",".join(REPLAYED), settings) for device in ("cuda", "cpu")
    ]
    (report, frames), (known, expected) = made
    for ours, theirs in zip(report.lanes, known.lanes, strict=True):
        assert np.array_equal(frames[ours.name], expected[ours.name])
        corrections = [record.correction for record in ours.trace]
        assert corrections == [record.correction for record in theirs.trace]
        assert any(corrections) == (ours.nfe < len(ours.trace)) == (ours.method in CACHING)


def test_presets_run() -> None:
    model = sencache.load("tiny-ltx", "cuda")
    report, _ = compared([model], "sencache,magcache,teacache", [], preset="fast")
    assert report.request.preset == "fast"


def test_several_gpus_make_the_videos_of_one() -> None:
    pair = [sencache.load("tiny-wan", f"cuda:{index}") for index in range(2)]
    lanes = "sencache,magcache,teacache,control"
    one, frames = compared(pair[:1], lanes, [], nfe=4)
    two, spread = compared(pair, lanes, [], nfe=4)
    assert (one.model.device, two.model.device) == ("cuda:0", "cuda:0,cuda:1")
    for name, video in frames.items():
        assert np.array_equal(spread[name], video), name
