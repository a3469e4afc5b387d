"""Training of an autoencoder: reconstruct rendered clips, edges and small objects above all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sencache.tiny import clips
from sencache.tiny.grammar import Scene
from sencache.tiny.optim import optimizers
from sencache.tiny.pictures import contact_sheet

OBJECTS_WEIGH = 5.0
KL = 1e-4
# Noise on a teacher's latents, of unit deviation, so that the decoder forgives what a transformer gets wrong.
SOFTNESS = 0.05
ENCODER_EVERY = 3

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
        """All weights of the autoencoder."""
        return dict(self.codec.module.named_parameters())

    def loss(self, step: int) -> dict[str, torch.Tensor]:
        """Weighted L1 and squared error, and what keeps the latents in place."""
        torch.manual_seed(self.seed * 1_000_003 + step)
        video, weight = self._batch(np.random.default_rng((self.seed, 1, step)))
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

    def _batch(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        scenes = [clips.sample_clip(rng) for _ in range(self.batch)]
        video = torch.from_numpy(clips.render_batch(scenes)).to(self.device)
        video = video.contiguous(memory_format=torch.channels_last_3d)
        behind = np.stack([clips.background(clip.scene.background) for clip in scenes]) * 2 - 1
        still = torch.from_numpy(behind).permute(0, 3, 1, 2)[:, :, None].to(self.device)
        weight = 1 + (OBJECTS_WEIGH - 1) * ((video - still).abs().amax(1, keepdim=True) > 0.1).float()
        return video, weight / weight.mean()

    def look(self, folder: Path) -> None:
        """Held-out clips above their reconstructions."""
        rng = np.random.default_rng((self.seed, 2))
        sample = [clips.sample_clip(rng, held_out=True) for _ in range(4)]
        drawn, restored, _ = reconstructions(self.codec, sample)
        pairs = [video for pair in zip(drawn, restored, strict=True) for video in pair]
        labels = [text for clip in sample for text in (clip.caption, "reconstructed")]
        contact_sheet(pairs, labels, folder / f"{self.name}.png")


@torch.no_grad()
def reconstructions(codec: Codec, sample: Sequence[clips.Clip]) -> tuple[Any, Any, list[Scene]]:
    """Clips as drawn and as reconstructed, [N, T, H, W, 3] in 0..1, and what they show."""
    device = next(codec.module.parameters()).device
    drawn, restored = np.stack([clips.render(clip) for clip in sample]), []
    for clip in sample:
        mean = codec.encode(torch.from_numpy(clips.render_batch([clip])).to(device)).chunk(2, dim=1)[0]
        restored.append(((codec.decode(mean)[0].clamp(-1, 1) + 1) / 2).permute(1, 2, 3, 0).cpu().numpy())
    return drawn, np.stack(restored), [clip.scene for clip in sample]


def _is_matrix(name: str, parameter: torch.Tensor) -> bool:
    return parameter.ndim >= 4 and len(parameter) >= 16 and parameter[0].numel() >= 32
