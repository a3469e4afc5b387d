"""Real clips as clean latents of a pipeline, for calibrating as the SenCache paper does."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sencache.errors import SencacheError
from sencache.video import reason, run_ffmpeg

SUFFIXES = {".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif"}


def find_clips(folder: Path) -> tuple[Path, ...]:
    """The videos in `folder`, by name; raises SencacheError when there are none."""
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise SencacheError(
            f"{folder} holds no clips ({', '.join(sorted(SUFFIXES))}); give a folder of short videos"
        )
    return tuple(found)


def read_clip(path: Path, frames: int, height: int, width: int, fps: int) -> torch.Tensor:
    """The first `frames` frames of the clip at `fps`, scaled to fill the size and cropped to its middle:
    [1, 3, T, H, W] in -1..1. Raises SencacheError when it cannot be read or is too short.
    """
    fill = f"scale={width}:{height}:force_original_aspect_ratio=increase:flags=area,crop={width}:{height}"
    source = ["-i", str(path), "-vf", f"fps={fps},{fill}", "-frames:v", str(frames)]
    try:
        raw = run_ffmpeg([*source, "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"])
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise SencacheError(f"cannot read the clip {path} ({reason(error)}); give a video file") from None
    pixels = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
    if len(pixels) < frames:
        raise SencacheError(
            f"the clip {path} has {len(pixels)} frames at {fps} a second, and {frames} are needed; "
            "give a longer clip or fewer frames"
        )
    return torch.from_numpy(pixels.copy()).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def clean_latent(pipe: Any, architecture: str, pixels: torch.Tensor) -> torch.Tensor:
    """[1, 3, T, H, W] in -1..1 -> the latent that `pipe` would end at for this clip, in its own layout and
    scale, float32.
    """
    vae = pipe.vae
    with torch.no_grad():
        encoded = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode().float()
    return LAYOUTS[architecture](pipe, encoded)


def _wan(pipe: Any, encoded: torch.Tensor) -> torch.Tensor:
    mean, std = (
        torch.tensor(getattr(pipe.vae.config, name)).view(1, -1, 1, 1, 1).to(encoded)
        for name in ("latents_mean", "latents_std")
    )
    return (encoded - mean) / std


def _cogvideox(pipe: Any, encoded: torch.Tensor) -> torch.Tensor:
    latent = (encoded * pipe.vae_scaling_factor_image).permute(0, 2, 1, 3, 4)
    # Models with a temporal patch pad in front, and drop the padding when they decode.
    missing = -latent.shape[1] % (pipe.transformer.config.patch_size_t or 1)
    return torch.cat([latent[:, :1].expand(-1, missing, -1, -1, -1), latent], dim=1)


def _ltx(pipe: Any, encoded: torch.Tensor) -> torch.Tensor:
    vae = pipe.vae
    normal = pipe._normalize_latents(encoded, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
    packed: torch.Tensor = pipe._pack_latents(
        normal, pipe.transformer_spatial_patch_size, pipe.transformer_temporal_patch_size
    )
    return packed


LAYOUTS: Mapping[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "wan": _wan,
    "cogvideox": _cogvideox,
    "ltx": _ltx,
}
