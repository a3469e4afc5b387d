"""One step of training each bundled model: clips to latents, the autoencoder, the transformer."""

from __future__ import annotations

import emulation  # noqa: F401
import pytest
import torch

from training import text
from training.autoencoding import Autoencoding
from training.denoising import Denoising
from training.families import family
from training.latents import Latents
from training.training import encoded


@pytest.mark.parametrize("arch", ["wan", "cogvideox", "ltx"])
def test_a_step_of_training(arch: str) -> None:
    chosen, words = family(arch), text.tokenizer()
    codec = chosen.codec(chosen.autoencoder().to("cuda"))
    latents = Latents(torch.randn(8, 16, 5, 8, 8).half(), ["a red circle spinning"] * 8)
    parts = chosen.transformer().to("cuda"), chosen.text_encoder(len(words)).to("cuda")
    tasks = [
        Autoencoding(codec, 0, "cuda", batch=1),
        Denoising(chosen, *parts, words, latents, 0, "cuda", batch=4, compiled=False),
    ]
    for task in tasks:
        loss = task.loss(0, 0.0)["loss"]
        loss.backward()
        for optimizer in task.optimizers:
            optimizer.step()
        assert loss.isfinite() and loss.is_cuda
    assert encoded(codec, torch.zeros(1, 3, 17, 64, 64)).is_cuda
