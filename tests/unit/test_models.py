"""The models that come with the software: what the list says of them, how they load, what they make."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_requests import TINY, request_of
from safetensors.torch import load_file

from sencache.architectures import ARCHITECTURES
from sencache.errors import SencacheError
from sencache.models import model as models
from sencache.models.catalogue import MODELS as LISTED
from sencache.models.model import (
    ASSETS,
    MODELS,
    Model,
    ModelSpec,
    check_request,
    load,
    own_profile,
)
from sencache.profiles.library import bundled_profiles
from sencache.schema import Request

MAX_BYTES = 10_000_000
pytestmark = pytest.mark.usefixtures("one_thread")


# ---- the list


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_a_model_takes_the_request_that_it_proposes(spec: ModelSpec) -> None:
    check_request(spec, request_of(spec))
    assert spec.summary and spec.licence and spec.fps > 0


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_a_model_is_of_an_architecture_that_the_engine_knows(spec: ModelSpec) -> None:
    assert spec.architecture in ARCHITECTURES


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

    assert spec.pipeline in ARCHITECTURES[spec.architecture].pipelines
    assert hasattr(diffusers, spec.pipeline) and (
        spec.scheduler is None or hasattr(diffusers, spec.scheduler)
    )
    parts = {"text_encoder", "transformer", "transformer_2", "vae", "image_encoder"}
    assert set(spec.parameters) <= parts and set(spec.dtypes) <= parts
    assert MODELS is LISTED


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


def made(model: Model, request: Request) -> Any:
    encoded = model.encode(request.prompt, request.negative_prompt, request.guidance_scale)
    return model.generate(model.pipe, encoded, request)


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
    request = request_of(steps=1)
    latent = tiny_wan.latent(tiny_wan.pipe, tiny_wan.encode(request.prompt, "", 4.0), request)
    assert (latent.shape, latent.dtype) == ((16, 5, 8, 8), torch.float32)


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
