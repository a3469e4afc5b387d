"""Calibrating at noised latents of real clips, as the SenCache paper does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    CogVideoXDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
)
from pipelines import STEPS, Tiny, model_of, request_of

from sencache.calibration.clips import Noising, clean_latent, find_clips, read_clip
from sencache.calibration.samples import Task
from sencache.errors import SencacheError
from sencache.models.model import Model
from sencache.video import write_mp4


def moving_square(frames: int = 20, height: int = 48, width: int = 80) -> np.ndarray[Any, Any]:
    """White on black, one pixel further right in every frame."""
    video = np.zeros((frames, height, width, 3), np.float32)
    for index in range(frames):
        video[index, 16:32, 20 + index : 36 + index] = 1
    return video


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "square.mp4"
    write_mp4(path, moving_square(), 16)
    return path


# --- Reading ----------------------------------------------------------------------------------------


def test_a_clip_is_cropped_to_its_middle_and_keeps_its_proportions(clip: Path) -> None:
    """48 x 80 onto 32 x 32: two thirds in size, a square of ten or eleven pixels that stays square."""
    pixels = read_clip(clip, 1, 32, 32, 16)
    assert pixels.shape == (1, 3, 1, 32, 32) and -1 <= pixels.min() < -0.9 and 0.9 < pixels.max() <= 1
    white = pixels[0, 0, 0] > 0
    rows, columns = (int(white.any(dim=axis).sum()) for axis in (1, 0))
    assert rows in (10, 11) and columns in (10, 11)


def test_frames_are_taken_at_the_models_own_rate(clip: Path) -> None:
    """At half the rate of the clip the square moves twice as far from frame to frame."""

    def places(fps: int) -> list[float]:
        white = read_clip(clip, 6, 48, 80, fps)[0, 0] > 0
        columns = torch.arange(80.0)
        return [float(columns[frame.any(dim=0)].mean()) for frame in white]

    assert np.diff(places(16)).tolist() == [1.0] * 5
    assert np.diff(places(8)).tolist() == [2.0] * 5


@pytest.mark.parametrize(
    ("frames", "content", "message"),
    [
        (99, None, r"has 20 frames at 16 a second, and 99 are needed"),
        (1, b"no video", "cannot read the clip"),
    ],
)
def test_a_clip_that_cannot_serve_is_refused(
    clip: Path, frames: int, content: bytes | None, message: str
) -> None:
    if content is not None:
        clip.write_bytes(content)
    with pytest.raises(SencacheError, match=message):
        read_clip(clip, frames, 32, 32, 16)


def test_clips_are_found_by_name(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "a.MP4").write_bytes(clip.read_bytes())
    (tmp_path / "notes.txt").write_text("no clip")
    assert [path.name for path in find_clips(tmp_path)] == ["a.MP4", "square.mp4"]
    with pytest.raises(SencacheError, match="holds no clips"):
        find_clips(tmp_path / "missing")


# --- Encoding ---------------------------------------------------------------------------------------


def wan(scheduler: Any = None) -> Tiny:
    tiny = pipelines.wan(scheduler)
    tiny.pipe.register_modules(vae=pipelines.wan_image().pipe.vae)
    tiny.pipe.vae.register_to_config(
        latents_mean=[0.1 * i for i in range(16)], latents_std=[0.5] * 8 + [2.0] * 8
    )
    return tiny


def ltx() -> Tiny:
    torch.manual_seed(0)
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    ).eval()
    vae.latents_mean.copy_(torch.linspace(-1, 1, 8))
    vae.latents_std.copy_(torch.linspace(0.5, 2, 8))
    base = pipelines.ltx()
    modules = {
        name: base.pipe.components[name] for name in ("tokenizer", "text_encoder", "transformer", "scheduler")
    }
    tiny = Tiny("ltx", LTXPipeline(vae=vae, **modules), base.arguments, base.guidance)
    tiny.pipe.tokenizer_max_length = 16
    return pipelines._quiet(tiny)


SETUPS: dict[str, Callable[[], Tiny]] = {
    "wan": wan,
    "wan-euler": lambda: wan(FlowMatchEulerDiscreteScheduler(shift=3.0)),
    "cogvideox": pipelines.cogvideox,
    "cogvideox-dpm": lambda: pipelines.cogvideox(CogVideoXDPMScheduler(timestep_spacing="trailing")),
    "ltx": ltx,
}


def clean(tiny: Tiny, clip: Path) -> tuple[torch.Tensor, torch.Tensor]:
    request = request_of(tiny)
    pixels = read_clip(clip, request.frames, request.height, request.width, 8)
    return pixels, clean_latent(tiny.pipe, tiny.name, pixels)


@pytest.mark.parametrize("setup", ["wan", "cogvideox", "ltx"])
def test_a_clean_latent_is_what_the_pipeline_decodes(setup: str, clip: Path) -> None:
    """Handed over as the last step's result, it comes out as the autoencoder's own reconstruction."""
    tiny = SETUPS[setup]()
    pixels, latent = clean(tiny, clip)
    swap = lambda pipe, step, t, tensors: {"latents": latent} if step == STEPS - 1 else {}  # noqa: E731
    decoded = tiny(output_type="pt", callback_on_step_end=swap)
    with torch.no_grad():
        encoded = tiny.pipe.vae.encode(pixels).latent_dist.mode()
        rebuilt = tiny.pipe.vae.decode(encoded).sample[0].transpose(0, 1)
    assert torch.allclose(decoded[0], (rebuilt / 2 + 0.5).clamp(0, 1), atol=2e-3)
    assert rebuilt.std() > 1e-3


# --- Measuring --------------------------------------------------------------------------------------


def task(tiny: Tiny, clip: Path | None, **changes: Any) -> Task:
    return Task(model_of(tiny), request_of(tiny, **changes), "output", clip)


@pytest.mark.parametrize("setup", SETUPS)
def test_alphas_are_differences_of_the_network_at_noised_latents(setup: str, clip: Path) -> None:
    """Every call of the transformer is caught, and the definition applied to them from outside."""
    tiny = SETUPS[setup]()
    _, latent = clean(tiny, clip)
    transformer = tiny.pipe.transformer
    calls: list[tuple[torch.Tensor, float, torch.Tensor]] = []

    def keep(_: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        calls.append((kwargs["hidden_states"].clone(), float(kwargs["timestep"].max()), out[0].clone()))

    hook = transformer.register_forward_hook(keep, with_kwargs=True)
    sample = task(tiny, clip, guidance_scale=tiny.guidance).measure(lambda: None)
    hook.remove()
    plain = STEPS * tiny.branches
    assert sample.evaluations == (plain, 3 * (STEPS - 1) + 1)
    triples = np.array(calls[plain:-1], dtype=object).reshape(STEPS - 1, 3, 3)
    noising, timesteps = Noising(tiny.pipe.scheduler), sample.recording.timesteps
    noises: list[torch.Tensor] = []
    for k, ((x, t, y), (moved, same, y_moved), (again, later, y_later)) in enumerate(triples):
        assert len(x) == 1, "the prompt's own branch alone"
        assert (t, same, later) == pytest.approx((timesteps[k], timesteps[k], timesteps[k + 1]), abs=1e-3)
        assert torch.equal(x, again)
        assert torch.allclose(moved, noising.advance(x, y, k), atol=1e-4)
        along_x = float((y_moved - y).norm() / (moved - x).norm())
        along_t = float((y_later - y).norm() / y.numel() ** 0.5 / abs(t - later))
        assert sample.alphas[k] == pytest.approx([along_x, along_t], rel=1e-3), k
        if k:
            signal, level = noising.levels(k)
            noises.append((x - signal * latent) / level)
    drawn = torch.cat(noises)
    assert drawn.std() == pytest.approx(1, abs=0.1) and abs(drawn.mean()) < 0.2
    likeness = torch.corrcoef(drawn.flatten(1)) - torch.eye(len(drawn))
    assert likeness.abs().mean() < 0.3, "fresh noise at every step"


def test_the_rest_of_the_sample_is_that_of_a_plain_run(clip: Path) -> None:
    """Ratios, polynomial and presets come from a generation of the model itself, not from the clip."""
    tiny = wan()
    with_clip, without = (task(tiny, path).measure(lambda: None) for path in (clip, None))
    assert np.array_equal(with_clip.magnitudes, without.magnitudes)
    for name, table in without.recording.tables.items():
        assert np.array_equal(with_clip.recording.tables[name], table, equal_nan=True)
    assert not np.allclose(with_clip.alphas, without.alphas, rtol=0.01)
    assert without.evaluations == (2 * STEPS, STEPS - 1)


def test_the_noise_is_fresh_for_every_seed_and_the_same_for_the_same(clip: Path) -> None:
    tiny = wan()
    first, again, other = (task(tiny, clip, seed=seed).measure(lambda: None).alphas for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.slow
def test_the_bundled_model_sees_real_clips(tiny_wan: Model, clip: Path, tmp_path: Path) -> None:
    """A profile by the paper's method, of the same order as along the trajectory."""
    from sencache.calibration.profiling import CalibrationPlan, calibrate
    from sencache.schema import Request

    write_mp4(clip, moving_square(48), 16)
    request = Request(prompt="any", steps=8, height=64, width=64, frames=17, guidance_scale=4.0)
    plan = CalibrationPlan(tiny_wan, request, ("a white square",), samples=1)
    paper, own = (calibrate(replace(plan, clips=clips)) for clips in ((clip,), ()))
    assert paper.calibration is not None and own.calibration is not None
    assert (paper.calibration.method, paper.calibration.clips) == ("paper", ("square.mp4",))
    assert (own.calibration.method, own.calibration.clips) == ("trajectory", ())
    assert paper.calibration.cost == pytest.approx((16 + 22) / 16, abs=1e-3)
    assert own.calibration.cost == pytest.approx((16 + 7) / 16, abs=1e-3)
    assert paper.magcache == own.magcache
    for name in ("alpha_x", "alpha_t"):
        a, b = (np.mean(getattr(profile.sensitivity, name)) for profile in (paper, own))
        assert 0.1 < a / b < 10
