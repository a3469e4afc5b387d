"""Decoding at the models' own sizes, whole and in tiles: seconds, and memory beside what is planned."""

from __future__ import annotations

import time
from typing import Any

import torch
from diffusers.video_processor import VideoProcessor
from gpu_bench import Bench
from gpu_models import make_vae, work_of


def decoding(bench: Bench, values: dict[str, float]) -> None:
    """The second of two runs each; the first one chooses kernels."""
    subject, cuda = bench.subject, bench.cuda
    vae, work = make_vae(subject.name, subject.scale, subject.device), work_of(subject, bench.steps)
    latents = torch.randn(_shape(bench, vae), device=subject.device, dtype=vae.dtype)
    for name, planned in (("decoding", work.decode), ("decoding in tiles", work.decode_tiled)):
        if name != "decoding":
            vae.enable_tiling()
        _frames(vae, latents)
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if cuda else 0
        began = time.perf_counter()
        _frames(vae, latents)
        # Frames are on the host when this ends.
        values[f"{name}, s"] = time.perf_counter() - began
        if cuda:
            peak = torch.cuda.max_memory_allocated() - before
            values[f"{name}, peak GB"] = peak / 1e9
            values[f"{name}, peak over plan"] = peak / planned


def _shape(bench: Bench, vae: Any) -> tuple[int, ...]:
    size, name = bench.subject.size, bench.subject.name
    spatial, temporal = (32, 8) if name == "ltx" else (8, 4)
    channels = vae.config.z_dim if name == "wan" else vae.config.latent_channels
    return 1, channels, (size.frames - 1) // temporal + 1, size.height // spatial, size.width // spatial


@torch.no_grad()
def _frames(vae: Any, latents: torch.Tensor) -> Any:
    """As the pipelines do."""
    return VideoProcessor().postprocess_video(vae.decode(latents, return_dict=False)[0], "np")
