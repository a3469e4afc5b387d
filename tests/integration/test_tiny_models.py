"""The bundled models: plain pipeline folders, small, trained, and obeying their prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from sencache.models.model import MODELS, Model
from sencache.models.words import hint
from sencache.policies.loading import load_profile
from sencache.profiles.library import bundled_profile
from sencache.schema import Request
from training import checking, clips, preview
from training.__main__ import app
from training.export import check_sizes
from training.families import family_of
from training.scoring import score

BUNDLED = [key for key, spec in MODELS.items() if key.startswith("tiny-")]
CLASSES = {
    "wan": ("WanPipeline", "AutoencoderKLWan", "UMT5EncoderModel", "WanTransformer3DModel"),
    "cogvideox": (
        *("CogVideoXPipeline", "AutoencoderKLCogVideoX", "T5EncoderModel", "CogVideoXTransformer3DModel"),
    ),
    "ltx": ("LTXPipeline", "AutoencoderKLLTXVideo", "T5EncoderModel", "LTXVideoTransformer3DModel"),
}


@pytest.fixture(scope="module", params=BUNDLED)
def key(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def pipe(key: str) -> Any:
    return checking.load(MODELS[key].source)


def test_the_folder_is_small_and_in_half_precision_and_has_a_card(key: str, pipe: Any) -> None:
    folder = MODELS[key].source
    check_sizes(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Apache-2.0" in card and "| model |" in card
    assert [path for path in folder.glob("*/config.json") if "_name_or_path" in path.read_text()] == []
    for path in folder.glob("*/*.safetensors"):
        with safe_open(path, framework="pt") as weights:
            assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118
    names = [type(part).__name__ for part in (pipe, pipe.vae, pipe.text_encoder, pipe.transformer)]
    assert tuple(names) == CLASSES[MODELS[key].architecture]


def test_the_autoencoder_copies_held_out_clips(pipe: Any) -> None:
    psnr, _ = checking.of_autoencoder(family_of(pipe).codec(pipe.vae), count=1, seed=3)
    assert psnr > 24


def test_held_out_prompts_are_obeyed_far_above_chance(pipe: Any) -> None:
    """Fewer steps than usual; a model whose training failed gets no colour right, see the test on noise."""
    made = list(checking.of_model(pipe, count=5, seed=3, steps=14, guidance=4.0))
    result = score((asked, seen) for asked, seen, _ in made)
    assert result.share("colour") > 0.7 and result.share("background") > 0.7
    for *_, video in made:
        assert video.shape == (clips.FRAMES, clips.SIDE, clips.SIDE, 3) and np.isfinite(video).all()


def test_the_catalogue_asks_for_what_the_model_was_made_for(key: str) -> None:
    spec = MODELS[key]
    assert (spec.height, spec.width, spec.frames) == (clips.SIDE, clips.SIDE, clips.FRAMES)
    assert [prompt for prompt in spec.calibration_prompts if hint(prompt)] == []
    assert spec.profile is not None
    profile = load_profile(bundled_profile(spec.profile))
    assert profile.model.architecture == spec.architecture and profile.schedule.steps == spec.steps


def test_unknown_words_run_all_the_same(tiny_wan: Model) -> None:
    prompt = "a unicorn playing chess"
    assert hint(prompt)
    request = Request(prompt=prompt, seed=0, steps=2, height=64, width=64, frames=17, guidance_scale=4.0)
    frames = tiny_wan.generate(tiny_wan.pipe, tiny_wan.encode(prompt, "", 4.0), request)
    assert frames.shape == (17, 64, 64, 3) and np.isfinite(frames).all()


def test_example_prompts_are_understood() -> None:
    file = Path(__file__).parents[2] / "examples" / "prompts.txt"
    prompts = file.read_text(encoding="utf-8").splitlines()
    assert prompts and [prompt for prompt in prompts if hint(prompt)] == []


def test_the_check_command_measures_a_bundled_model(tmp_path: Path) -> None:
    folder = MODELS["tiny-wan"].source
    arguments = ["check", str(folder), "--prompts", "1", "--steps", "2", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and "| drawn clips | 100.0 % |" in done.output
    assert {path.name for path in tmp_path.iterdir()} == {"scores.json", "clips.png"}


def test_the_train_command_makes_a_model_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training of no length: every stage runs, and again from what it left."""
    monkeypatch.setattr(preview, "STEPS", 1)
    arguments = ["train", "--arch", "ltx", "--minutes", "0", "--clips", "16", "--out", str(tmp_path)]
    for _ in range(2):
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0
    assert {"autoencoder.pt", "denoiser.pt", "denoiser.png", "autoencoder.svg"} <= {
        path.name for path in tmp_path.iterdir()
    }
    pipe = checking.load(tmp_path / "model")
    assert type(pipe).__name__ == "LTXPipeline"
