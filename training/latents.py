"""The training set of the transformers: captions and latents of many clips, encoded once and shared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from sencache.errors import SencacheError
from training import clips

CHUNK = 16
Encode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Latents:
    """`values` [N, channels, t, h, w] as float16, normalised, and one caption each."""

    values: Any
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)


def make(folder: Path, count: int, seed: int, encode: Encode, encoder: str) -> Latents:
    """Encode `count` clips with `encode` ([N, 3, T, H, W] to normalised latents); goes on after a stop.

    `encoder` names the weights that `encode` uses, as `fingerprint` does. What another seed, another encoder
    or another distribution of clips left in `folder` is made anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _drop_others(folder, json.dumps({"seed": seed, "encoder": encoder, "clips": _distribution()}))
    chunks = range(count // CHUNK)
    for chunk in track(chunks, description="latents"):
        path = folder / f"{chunk:05d}.npz"
        if not path.exists():
            _write(path, (seed, 3, chunk), encode)
    return read(folder, count)


def fingerprint(autoencoder: Any) -> str:
    """Of all that the latents of an autoencoder depend on: its weights, and its latents' statistics."""
    digest = hashlib.sha256()
    for name, values in autoencoder.state_dict().items():
        digest.update(name.encode() + values.detach().float().cpu().numpy().tobytes())
    config = autoencoder.config
    statistics = [list(getattr(config, name, None) or ()) for name in ("latents_mean", "latents_std")]
    digest.update(json.dumps(statistics).encode())
    return digest.hexdigest()


def _distribution() -> str:
    """Changes with what clips look like and how they are described."""
    rng = np.random.default_rng((0, 3))
    sample = [clips.sample_clip(rng) for _ in range(CHUNK)]
    pixels = np.rint(clips.render_batch(sample) * 100).astype(np.int8)
    captions = "\n".join(clip.caption for clip in sample)
    return hashlib.sha256(captions.encode() + pixels.tobytes()).hexdigest()


def _drop_others(folder: Path, origin: str) -> None:
    """Remove the chunks in `folder` unless they are of `origin`, and note whose the next ones are."""
    mark = folder / "made.json"
    if mark.exists() and mark.read_text() == origin:
        return
    for path in folder.glob("*.npz"):
        path.unlink()
    mark.write_text(origin)


def _write(path: Path, seed: tuple[int, ...], encode: Encode) -> None:
    rng = np.random.default_rng(seed)
    sample = [clips.sample_clip(rng) for _ in range(CHUNK)]
    with torch.no_grad():
        values = encode(torch.from_numpy(clips.render_batch(sample))).half().cpu().numpy()
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, values=values, captions=[clip.caption for clip in sample])
    part.replace(path)


def read(folder: Path, count: int | None = None) -> Latents:
    """What `make` wrote; raises SencacheError when there is nothing."""
    paths = sorted(folder.glob("*.npz"))[: None if count is None else count // CHUNK]
    if not paths:
        raise SencacheError(f"{folder} holds no latents; make them from at least {CHUNK} clips")
    loaded = [np.load(path) for path in paths]
    captions = [str(caption) for chunk in loaded for caption in chunk["captions"]]
    return Latents(torch.from_numpy(np.concatenate([chunk["values"] for chunk in loaded])), captions)
