"""The models offered: what they take, what they refuse, and what they make once loaded."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from sencache.engine.architectures import ARCHITECTURES
from sencache.errors import SencacheError
from sencache.library import bundled_profiles
from sencache.models import model as models
from sencache.models.catalogue import MODELS as LISTED
from sencache.models.model import (
    ASSETS,
    ENCODED,
    MODELS,
    Model,
    ModelSpec,
    check_request,
    load,
    model_spec,
    own_profile,
)
from sencache.models.spec import PIPELINES
from sencache.models.stills import read_still, still_pixels
from sencache.schema import MAX_PROMPT, Request, Still

TINY = MODELS["tiny-wan"]
SIDES = range(32, 257, 16)
FRAMES = range(1, 82, 4)
MAX_BYTES = 10_000_000


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and two test runs at once would fight over the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


STILL = Still(name="cat.png", sha256="0" * 64)


def request_of(spec: ModelSpec = TINY, **changes: Any) -> Request:
    names = ("steps", "height", "width", "frames", "guidance_scale", "guidance_scale_2")
    own = {name: getattr(spec, name) for name in names} | {"image": STILL if spec.from_image else None}
    return Request(**{"prompt": "a red circle", **own, **changes})


def refusal(**changes: Any) -> str:
    with pytest.raises(SencacheError) as refused:
        check_request(TINY, request_of(**changes))
    return str(refused.value)


# ---- the list


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_a_model_takes_the_request_that_it_proposes(spec: ModelSpec) -> None:
    check_request(spec, request_of(spec))
    assert model_spec(spec.key) is spec
    assert spec.summary and spec.licence and spec.fps > 0


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_a_model_is_of_an_architecture_that_the_engine_knows(spec: ModelSpec) -> None:
    assert spec.architecture in {architecture.name for architecture in ARCHITECTURES.values()}
    assert spec.architecture in ENCODED


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_a_model_can_be_calibrated_on_its_own_prompts(spec: ModelSpec) -> None:
    assert len(set(spec.calibration_prompts)) == len(spec.calibration_prompts) >= 8
    for prompt in spec.calibration_prompts:
        check_request(spec, request_of(spec, prompt=prompt))


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_a_profile_is_of_its_model(spec: ModelSpec) -> None:
    profile = own_profile(spec)
    assert profile is not None or spec.profile not in bundled_profiles()
    if profile is not None:
        profile.require(spec.architecture)
        assert (profile.model.id, profile.schedule.steps) == (spec.id, spec.steps)
        shift = profile.schedule.config.get("flow_shift")
        assert spec.bundled or shift in (None, spec.shift)


def test_the_bundled_profile_is_of_its_model() -> None:
    profile = own_profile(TINY)
    assert profile is not None
    profile.require(TINY.architecture)
    assert (profile.model.id, profile.schedule.steps) == ("tiny-wan", TINY.steps)
    assert profile.shape is not None
    assert (profile.shape.height, profile.shape.width, profile.shape.frames) == (64, 64, 17)
    assert own_profile(replace(TINY, profile=None)) is None


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_a_model_is_of_a_pipeline_of_diffusers(spec: ModelSpec) -> None:
    import diffusers

    kind = PIPELINES[spec.pipeline]
    assert (kind.architecture, kind.from_image) == (spec.architecture, spec.from_image)
    assert hasattr(diffusers, spec.pipeline) and (
        spec.scheduler is None or hasattr(diffusers, spec.scheduler)
    )
    parts = {"text_encoder", "transformer", "transformer_2", "vae", "image_encoder"}
    assert set(spec.parameters) <= parts and set(spec.dtypes) <= parts
    assert MODELS is LISTED


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(SencacheError, match=r"unknown model 'sora'; choose from .*tiny-wan"):
        model_spec("sora")


# ---- requests


@pytest.mark.parametrize("name", ["height", "width"])
@given(value=st.integers(-(10**6), 10**6) | st.integers(-40, 300))
def test_a_side_is_taken_or_the_nearest_one_named(name: str, value: int) -> None:
    if value in SIDES:
        check_request(TINY, request_of(**{name: value}))
    else:
        message = refusal(**{name: value})
        assert f"a {name} of {value} pixels; use a multiple of 16 from 32 to 256" in message
        assert_nearest(message, value, SIDES)


@given(st.integers(-(10**6), 10**6) | st.integers(-40, 100))
def test_frames_are_taken_or_the_nearest_number_named(value: int) -> None:
    if value in FRAMES:
        check_request(TINY, request_of(frames=value))
    else:
        message = refusal(frames=value)
        assert f"cannot make {value} frames; use 4k+1 up to 81" in message
        assert_nearest(message, value, FRAMES)


def assert_nearest(message: str, value: int, valid: range) -> None:
    named = re.search(r"for example (-?\d+)$", message)
    assert named is not None and int(named[1]) in valid
    assert abs(int(named[1]) - value) == min(abs(other - value) for other in valid)


@pytest.mark.parametrize("prompt", ["", " ", "\n\t "])
def test_a_prompt_must_say_something(prompt: str) -> None:
    assert refusal(prompt=prompt) == "the prompt is empty; describe the video in a few words"


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_a_prompt_may_be_long_but_not_longer(name: str) -> None:
    check_request(TINY, request_of(**{name: "x" * MAX_PROMPT}))
    assert refusal(**{name: "x" * (MAX_PROMPT + 1)}) == (
        f"the {name.replace('_', ' ')} has 2,001 characters; shorten it to at most 2,000"
    )


def test_a_still_goes_with_models_that_start_from_one() -> None:
    from_still = MODELS["wan-14b-i2v-480p"]
    check_request(from_still, request_of(from_still))
    with pytest.raises(SencacheError, match="makes a video from a still and none is given"):
        check_request(from_still, request_of(from_still, image=None))
    assert "cannot use the image 'cat.png'" in refusal(image=STILL)


def test_a_second_scale_goes_with_a_second_transformer() -> None:
    two = MODELS["wan2.2-a14b"]
    check_request(two, request_of(two, guidance_scale_2=2.0))
    assert "has no second transformer" in refusal(guidance_scale_2=2.0)


def test_a_model_of_one_size_takes_no_other() -> None:
    fixed = MODELS["cogvideox-5b-i2v"]
    with pytest.raises(SencacheError, match="cannot make a height of 320 pixels; its only height is 480"):
        check_request(fixed, request_of(fixed, height=320))


@pytest.mark.parametrize("size", [(7, 5), (64, 48), (30, 200)])
def test_a_still_is_scaled_and_cut_not_squeezed(tmp_path: Path, size: tuple[int, int]) -> None:
    """A white disc in the middle stays round and in the middle."""
    width, height = 400, 300
    y, x = np.mgrid[:height, :width]
    disc = (x - (width - 1) / 2) ** 2 + (y - (height - 1) / 2) ** 2 < 60**2
    Image.fromarray((disc * 255).astype(np.uint8)).save(tmp_path / "disc.png")
    still = read_still(tmp_path / "disc.png")
    assert still.sha256 == hashlib.sha256((tmp_path / "disc.png").read_bytes()).hexdigest()
    made = np.asarray(still_pixels(still, *size), dtype=float)[..., 0] / 255
    assert made.shape == size
    scale = max(size[0] / height, size[1] / width)
    assert made.sum() == pytest.approx(min(np.pi * (60 * scale) ** 2, made.size), rel=0.4)
    centre = [(made.sum(axis=1 - axis) @ np.arange(size[axis])) / made.sum() for axis in (0, 1)]
    assert centre == pytest.approx([(side - 1) / 2 for side in size], abs=1)


def test_a_picture_is_turned_as_the_camera_noted(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20))
    picture.paste((255, 0, 0), (0, 0, 20, 20))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    red = np.asarray(still_pixels(read_still(tmp_path / "turned.png"), 40, 20))[..., 0]
    assert red[:15].min() > 200 and red[25:].max() < 50


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + b"0" * 40], ids=["empty", "text", "cut"]
)
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "still.png").write_bytes(content)
    with pytest.raises(SencacheError, match=r"'still.png' is not a picture \(.*\); give a PNG or JPEG"):
        read_still(tmp_path / "still.png")
    with pytest.raises(SencacheError, match="cannot read the image"):
        read_still(tmp_path / "missing.png")


def test_a_still_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "still.png")
    still = read_still(tmp_path / "still.png")
    Image.new("RGB", (5, 5)).save(tmp_path / "still.png")
    with pytest.raises(SencacheError, match="was changed meanwhile"):
        still_pixels(still, 4, 4)


def test_requests_without_a_still_are_stored_as_before() -> None:
    """Reports that are sealed already keep their digest."""
    assert {"image", "guidance_scale_2"}.isdisjoint(request_of().model_dump(mode="json"))
    assert request_of(MODELS["wan2.2-a14b-i2v"]).model_dump(mode="json")["image"] == {
        "name": "cat.png",
        "sha256": "0" * 64,
    }


def test_a_budget_may_be_all_steps_but_no_more() -> None:
    check_request(TINY, request_of(steps=7, nfe=7))
    assert "a budget of 8 evaluations exceeds the 7 steps" in refusal(steps=7, nfe=8)


# ---- loading


def test_the_bundled_files_are_all_there_and_small() -> None:
    source = ASSETS / "tiny-wan"
    for part in ("transformer", "vae", "text_encoder"):
        assert list((source / part).glob("*.safetensors")), part
    for file in (
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
        "README.md",
    ):
        assert (source / file).is_file(), file
    assert (ASSETS / "lpips" / "alexnet_features.safetensors").is_file()
    sizes = {path: path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()}
    assert {path: size for path, size in sizes.items() if not 0 < size < MAX_BYTES} == {}


def test_no_bundled_file_can_run_code() -> None:
    assert {path.suffix for path in ASSETS.rglob("*") if path.is_file()} == {".safetensors", ".json", ".md"}


def test_a_loaded_model_is_ready_on_the_cpu(tiny_wan: Model) -> None:
    pipe = tiny_wan.pipe
    assert (tiny_wan.spec, tiny_wan.device.type, tiny_wan.dtype) == (TINY, "cpu", torch.float32)
    for module in (pipe.transformer, pipe.vae, pipe.text_encoder):
        assert not module.training
        assert {p.dtype for p in module.parameters()} == {torch.float32}
        assert {p.device.type for p in module.parameters()} == {"cpu"}


def test_a_model_says_what_it_is(tiny_wan: Model) -> None:
    assert tiny_wan.info().model_dump() == {
        "key": "tiny-wan",
        "id": "tiny-wan",
        "revision": None,
        "architecture": "wan",
        "device": "cpu",
        "dtype": "float32",
        "scheduler": "UniPCMultistepScheduler shift 3",
    }


def test_two_loads_share_nothing(tiny_wan: Model) -> None:
    other = load("tiny-wan")
    mine = {p.data_ptr() for p in tiny_wan.pipe.transformer.parameters()}
    assert mine.isdisjoint(p.data_ptr() for p in other.pipe.transformer.parameters())
    assert other.pipe.scheduler is not tiny_wan.pipe.scheduler


LOST = [
    *(".", "transformer/diffusion_pytorch_model.safetensors", "vae/config.json"),
    *("tokenizer/tokenizer.json", "text_encoder/model.safetensors"),
]


@pytest.mark.parametrize("lost", LOST)
def test_missing_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    source = tmp_path / "half"
    shutil.copytree(TINY.source, source)
    shutil.rmtree(source) if lost == "." else (source / lost).unlink()
    monkeypatch.setitem(models.MODELS, "half", replace(TINY, key="half", source=source))
    with pytest.raises(SencacheError) as refused:
        load("half")
    assert re.fullmatch(
        r"the weights of half cannot be read \(.+\); save the pipeline into .+ again", str(refused.value)
    )


def test_a_damaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "half"
    shutil.copytree(TINY.source, source)
    os.truncate(source / "transformer" / "diffusion_pytorch_model.safetensors", 1000)
    monkeypatch.setitem(models.MODELS, "half", replace(TINY, key="half", source=source))
    with pytest.raises(SencacheError, match="the weights of half cannot be read"):
        load("half")


@pytest.mark.parametrize("device", ["tpu", "", "cpu:x", "CPU", "meta", "mps", "xla"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(SencacheError, match=f"unknown device '{device}'; use cpu or cuda"):
        load("tiny-wan", device)


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SencacheError, match="device 'cuda:0' is not available here; use cpu"):
        load("tiny-wan", "cuda:0")


# ---- what a model makes


def test_guidance_needs_a_second_encoding(tiny_wan: Model) -> None:
    guided, plain = (tiny_wan.encode("a red circle", "", scale) for scale in (4.0, 1.0))
    assert set(guided) == {"prompt_embeds", "negative_prompt_embeds"} and set(plain) == {"prompt_embeds"}
    assert torch.equal(guided["prompt_embeds"], plain["prompt_embeds"])
    assert not guided["prompt_embeds"].requires_grad
    assert guided["prompt_embeds"].shape[1] == TINY.max_sequence_length


def test_prompts_make_a_difference(tiny_wan: Model) -> None:
    first, second = (tiny_wan.encode(prompt, "", 1.0)["prompt_embeds"] for prompt in ("a circle", "a star"))
    assert not torch.equal(first, second)


def made(model: Model, request: Request, **options: Any) -> Any:
    encoded = model.encode(request.prompt, request.negative_prompt, request.guidance_scale)
    return model.generate(model.pipe, encoded, request, **options)


def test_frames_depend_on_the_request_alone(tiny_wan: Model) -> None:
    request = request_of(steps=2, frames=5, height=32, width=48)
    torch.manual_seed(1)
    first = made(tiny_wan, request)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert np.array_equal(first, made(tiny_wan, request))
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state()), "the global random state was used"
    assert (first.shape, first.dtype) == ((5, 32, 48, 3), np.float32)
    assert 0 <= first.min() < first.max() <= 1
    for changes in ({"seed": 1}, {"steps": 3}, {"guidance_scale": 1.0}, {"prompt": "a star"}):
        assert not np.array_equal(first, made(tiny_wan, request.model_copy(update=changes))), changes


def test_latents_come_as_the_transformer_sees_them(tiny_wan: Model) -> None:
    latent = made(tiny_wan, request_of(steps=1), output_type="latent")
    assert (latent.shape, latent.dtype) == ((16, 5, 8, 8), np.float32)


# ---- expected failures


def test_a_pickle_is_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "pickled"
    shutil.copytree(TINY.source, source)
    weights = source / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    monkeypatch.setitem(models.MODELS, "pickled", replace(TINY, key="pickled", source=source))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was opened"))
    with pytest.raises(SencacheError, match="pickled"):
        load("pickled")
