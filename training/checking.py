"""What a model makes of captions it never saw, read back by `vision`; and how well its autoencoder copies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from training import clips, vision
from training.autoencoding import Codec, reconstructions
from training.captions import Content, write_caption
from training.scoring import Score, score
from training.text import LENGTH

BATCH = 8


def sample(count: int, seed: int, shown: bool = False) -> list[clips.Clip]:
    """Clips whose objects all have triples of colour, shape and motion that training never showed; with
    `shown`, for comparison, others whose triples it did show. Every caption says all there is to say.
    """
    rng = np.random.default_rng((seed, 5))
    sampled = (clips.sample_clip(rng, held_out=not shown) for _ in range(count))
    return [replace(clip, caption=write_caption(clip.content)) for clip in sampled]


def of_renders(count: int, seed: int) -> Score:
    """How well clips as they were drawn are read: the stick's own error."""
    return score((clip.content, vision.read(clips.render(clip))) for clip in sample(count, seed))


def of_noise(count: int, seed: int) -> Score:
    rng = np.random.default_rng((seed, 6))
    shape = (clips.FRAMES, clips.SIDE, clips.SIDE, 3)
    return score(
        (clip.content, vision.read(rng.random(shape, dtype=np.float32))) for clip in sample(count, seed)
    )


def of_autoencoder(codec: Codec, count: int, seed: int) -> tuple[float, Score]:
    """PSNR of reconstructions in dB, the mean over clips, and what is read from them."""
    drawn, restored, contents = reconstructions(codec, sample(count, seed))
    errors = np.square(drawn - restored).mean(axis=(1, 2, 3, 4))
    psnr = float((-10 * np.log10(errors)).mean())
    return psnr, score(
        (content, vision.read(video)) for content, video in zip(contents, restored, strict=True)
    )


def of_model(
    pipe: Any, count: int, seed: int, steps: int, guidance: float, shown: bool = False
) -> Iterator[tuple[Content, Content, Any]]:
    """What was asked for, what was seen, and the clips [T, H, W, 3], one by one."""
    asked = sample(count, seed, shown)
    for start in range(0, count, BATCH):
        batch = asked[start : start + BATCH]
        generators = [torch.Generator().manual_seed(seed * 100_003 + start + i) for i in range(len(batch))]
        for clip, video in zip(batch, _generate(pipe, batch, generators, steps, guidance), strict=True):
            yield clip.content, vision.read(video), video


@torch.no_grad()
def _generate(pipe: Any, batch: list[clips.Clip], generators: list[Any], steps: int, guidance: float) -> Any:
    frames = pipe(
        [clip.caption for clip in batch],
        negative_prompt=[""] * len(batch),
        height=clips.SIDE,
        width=clips.SIDE,
        num_frames=clips.FRAMES,
        num_inference_steps=steps,
        guidance_scale=guidance,
        max_sequence_length=LENGTH,
        generator=generators,
        output_type="np",
    ).frames
    return np.asarray(frames, dtype=np.float32)


def load(folder: Path) -> Any:
    pipe = DiffusionPipeline.from_pretrained(str(folder), torch_dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe
