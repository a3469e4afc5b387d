"""Which models a Space offers, and that what its page opens with runs and fits a visitor's quota."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import gradio as gr
import pytest

from sencache.app import space
from sencache.app.offer import describe
from sencache.app.pages.controls import Controls, build_controls
from sencache.app.request import ComparisonRequest, make_request, plan_request
from sencache.app.seconds import RATES, ZEROGPU, ZEROGPU_LONGEST, Pace, longest_call
from sencache.app.space import sample
from sencache.errors import SencacheError
from sencache.models.model import MODELS, check_request

TINY = MODELS["tiny-wan"]
# The size of Wan 2.1 1.3B.
LARGE = replace(
    TINY,
    **{"key": "large", "height": 480, "width": 832, "frames": 81, "max_side": 1280, "max_frames": 161},
    **{"inner": 1536, "feed_forward": 8960, "layers": 30, "profile": None},
)
# Which models the guide says ZeroGPU can serve.
ON_ZEROGPU = ("wan-1.3b", "cogvideox-2b", "cogvideox-5b", "ltx", "ltx-0.9.1")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Space of that model alone, whose visitors have all the time there is."""
    monkeypatch.setenv("SENCACHE_MAX_SECONDS", "100000000")
    monkeypatch.setitem(MODELS, "large", LARGE)
    monkeypatch.setenv("MODEL_ID", "large")


def controls() -> Controls:
    with gr.Blocks(analytics_enabled=False):
        return build_controls(describe())


def opening() -> ComparisonRequest:
    """What Run asks for before a visitor touched anything."""
    fields = controls()
    return fields.request(*(component.value for component in fields.inputs))


def about_methods() -> Any:
    """What stands beside the choice of methods."""
    return controls().fields["methods"].info


REAL = [key for key, spec in MODELS.items() if not spec.bundled and not spec.from_image]


@pytest.mark.parametrize("key", REAL)
def test_what_the_page_opens_with_can_run(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every model, whatever its own profile serves; what it does not is named with the remedy."""
    monkeypatch.setenv("MODEL_ID", key)
    ask, (model,) = opening(), describe()["models"]
    assert {"none", "fewer-steps", "control"} <= {lane.spec.name for lane in plan_request(ask).lanes}
    for lane in model["unserved"]:
        with pytest.raises(SencacheError):
            plan_request(ask.model_copy(update={"methods": (lane,)}))
    offered = {lane["lane"] for lane in describe()["methods"] if not lane["baseline"]}
    left_out = {*model["unserved"], *model["idle"], *model["spared"], "fixed", "firstblock", "seacache"}
    assert {*ask.methods, *left_out} == offered
    told = about_methods()
    assert "SenCache" in told and f"python -m sencache calibrate --model {key}" in told


def test_bundled_models_are_served_by_all_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODEL_ID", raising=False)
    assert [model["unserved"] for model in describe()["models"]] == [[]] * len(describe()["models"])
    assert make_request(prompt="x").model == "tiny-wan" and about_methods() is None


@pytest.mark.parametrize("key", ON_ZEROGPU)
def test_what_the_page_opens_with_fits_the_quota(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the margin of the reservation whole, also once SenCache's profile has come."""
    monkeypatch.setenv("MODEL_ID", key)
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    estimate = Pace().estimate(plan_request(opening()), ZEROGPU)
    assert 1.3 * estimate.seconds + 4 <= estimate.reserved <= ZEROGPU_LONGEST
    # What a visitor who has not signed in has a day.
    assert estimate.booked == math.ceil(1.5 * estimate.reserved) <= 120


@pytest.mark.parametrize("key", ON_ZEROGPU)
def test_a_first_run_is_worth_seeing(key: str) -> None:
    """Thirty steps, two seconds, five lanes with SenCache and Control, and no side under 224 pixels."""
    spec, fitted = MODELS[key], space.first_run(MODELS[key], ZEROGPU, longest_call())
    lanes = space.affordable_lanes(fitted, space.sizing_lanes(fitted), ZEROGPU, longest_call())
    assert space.first_seconds(fitted, lanes, ZEROGPU) <= longest_call()
    assert fitted.steps >= 30 and fitted.frames >= 1.95 * fitted.fps
    assert min(fitted.height, fitted.width) >= 224
    assert len(lanes) >= 3 and {"sencache", "control"} <= set(lanes)
    assert "magcache" in lanes or "magcache" in space.unserved_lanes(spec)
    check_request(spec, sample(fitted))


def test_what_is_dropped_goes_in_order() -> None:
    """Frames, then size, then steps, then lanes; the faster the card, the less."""
    cards = sorted(RATES.keys() - {ZEROGPU}, key=lambda card: RATES[card])
    fitted = [space.first_run(MODELS["wan-1.3b"], card, 60) for card in cards]
    volumes = [one.height * one.width * one.frames * one.steps for one in fitted]
    assert volumes == sorted(volumes) and len(set(volumes)) > 3
    for one in fitted:
        if one.steps < 50:
            assert one.height < 480 and one.frames < 81
    # All it takes, where nothing has to go.
    assert space.first_run(TINY, ZEROGPU, longest_call()) == TINY


def test_a_method_that_its_settings_keep_from_reusing_is_left_out_and_said_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A distilled model of 12 steps: EasyCache's ten first steps and its last exceed a budget of six."""
    monkeypatch.setitem(MODELS, "short", replace(TINY, key="short", steps=12))
    monkeypatch.setenv("MODEL_ID", "short")
    (model,) = describe()["models"]
    assert model["idle"] == {"easycache": 11} and not model["unserved"]
    assert "easycache" not in model["preselected"] and "control" in model["preselected"]
    why = "which computes 11 of 12 steps in any case, more than the budget of 6."
    assert about_methods() == f"Not chosen: EasyCache, {why}"


def test_what_is_spared_for_time_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ID", "wan2.2-ti2v-5b")
    monkeypatch.setenv("SENCACHE_MAX_SECONDS", "100000000")
    assert describe()["models"][0]["spared"] == []
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    (model,) = describe()["models"]
    assert model["spared"] == ["easycache"] and model["preselected"] == ["magcache", "teacache", "control"]
    assert about_methods().endswith("Not chosen, so that a first run is not too long: EasyCache.")


def test_a_space_of_one_model(large: None) -> None:
    """Its page, its answers and its refusals know no other; an ask that names none means it."""
    assert [model["key"] for model in describe()["models"]] == ["large"]
    assert make_request(prompt="x").model == "large"
    assert plan_request(make_request(prompt="x")).request.width == 832
    with pytest.raises(SencacheError, match="choose from large"):
        plan_request(make_request(prompt="x", model="tiny-wan"))


def test_numbers_are_shortened_to_what_may_be_run(large: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the owner lets a run be, on ZeroGPU as long as one call may be."""
    assert space.offered_model("large") == LARGE
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    fitted = space.offered_model("large")
    assert fitted == space.first_run(LARGE, ZEROGPU, 58) != LARGE
    request = plan_request(make_request(prompt="x", model="large")).request
    assert (request.steps, request.frames, request.height) == (fitted.steps, fitted.frames, fitted.height)
    # What a visitor asks for in so many words is not touched.
    assert plan_request(make_request(prompt="x", model="large", steps=50)).request.steps == 50


def test_the_owner_can_say_what_size_the_model_was_made_for(
    large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the page opens with, and what is asked for where nothing else is said."""
    monkeypatch.setenv("SENCACHE_SIZE", "512x320x49")
    (model,) = describe()["models"]
    assert (model["width"], model["height"], model["frames"]) == (512, 320, 49)
    request = plan_request(make_request(prompt="x")).request
    assert (request.width, request.height, request.frames) == (512, 320, 49)
    for wrong, said in (
        ("512x320", "SENCACHE_SIZE is '512x320'; write width, height and frames, as 832x480x81"),
        ("513x320x49", "a width of 513 pixels; use a multiple of 16"),
        ("512x320x48", "48 frames; use 4k.1"),
    ):
        monkeypatch.setenv("SENCACHE_SIZE", wrong)
        with pytest.raises(SencacheError, match=said):
            describe()


def test_the_switch_for_compiling_is_for_zerogpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENCACHE_AOT", "1")
    assert not space.ahead_of_time()
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert space.ahead_of_time()
    monkeypatch.delenv("SENCACHE_AOT")
    assert not space.ahead_of_time()
