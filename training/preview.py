"""A look at a training: a few prompts, by the real pipeline with the weights of the moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.pictures import contact_sheet

PROMPTS = (
    "a large red triangle moving right, on a black background",
    "a blue square spinning, on a checkered background",
    "a yellow circle growing, on a gray background",
    "a small green square moving up, and a pink circle bouncing up and down, on a striped background",
    "a small purple circle moving left, and an orange triangle standing still, on a white background",
)
STEPS, GUIDANCE = 20, 4.0


class Preview:
    """Makes the clips of `PROMPTS` and writes them as one sheet."""

    def __init__(self, family: Any, autoencoder: Any, tokens: Any) -> None:
        self.family, self.autoencoder, self.tokens = family, autoencoder, tokens

    def __call__(self, transformer: Any, encoder: Any, folder: Path) -> None:
        """Write `folder/denoiser.png`. Works on copies: the trained modules may be compiled."""
        fresh = self.family.transformer()
        fresh.load_state_dict(transformer.state_dict())
        fresh.to(transformer.device)
        parts = {"transformer": fresh.eval(), "text_encoder": encoder, "tokenizer": self.tokens}
        pipe = self.family.pipeline({"vae": self.autoencoder, **parts})
        pipe.set_progress_bar_config(disable=True)
        state = torch.get_rng_state()
        clips = [generate(pipe, prompt, seed, STEPS) for seed, prompt in enumerate(PROMPTS)]
        torch.set_rng_state(state)
        contact_sheet(clips, PROMPTS, folder / "denoiser.png")


@torch.no_grad()
def generate(pipe: Any, prompt: str, seed: int, steps: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """One clip [T, H, W, 3] in 0..1."""
    frames = pipe(
        prompt,
        height=64,
        width=64,
        num_frames=17,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        max_sequence_length=32,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    ).frames[0]
    return np.asarray(frames, dtype=np.float32)
