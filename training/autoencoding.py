"""Training of an autoencoder: reconstruct rendered clips, edges and small objects above all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training import clips
from training.captions import Content
from training.optim import optimizers
from training.pictures import contact_sheet

OBJECTS_WEIGH = 5.0
KL = 1e-4
# Noise on a teacher's latents, of unit deviation, so that the decoder forgives what a transformer gets wrong.
SOFTNESS = 0.05
ENCODER_EVERY = 3
# Most of a clip is background: until the share WHOLE of the time, three steps in four see CROPS cut-outs
# around objects for each clip instead, of as many pixels in all.
CROPS, CROP_SIDE, CROP_FRAMES, WHOLE = 8, 32, 9, 0.65

Latents = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Codec:
    """How an autoencoder is called in training.

    `encode`: clips [N, 3, T, H, W] in -1..1 to mean and log variance, stacked over channels; `decode`: back,
    not clipped.
    """

    module: Any
    encode: Latents
    decode: Latents


class Autoencoding:
    """A task for the loop. With `teacher` (clips to latents) the code itself is learned from another encoder:
    the decoder sees the teacher's latents, and the encoder is drawn towards them.
    """

    name = "autoencoder"
    hold, averaging = 0.5, 0.995

    def __init__(
        self,
        codec: Codec,
        seed: int,
        device: str = "cpu",
        batch: int = 2,
        rate: float = 2e-3,
        teacher: Latents | None = None,
    ) -> None:
        self.codec, self.seed, self.batch, self.rate, self.teacher = codec, seed, batch, rate, teacher
        self.device = device
        for module in codec.module.modules():
            if isinstance(module, torch.nn.Conv3d):
                module.weight.data = module.weight.data.to(memory_format=torch.channels_last_3d)
        self.optimizers = optimizers(self.parameters().items(), _is_matrix, decay=0.02)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return dict(self.codec.module.named_parameters())

    def loss(self, step: int, done: float) -> dict[str, torch.Tensor]:
        """Weighted L1 and squared error, and what keeps the latents in place."""
        torch.manual_seed(self.seed * 1_000_003 + step)
        video, weight = self._batch(step, np.random.default_rng((self.seed, 1, step)), done)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            latent, held = self._encode(video, step)
            error = self.codec.decode(latent).float() - video
        weighted = (weight * error.abs()).mean() + (weight * error.square()).mean()
        return {"loss": weighted + held, "mse": error.detach().square().mean(), "held": held.detach()}

    def _encode(self, video: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What the decoder sees, and the penalty that holds the latents in place."""
        if self.teacher is not None:
            return self._taught(video, step)
        mean, spread = self.codec.encode(video).float().chunk(2, dim=1)
        spread = spread.clamp(-12, 4)
        held = KL * 0.5 * (mean.square() + spread.exp() - 1 - spread).mean()
        return mean + torch.randn_like(mean) * (0.5 * spread).exp(), held

    def _taught(self, video: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Only the decoder makes pictures in the end: the encoder takes its turn every few steps."""
        assert self.teacher is not None
        with torch.no_grad():
            wanted = self.teacher(video)
        latent = wanted + SOFTNESS * torch.randn_like(wanted)
        if step % ENCODER_EVERY:
            return latent, torch.zeros(())
        mean, spread = self.codec.encode(video).float().chunk(2, dim=1)
        return latent, (mean - wanted).square().mean() + 1e-3 * (spread + 5).square().mean()

    def _batch(self, step: int, rng: np.random.Generator, done: float) -> tuple[torch.Tensor, torch.Tensor]:
        cropped = step % 4 != 0 and done < WHOLE
        sample = [clips.sample_clip(rng) for _ in range(self.batch * (CROPS if cropped else 1))]
        video, weight = torch.from_numpy(clips.render_batch(sample)), _weights(sample)
        if cropped:
            windows = [_window(clip, rng) for clip in sample]
            video, weight = (
                torch.stack([one[window] for one, window in zip(values, windows, strict=True)])
                for values in (video, weight)
            )
        video = video.to(self.device).contiguous(memory_format=torch.channels_last_3d)
        return video, (weight / weight.mean()).to(self.device)

    def look(self, folder: Path) -> None:
        rng = np.random.default_rng((self.seed, 2))
        sample = [clips.sample_clip(rng, held_out=True) for _ in range(4)]
        drawn, restored, _ = reconstructions(self.codec, sample)
        pairs = [video for pair in zip(drawn, restored, strict=True) for video in pair]
        labels = [text for clip in sample for text in (clip.caption, "reconstructed")]
        contact_sheet(pairs, labels, folder / f"{self.name}.png")


def _weights(sample: Sequence[clips.Clip]) -> torch.Tensor:
    """[N, 1, T, H, W]: what a pixel's error counts."""
    covered = torch.from_numpy(np.stack([_covered(clip) for clip in sample]))[:, None]
    return 1 + (OBJECTS_WEIGH - 1) * covered.float()


def _covered(clip: clips.Clip) -> np.ndarray[Any, np.dtype[np.bool_]]:
    things = zip(clip.content.things, clip.paths, strict=True)
    covered: np.ndarray[Any, np.dtype[np.bool_]] = np.any(
        [clips.shape_mask(thing.shape, path) > 0 for thing, path in things], axis=0
    )
    return covered


def _window(clip: clips.Clip, rng: np.random.Generator) -> tuple[slice, ...]:
    """Channels, frames, rows and columns of a cut-out around one of the objects."""
    path = clip.paths[int(rng.integers(len(clip.paths)))]
    first = int(rng.integers(clips.FRAMES - CROP_FRAMES + 1))
    middle = first + CROP_FRAMES // 2
    corners = np.array((path.y[middle], path.x[middle])) - CROP_SIDE / 2 + rng.uniform(-6, 6, size=2)
    top, left = np.clip(corners, 0, clips.SIDE - CROP_SIDE).astype(int)
    return (
        slice(None),
        slice(first, first + CROP_FRAMES),
        slice(top, top + CROP_SIDE),
        slice(left, left + CROP_SIDE),
    )


@torch.no_grad()
def reconstructions(codec: Codec, sample: Sequence[clips.Clip]) -> tuple[Any, Any, list[Content]]:
    """Clips as drawn and as reconstructed, [N, T, H, W, 3] in 0..1, and what they show."""
    device = next(codec.module.parameters()).device
    drawn, restored = np.stack([clips.render(clip) for clip in sample]), []
    for clip in sample:
        mean = codec.encode(torch.from_numpy(clips.render_batch([clip])).to(device)).chunk(2, dim=1)[0]
        restored.append(((codec.decode(mean)[0].clamp(-1, 1) + 1) / 2).permute(1, 2, 3, 0).cpu().numpy())
    return drawn, np.stack(restored), [clip.content for clip in sample]


def _is_matrix(name: str, parameter: torch.Tensor) -> bool:
    return parameter.ndim >= 4 and len(parameter) >= 16 and parameter[0].numel() >= 32
