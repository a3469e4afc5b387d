"""The models that come with the software: what the list says of them, how they load, what they make."""

from __future__ import annotations

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
from sencache.models.checkpoint import missing_files
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
def test_an_entry_holds_together(spec: ModelSpec) -> None:
    """It takes the request and the prompts that it proposes, and names what diffusers and the engine have."""
    import diffusers

    check_request(spec, request_of(spec))
    assert spec.summary and spec.licence and spec.fps > 0
    assert len(set(spec.calibration_prompts)) == len(spec.calibration_prompts) >= 8
    for prompt in spec.calibration_prompts:
        check_request(spec, request_of(spec, prompt=prompt))
    assert spec.pipeline in ARCHITECTURES[spec.architecture].pipelines
    assert hasattr(diffusers, spec.pipeline) and hasattr(diffusers, spec.scheduler or spec.pipeline)
    parts = {"text_encoder", "transformer", "transformer_2", "vae", "image_encoder"}
    assert set(spec.parameters) <= parts and set(spec.dtypes) <= parts


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_a_profile_is_of_its_model(spec: ModelSpec) -> None:
    profile = own_profile(spec)
    assert (profile is not None) == (spec.profile in bundled_profiles())
    if profile is not None:
        profile.require(spec.architecture)
        assert (profile.model.id, profile.schedule.steps) == (spec.id, spec.steps)
        shift = profile.schedule.config.get("flow_shift")
        assert spec.bundled or shift in (None, spec.shift)
    if spec.bundled:
        assert profile is not None and profile.shape is not None
        assert (profile.shape.height, profile.shape.width, profile.shape.frames) == (64, 64, 17)
    assert own_profile(replace(spec, profile=None)) is None


# ---- loading


def test_the_bundled_files_are_all_there_and_small_and_cannot_run_code() -> None:
    source = ASSETS / "tiny-wan"
    assert missing_files(source) == [] and (source / "README.md").is_file()
    assert (ASSETS / "lpips" / "alexnet_features.safetensors").is_file()
    sizes = {path: path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()}
    assert {path: size for path, size in sizes.items() if not 0 < size < MAX_BYTES} == {}
    assert {path.suffix for path in sizes} == {".safetensors", ".json", ".md"}


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


def copy_of_tiny(folder: Path) -> ModelSpec:
    """The bundled model where it can be damaged."""
    shutil.copytree(TINY.source, folder)
    return replace(TINY, key=folder.name, source=folder)


@pytest.mark.parametrize("lost", [".", "transformer/diffusion_pytorch_model.safetensors", "vae/config.json"])
def test_missing_weights_are_named(tmp_path: Path, lost: str) -> None:
    spec = copy_of_tiny(tmp_path / "half")
    shutil.rmtree(spec.source) if lost == "." else (spec.source / lost).unlink()
    with pytest.raises(SencacheError) as refused:
        load(spec)
    assert re.fullmatch(
        r"the weights of half cannot be read \(.+\); save the pipeline into .+ again", str(refused.value)
    )


@pytest.mark.parametrize("device", ["tpu", "", "cpu:x", "mps"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(SencacheError, match=f"unknown device '{device}'; use cpu or cuda"):
        load("tiny-wan", device)


# ---- what a model makes


def test_guidance_needs_a_second_encoding(tiny_wan: Model) -> None:
    guided, plain = (tiny_wan.encode("a red circle", "", scale) for scale in (4.0, 1.0))
    assert set(guided) == {"prompt_embeds", "negative_prompt_embeds"} and set(plain) == {"prompt_embeds"}
    assert torch.equal(guided["prompt_embeds"], plain["prompt_embeds"])
    assert not guided["prompt_embeds"].requires_grad
    assert guided["prompt_embeds"].shape[1] == TINY.max_sequence_length


def generate(model: Model, request: Request) -> Any:
    encoded = model.encode(request.prompt, request.negative_prompt, request.guidance_scale)
    return model.generate(model.pipe, encoded, request)


def test_frames_depend_on_the_request_alone(tiny_wan: Model) -> None:
    request = request_of(steps=2, frames=5, height=32, width=48)
    torch.manual_seed(1)
    first = generate(tiny_wan, request)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert np.array_equal(first, generate(tiny_wan, request))
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state()), "the global random state was used"
    assert (first.shape, first.dtype) == ((5, 32, 48, 3), np.float32)
    assert 0 <= first.min() < first.max() <= 1
    for changes in ({"seed": 1}, {"steps": 3}, {"guidance_scale": 1.0}, {"prompt": "a star"}):
        assert not np.array_equal(first, generate(tiny_wan, request.model_copy(update=changes))), changes


def test_latents_come_as_the_transformer_sees_them(tiny_wan: Model) -> None:
    request = request_of(steps=1)
    latent = tiny_wan.latent(tiny_wan.pipe, tiny_wan.encode(request.prompt, "", 4.0), request)
    assert (latent.shape, latent.dtype) == ((16, 5, 8, 8), torch.float32)


def test_a_pickle_is_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = copy_of_tiny(tmp_path / "pickled")
    weights = spec.source / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was opened"))
    with pytest.raises(SencacheError, match="pickled"):
        load(spec)
