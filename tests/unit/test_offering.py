"""Which models a Space offers, and that what its page opens with runs and fits a visitor's quota."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sencache.errors import SencacheError
from sencache.models.model import MODELS, ModelSpec, check_request
from sencache.schema import Request
from sencache.service import figures, space
from sencache.service.ask import Ask, make_ask, understand
from sencache.service.figures import Cost, Figures
from sencache.service.offer import describe
from sencache.service.pace import Paces
from sencache.ui.api import _Endpoints
from sencache.ui.controls import build_controls

TINY = MODELS["tiny-wan"]
# The size of Wan 2.1 1.3B.
LARGE = replace(
    TINY, key="large", height=480, width=832, frames=81, max_side=1280, max_frames=161, profile=None
)
SHARED_CARD = 1.5


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Space of that model alone."""
    monkeypatch.setitem(MODELS, "large", LARGE)
    monkeypatch.setenv("MODEL_ID", "large")


def opening() -> Ask:
    """What Run asks for before a visitor touched anything."""
    with gr.Blocks(analytics_enabled=False):
        controls = build_controls(describe())
    return controls.ask(*(component.value for component in controls.inputs))


REAL = [key for key, spec in MODELS.items() if not spec.bundled and not spec.from_image]


@pytest.mark.parametrize("key", REAL)
def test_what_the_page_opens_with_can_run(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every model, whatever its own profile serves; what it does not is named with the remedy."""
    monkeypatch.setenv("MODEL_ID", key)
    ask, (model,) = opening(), describe()["models"]
    assert {"none", "fewer-steps", "easycache", "control"} <= {lane.name for lane in understand(ask).lanes}
    for lane in model["unserved"]:
        with pytest.raises(SencacheError):
            understand(ask.model_copy(update={"methods": (lane,)}))
    offered = {lane["lane"] for lane in describe()["methods"] if not lane["baseline"]}
    assert {*ask.methods, *model["unserved"], "fixed"} == offered
    with gr.Blocks(analytics_enabled=False):
        told = build_controls(describe()).fields["methods"].info
    assert "SenCache" in told and f"python -m sencache calibrate --model {key}" in told


def test_bundled_models_are_served_by_all_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODEL_ID", raising=False)
    assert [model["unserved"] for model in describe()["models"]] == [[]] * len(describe()["models"])
    with gr.Blocks(analytics_enabled=False):
        assert build_controls(describe()).fields["methods"].info is None


@pytest.mark.parametrize("key", REAL)
def test_what_the_page_opens_with_fits_the_quota(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ID", key)
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    assert Paces().estimate(understand(opening()), "cuda").booked <= space.ANONYMOUS_SECONDS


def test_a_space_of_one_model(large: None) -> None:
    """Its page, its answers and its refusals know no other; an ask that names none means it."""
    assert [model["key"] for model in describe()["models"]] == ["large"]
    assert make_ask(prompt="x").model == "large"
    assert understand(make_ask(prompt="x")).request.width == 832
    with pytest.raises(SencacheError, match="choose from large"):
        understand(make_ask(prompt="x", model="tiny-wan"))


def test_without_model_id_the_bundled_ones_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODEL_ID", raising=False)
    assert make_ask(prompt="x").model == "tiny-wan"


def test_numbers_are_shortened_on_zerogpu_only(large: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert space.offered_model("large") is LARGE
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    fitted = space.offered_model("large")
    assert fitted == space.first_run(LARGE) != LARGE
    request = understand(make_ask(prompt="x", model="large")).request
    assert (request.steps, request.frames, request.height) == (fitted.steps, fitted.frames, fitted.height)
    # What a visitor asks for in so many words is not touched.
    assert understand(make_ask(prompt="x", model="large", steps=50)).request.steps == 50


def own_booking(spec: ModelSpec, made: Figures) -> float:
    """Quota seconds of a first run, written out anew: a full lane, fewer steps, and the caching lanes that
    the page opens with, all of half its computed steps.
    """
    caching = {"tiny-wan": 6, "large": 2}[spec.key]
    voxels = spec.height * spec.width * spec.frames
    step, reused, rest = (
        cost.fixed + cost.per_voxel * voxels for cost in (made.computed, made.reused, made.rest)
    )
    half = max(1, round(spec.steps / 2))
    cached = half * step + (spec.steps - half) * reused
    seconds = (spec.steps + half) * step + caching * cached + (2 + caching) * rest
    return SHARED_CARD * min(1.3 * seconds + 4, 120)


@given(
    st.floats(1e-3, 3),
    st.floats(1e-9, 3e-8),
    st.floats(0, 2),
    st.integers(20, 100),
    st.sampled_from([TINY, LARGE]),
)
@settings(max_examples=60, deadline=None)
def test_a_first_run_fits_whatever_a_step_costs(
    fixed: float, per_voxel: float, rest: float, steps: int, spec: ModelSpec
) -> None:
    """Within two minutes of quota or as short as it gets, never longer than the model's own run, and a video
    that the model can make.
    """
    spec, made = replace(spec, steps=steps), Figures(Cost(fixed, per_voxel), Cost(0.02, 0.0), Cost(rest, 0.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(figures.FIGURES, (spec.key, "cuda"), made)
        fitted = space.first_run(spec)
    least = (fitted.steps, fitted.height) == (round(steps * 0.4), _half(spec))
    assert own_booking(fitted, made) <= 120 + 3 or least
    if own_booking(spec, made) <= 115:
        assert fitted == spec
    for name in ("steps", "frames", "height", "width"):
        assert 0 < getattr(fitted, name) <= getattr(spec, name)
    sizes = {"height": fitted.height, "width": fitted.width, "frames": fitted.frames}
    check_request(spec, Request(prompt="x", steps=fitted.steps, guidance_scale=1.0, **sizes))


def _half(spec: ModelSpec) -> int:
    return max(spec.min_side, round(spec.height / 2 / 16) * 16)


def test_the_owner_can_say_what_size_the_model_was_made_for(
    large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the page opens with, and what is asked for where nothing else is said."""
    monkeypatch.setenv("SENCACHE_SIZE", "512x320x49")
    (model,) = describe()["models"]
    assert (model["width"], model["height"], model["frames"]) == (512, 320, 49)
    request = understand(make_ask(prompt="x")).request
    assert (request.width, request.height, request.frames) == (512, 320, 49)
    for wrong, said in (
        ("512x320", "SENCACHE_SIZE is '512x320'; write width, height and frames, as 832x480x81"),
        ("big", "SENCACHE_SIZE is 'big'"),
        ("513x320x49", "a width of 513 pixels; use a multiple of 16"),
        ("512x320x48", "48 frames; use 4k.1"),
    ):
        monkeypatch.setenv("SENCACHE_SIZE", wrong)
        with pytest.raises(SencacheError, match=said):
            describe()


def test_a_client_that_names_no_model_means_the_apps_own(large: None) -> None:
    asked: list[Ask] = []
    studio = SimpleNamespace(run=lambda ask: asked.append(ask) or iter(()))
    list(_Endpoints(studio, describe()).compare("x", methods=["control"]))  # type: ignore[arg-type]
    assert [ask.model for ask in asked] == ["large"]


def test_steps_go_first_then_frames_then_size() -> None:
    quotas = (10**6, 240, 170, 120, 80, 60)
    fitted = [space.first_run(LARGE, quota) for quota in quotas]
    for one in fitted:
        if one.height < LARGE.height:
            assert any(other.frames < LARGE.frames and other.height == LARGE.height for other in fitted)
        elif one.frames < LARGE.frames:
            assert any(other.steps < LARGE.steps and other.frames == LARGE.frames for other in fitted)
    volumes = [one.height * one.width * one.frames * one.steps for one in fitted]
    assert volumes == sorted(volumes, reverse=True) and len(set(volumes)) > 3


def test_the_switch_for_compiling_is_for_zerogpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENCACHE_AOT", "1")
    assert not space.ahead_of_time()
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert space.ahead_of_time()
    monkeypatch.delenv("SENCACHE_AOT")
    assert not space.ahead_of_time()
