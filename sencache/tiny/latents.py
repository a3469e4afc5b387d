"""The training set of the transformers: captions and latents of many clips, encoded once and shared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from sencache.errors import SencacheError
from sencache.tiny import clips

CHUNK = 16
Encode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Latents:
    """`values` [N, channels, t, h, w] as float16, normalised, and one caption each."""

    values: Any
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)


def make(folder: Path, count: int, seed: int, encode: Encode) -> Latents:
    """Encode `count` clips with `encode` ([N, 3, T, H, W] to normalised latents); goes on after a stop."""
    folder.mkdir(parents=True, exist_ok=True)
    chunks = range(count // CHUNK)
    for chunk in track(chunks, description="latents"):
        path = folder / f"{chunk:05d}.npz"
        if not path.exists():
            _write(path, (seed, 3, chunk), encode)
    return read(folder, count)


def _write(path: Path, seed: tuple[int, ...], encode: Encode) -> None:
    rng = np.random.default_rng(seed)
    scenes = [clips.sample_clip(rng) for _ in range(CHUNK)]
    with torch.no_grad():
        values = encode(torch.from_numpy(clips.render_batch(scenes))).half().cpu().numpy()
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, values=values, captions=[clip.caption for clip in scenes])
    part.replace(path)


def read(folder: Path, count: int | None = None) -> Latents:
    """What `make` wrote; raises SencacheError when there is nothing."""
    paths = sorted(folder.glob("*.npz"))[: None if count is None else count // CHUNK]
    if not paths:
        raise SencacheError(f"{folder} holds no latents; make them from at least {CHUNK} clips")
    loaded = [np.load(path) for path in paths]
    captions = [str(caption) for chunk in loaded for caption in chunk["captions"]]
    return Latents(torch.from_numpy(np.concatenate([chunk["values"] for chunk in loaded])), captions)
