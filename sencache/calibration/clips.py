"""Real clips as latents of a pipeline, clean and noised, for calibrating as the SenCache paper does."""

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


class Noising:
    """The schedule that `scheduler` has laid out for the run in progress, as signal and noise levels.

    Flow matching schedules mix `(1 - sigma) x_0 + sigma noise` and predict `noise - x_0`, inverted ones
    `sigma x_0 + (1 - sigma) noise` and `x_0 - noise`; the others mix
    `sqrt(a) x_0 + sqrt(1 - a) noise` and predict what `prediction_type` says. Raises SencacheError for a
    scheduler that is neither.
    """

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        config = scheduler.config
        self.flow = not hasattr(scheduler, "alphas_cumprod") or bool(config.get("use_flow_sigmas"))
        self.inverted = bool(config.get("invert_sigmas"))
        self.prediction = "flow_prediction" if self.flow else config.get("prediction_type")
        if self.prediction not in ("flow_prediction", "v_prediction", "epsilon", "sample"):
            raise SencacheError(
                f"{type(scheduler).__name__} predicts {self.prediction!r}, which noised clips cannot be made "
                "for; use --method trajectory"
            )

    def timestep(self, step: int) -> float:
        return float(self.scheduler.timesteps[step])

    def levels(self, step: int) -> tuple[float, float]:
        """(signal, noise) at the step: the latent is `signal x_0 + noise_level noise`."""
        if self.flow:
            sigma = float(self.scheduler.sigmas[step])
            return (sigma, 1 - sigma) if self.inverted else (1 - sigma, sigma)
        kept = float(self.scheduler.alphas_cumprod[int(self.timestep(step))])
        return kept**0.5, (1 - kept) ** 0.5

    def add_noise(self, clean: torch.Tensor, noise: torch.Tensor, step: int) -> torch.Tensor:
        signal, level = self.levels(step)
        return signal * clean + level * noise

    def advance(self, x: torch.Tensor, output: torch.Tensor, step: int) -> torch.Tensor:
        """x at the following step by one deterministic step (Euler, DDIM) along `output`, in x's dtype."""
        here, there = self.levels(step), self.levels(step + 1)
        x, output, dtype = x.float(), output.float(), x.dtype
        if self.flow:
            # Along sigma, which is the noise's share or, inverted, the signal's.
            level = 0 if self.inverted else 1
            return (x + (there[level] - here[level]) * output).to(dtype)
        clean, noise = self._parts(x, output, here)
        return (there[0] * clean + there[1] * noise).to(dtype)

    def _parts(
        self, x: torch.Tensor, output: torch.Tensor, levels: tuple[float, float]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The clean latent and the noise that `output` implies."""
        signal, level = levels
        if self.prediction == "v_prediction":
            return signal * x - level * output, signal * output + level * x
        # At the very start there is no signal, at the very end no noise, to divide by.
        if self.prediction == "epsilon":
            return (x - level * output) / max(signal, 1e-4), output
        return output, (x - signal * output) / max(level, 1e-4)
