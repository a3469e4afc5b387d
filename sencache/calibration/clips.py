"""Real clips as clean latents of a pipeline, for calibrating as the SenCache paper does."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sencache.architectures import find_architecture
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
    clean = find_architecture(architecture).clean
    if clean is None:
        raise SencacheError(
            f"nothing is known of how {architecture} lays out an encoded clip; use --method trajectory"
        )
    return clean(pipe, encoded)
