"""Measured values against published ones, hand computations and plain numpy statements of the definitions."""

import hashlib
import json
import warnings
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file
from scipy.ndimage import gaussian_filter, gaussian_filter1d  # type: ignore[import-untyped]

from sencache.comparison import metrics
from sencache.comparison.metrics import Metrics, compare_frames
from sencache.errors import SencacheError

EXAMPLES = Path(__file__).resolve().parents[3] / "shared/data/lpips"
ASSET = Path(metrics.__file__).parents[1] / "assets/lpips/alexnet_features.safetensors"

Clip = NDArray[np.float64]


def textured(count: int = 3, height: int = 48, width: int = 64, seed: int = 0) -> Clip:
    """Soft random texture with some contrast, away from 0 and 1 so that noise need not be clipped much."""
    noise = np.random.default_rng(seed).normal(size=(count, height, width, 3))
    soft: Clip = gaussian_filter(noise, sigma=(0, 2, 2, 0))
    return np.clip(0.5 + soft, 0, 1)


def noisy(clip: Clip, sigma: float | Clip, seed: int = 1) -> Clip:
    noise = np.random.default_rng(seed).normal(size=clip.shape)
    return np.clip(clip + sigma * noise, 0, 1)


def example(name: str) -> NDArray[np.uint8]:
    path = EXAMPLES / f"{name}.png"
    if not path.exists():
        pytest.skip("the LPIPS example images are not beside this checkout")
    return np.asarray(Image.open(path).convert("RGB"))[None]


def plain_psnr(a: Clip, b: Clip) -> float:
    return float(20 * np.log10(1 / np.sqrt(((a - b) ** 2).mean())))


def plain_ssim(a: Clip, b: Clip) -> float:
    """Equation 13 of Wang et al. 2004 on each channel of one image, in float64, borders mirrored."""

    def local_mean(image: Clip) -> Clip:
        for axis in (0, 1):
            image = gaussian_filter1d(image, 1.5, axis=axis, mode="mirror", radius=5)
        return image

    mean_a, mean_b = local_mean(a), local_mean(b)
    variance_a, variance_b = local_mean(a**2) - mean_a**2, local_mean(b**2) - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return float((luminance * (2 * covariance + c2) / (variance_a + variance_b + c2)).mean())


@pytest.mark.parametrize(("name", "published"), [("ex_p0", 0.721881), ("ex_p1", 0.137566)])
def test_lpips_reproduces_the_authors_example_distances(name: str, published: float) -> None:
    assert compare_frames(example(name), example("ex_ref")).lpips == pytest.approx(published, abs=2e-4)


def test_lpips_equals_the_package_assembled_the_ordinary_way() -> None:
    """With the documented backbone."""
    digest = hashlib.sha256(ASSET.read_bytes()).hexdigest()
    assert digest in (ASSET.parent / "README.md").read_text(encoding="utf-8")
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    weights = load_file(ASSET)
    names = model.net.state_dict()
    model.net.load_state_dict({name: weights["features." + name.split(".", 1)[1]] for name in names})
    reference, frames = textured(), noisy(textured(), 0.1)
    expected = [
        model(*(torch.tensor(clip[i] * 2 - 1).float().permute(2, 0, 1)[None] for clip in (frames, reference)))
        for i in range(len(frames))
    ]
    measured = compare_frames(frames, reference)
    assert measured.per_frame["lpips"] == pytest.approx([value.item() for value in expected], rel=1e-4)
    assert measured.lpips == pytest.approx(np.mean(measured.per_frame["lpips"]))


def test_loading_lpips_is_silent_and_leaves_the_random_state_alone(capfd: pytest.CaptureFixture[str]) -> None:
    before = torch.random.get_rng_state()
    metrics._lpips_model.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare_frames(textured(1), noisy(textured(1), 0.1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert capfd.readouterr() == ("", "")


def test_every_metric_gets_worse_with_noise_and_lpips_with_blur() -> None:
    sharp = noisy(textured(1), 0.15)
    values = [compare_frames(gaussian_filter(sharp, (0, s, s, 0)), sharp).lpips for s in (0.3, 1, 4)]
    assert values[0] > 0 and values == sorted(values)
    clean = textured(2)
    measured = [compare_frames(noisy(clean, sigma), clean) for sigma in (1e-4, 0.01, 0.02, 0.05, 0.1, 0.2)]
    distances = [m.lpips for m in measured]
    assert distances == sorted(distances)
    assert distances[0] < 1e-4  # it tends to 0 with the difference, where identical frames have exactly 0
    for likenesses in ([m.psnr or 0 for m in measured], [m.ssim for m in measured]):
        assert likenesses == sorted(likenesses, reverse=True)
    assert measured[0].ssim > 1 - 1e-4


def test_psnr_by_hand() -> None:
    grey = np.full((2, 32, 32, 3), 0.5)
    assert compare_frames(grey + 0.1, grey).psnr == pytest.approx(20, abs=1e-4)
    levels = np.full((2, 32, 32, 3), 100, np.uint8)
    assert compare_frames(levels + np.uint8(1), levels).psnr == pytest.approx(20 * np.log10(255), abs=1e-4)
    both = np.concatenate([grey[:1] + 0.1, grey[:1] + 0.01])  # 20 dB and 40 dB; mean error 0.00505
    measured = compare_frames(both, grey)
    assert measured.per_frame["psnr"] == pytest.approx([20, 40], abs=1e-3)
    assert measured.psnr_frames == pytest.approx(30, abs=1e-3)
    assert measured.psnr == pytest.approx(22.967, abs=1e-3)


def test_psnr_and_ssim_are_their_definitions() -> None:
    reference = textured(4)
    frames = noisy(reference, np.array([0.003, 0.02, 0.1, 0.4])[:, None, None, None])
    measured = compare_frames(frames, reference)
    assert measured.psnr == pytest.approx(plain_psnr(frames, reference), abs=1e-4)
    expected = [plain_psnr(*pair) for pair in zip(frames, reference, strict=True)]
    assert measured.per_frame["psnr"] == pytest.approx(expected, abs=1e-4)
    assert measured.psnr_frames == pytest.approx(np.mean(expected), abs=1e-4)
    assert measured.psnr is not None and measured.psnr <= measured.psnr_frames, "by Jensen's inequality"
    expected = [plain_ssim(*pair) for pair in zip(frames, reference, strict=True)]
    assert measured.per_frame["ssim"] == pytest.approx(expected, abs=2e-5)
    assert measured.ssim == pytest.approx(np.mean(expected), abs=2e-5)


@pytest.mark.parametrize(("texture", "uncertainty"), [(0.0, 1e-3), (0.0005, 1e-4)])
def test_ssim_is_as_certain_on_flat_frames_as_documented(texture: float, uncertainty: float) -> None:
    grey = np.linspace(0.05, 0.95, 10)[:, None, None, None] * np.ones((10, 48, 48, 3))
    reference = noisy(grey, texture)
    frames = np.clip(noisy(reference, texture, seed=2) + 0.002, 0, 1)
    expected = [plain_ssim(*pair) for pair in zip(frames, reference, strict=True)]
    assert compare_frames(frames, reference).per_frame["ssim"] == pytest.approx(expected, abs=uncertainty)


def test_identical_clips_are_called_identical_and_survive_json() -> None:
    clip = textured()
    measured = compare_frames(clip, clip.copy())
    assert (measured.identical, measured.identical_frames) == (True, 3)
    assert (measured.lpips, measured.ssim, measured.psnr, measured.psnr_frames) == (0, 1, None, None)
    assert measured.per_frame == {"lpips": [0, 0, 0], "psnr": [None, None, None], "ssim": [1, 1, 1]}
    assert json.loads(measured.model_dump_json())["psnr"] is None
    assert Metrics.model_validate_json(measured.model_dump_json()) == measured
    with pytest.raises(ValidationError):
        measured.lpips = 0.5  # type: ignore[misc]


def test_an_identical_frame_is_left_out_of_the_mean_of_frame_psnrs() -> None:
    grey = np.full((3, 32, 32, 3), 0.5)
    frames = grey + np.array([0, 0.1, 0.01])[:, None, None, None]
    measured = compare_frames(frames, grey)
    assert (measured.identical, measured.identical_frames) == (False, 1)
    assert measured.per_frame["psnr"][0] is None
    assert measured.per_frame["lpips"][0] == 0 < measured.per_frame["lpips"][1]
    assert measured.psnr_frames == pytest.approx(30, abs=1e-3)
    assert measured.psnr == pytest.approx(-10 * np.log10((0.01 + 0.0001) / 3), abs=1e-3)


def test_the_smallest_difference_is_not_identical() -> None:
    clip = np.zeros((1, 32, 32, 3), np.float32)
    changed = clip.copy()
    changed[0, 0, 0, 0] = np.finfo(np.float32).tiny
    measured = compare_frames(changed, clip)
    assert not measured.identical
    assert measured.psnr is not None and np.isfinite(measured.psnr)


def test_batches_and_bytes_do_not_change_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, frames = (np.rint(clip * 255) for clip in (textured(5), noisy(textured(5), 0.1)))
    in_bytes = frames.astype(np.uint8), reference.astype(np.uint8)
    assert compare_frames(frames / 255, reference / 255) == compare_frames(*in_bytes)
    reference, frames = textured(5), noisy(textured(5), 0.1)
    frames[2] = reference[2]
    whole = compare_frames(frames, reference)
    monkeypatch.setattr(metrics, "_PIXELS_PER_BATCH", 2 * 48 * 64)
    parts = compare_frames(frames, reference)
    assert parts.per_frame["psnr"] == whole.per_frame["psnr"]
    assert parts.per_frame["lpips"] == pytest.approx(whole.per_frame["lpips"], abs=1e-6)
    assert parts.per_frame["ssim"] == pytest.approx(whole.per_frame["ssim"], abs=1e-6)


def test_the_smallest_size_is_the_true_limit() -> None:
    compare_frames(textured(1, 31, 31), textured(1, 31, 31, seed=5))
    for height, width in ((30, 64), (64, 30)):
        with pytest.raises(SencacheError, match=f"{height}x{width}.*31x31"):
            compare_frames(textured(1, height, width), textured(1, height, width, seed=5))
    with pytest.raises(RuntimeError, match="too small"):
        metrics._lpips_model("cpu")(torch.zeros(1, 3, 64, 30), torch.zeros(1, 3, 64, 30))


def test_other_shapes_and_values_outside_the_range_are_refused() -> None:
    for shape in ((2, 32, 32, 3), (3, 32, 40, 3)):
        with pytest.raises(SencacheError, match=r"\(3, 32, 32, 3\).*same frame count, height and width"):
            compare_frames(np.zeros(shape), np.zeros((3, 32, 32, 3)))
    for bad in (-0.01, 1.01, np.nan, np.inf):
        frames = textured(1)
        frames[0, 0, 0, 0] = bad
        with pytest.raises(SencacheError, match=r"clamp or scale them to \[0, 1\]"):
            compare_frames(textured(1), frames)


def test_on_a_gpu_lpips_is_made_of_products_of_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which are never rounded to TF32; a switch for convolutions would be the whole process's."""
    make = metrics._lpips_model.__wrapped__
    own, there = make("cpu"), metrics._avoid_rounding(make("cpu"), "cuda:0")
    pair = torch.rand(2, 2, 3, 97, 130, generator=torch.Generator().manual_seed(0))
    expected = own(*pair, normalize=True)
    monkeypatch.setattr(torch.nn.Conv2d, "_conv_forward", None)
    assert torch.allclose(there(*pair, normalize=True), expected, rtol=1e-5, atol=0)
