"""Training of a transformer and its text encoder: what is noise in a latent, given the caption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.latents import Latents
from training.optim import optimizers
from training.text import token_ids

NO_CAPTION = 0.1
# Losses by fifths of the way from clean to noise, beside the mean.
PARTS = 5


class Denoising:
    """A task for the loop. `family` is one of the modules `wan`, `cogvideox`, `ltx`."""

    name = "denoiser"
    hold, averaging = 0.5, 0.998

    def __init__(
        self,
        family: Any,
        transformer: Any,
        encoder: Any,
        tokens: Any,
        latents: Latents,
        seed: int,
        device: str = "cpu",
        batch: int = 64,
        rate: float = 1.5e-3,
        compiled: bool = True,
        preview: Any = None,
    ) -> None:
        self.family, self.transformer, self.encoder = family, transformer.train(), encoder
        self.seed, self.batch, self.rate = seed, min(batch, len(latents)), rate
        self.device, self.preview = device, preview
        self.values = family.from_shared(latents.values)
        self.ids = token_ids(tokens, latents.captions)
        self.no_caption = token_ids(tokens, [""])[0]
        transformer.set_attn_processor(family.processor())
        if compiled:
            blocks = getattr(transformer, "transformer_blocks", None) or transformer.blocks
            for block in blocks:
                block.compile(dynamic=False)
        named = self.parameters().items()
        self.optimizers = optimizers(named, _is_matrix, decay=0.05)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Of the transformer and the text encoder."""
        parts = {"transformer": self.transformer, "text_encoder": self.encoder}
        return {
            f"{part}.{name}": p for part, module in parts.items() for name, p in module.named_parameters()
        }

    def loss(self, step: int, done: float) -> dict[str, torch.Tensor]:
        """Mean squared error of the prediction, also by fifths of the noise levels."""
        torch.manual_seed(self.seed * 1_000_003 + step)
        chosen = self._chosen(step)
        clean, ids = self.values[chosen].to(self.device).float(), self.ids[chosen].clone()
        ids[torch.rand(self.batch) < NO_CAPTION] = self.no_caption
        ids, levels = ids.to(self.device), self.family.noise.levels(self.batch).to(self.device)
        noisy, wanted = self.family.noise.mix(clean, torch.randn_like(clean), levels)
        timesteps = self.family.noise.timesteps(levels)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            words, mask = self.family.embed(self.encoder, ids)
            predicted = self.family.predict(self.transformer, noisy, timesteps, words, mask).float()
        errors = (predicted - wanted).square().flatten(1).mean(1)
        return {"loss": errors.mean(), **_by_level(errors.detach(), timesteps)}

    def _chosen(self, step: int) -> torch.Tensor:
        """Indices of the batch: every epoch goes through the clips in an order of its own."""
        per_epoch = len(self.ids) // self.batch
        epoch, at = divmod(step, per_epoch)
        order = np.random.default_rng((self.seed, 4, epoch)).permutation(len(self.ids))
        return torch.from_numpy(order[at * self.batch : (at + 1) * self.batch])

    def look(self, folder: Path) -> None:
        """Clips from a few prompts, by the real pipeline."""
        if self.preview is not None:
            self.preview(self.transformer, self.encoder, folder)


def _by_level(errors: torch.Tensor, timesteps: torch.Tensor) -> dict[str, torch.Tensor]:
    fifth = (timesteps / 1000 * PARTS).long().clamp(max=PARTS - 1)
    means = {f"noise {i}": errors[fifth == i].mean() for i in range(PARTS) if (fifth == i).any()}
    return {f"noise {i}": means.get(f"noise {i}", errors.mean()) for i in range(PARTS)}


def _is_matrix(name: str, parameter: torch.Tensor) -> bool:
    return (
        parameter.ndim == 2
        and "blocks." in name
        and name.startswith("transformer.")
        and min(parameter.shape) >= 32
    )
