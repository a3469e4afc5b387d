"""AutoencoderKLWan on a whole clip at once, for training; equal to the class's own chunked loop."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, patchify, unpatchify


def build(latents_mean: list[float], latents_std: list[float]) -> Any:
    """A fresh 1.5 M parameter autoencoder: 16 channels, 8 times smaller in space and 4 times in time."""
    return AutoencoderKLWan(
        base_dim=24,
        z_dim=16,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=latents_mean,
        latents_std=latents_std,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=4,
        scale_factor_spatial=8,
        is_residual=True,
    )


def unchunk(autoencoder: Any) -> Any:
    """Let this one instance resample whole clips when it is called without a feature cache."""
    for module in autoencoder.modules():
        if isinstance(module, WanResample):
            module.forward = partial(_resample, module, module.forward)
    return autoencoder


def encode(autoencoder: Any, video: torch.Tensor) -> torch.Tensor:
    """Mean and log variance, [N, 32, t, h, w], of clips [N, 3, T, H, W]."""
    moments: torch.Tensor = autoencoder.quant_conv(
        autoencoder.encoder(patchify(video, autoencoder.config.patch_size))
    )
    return moments


def decode(autoencoder: Any, latent: torch.Tensor) -> torch.Tensor:
    """Clips [N, 3, T, H, W], not clipped, from latents [N, 16, t, h, w]."""
    packed = autoencoder.decoder(autoencoder.post_quant_conv(latent), first_chunk=True)
    video: torch.Tensor = unpatchify(packed, autoencoder.config.patch_size)
    return video


def _resample(
    module: Any, chunked: Any, x: torch.Tensor, feat_cache: Any = None, feat_idx: Any = None
) -> torch.Tensor:
    if feat_cache is not None:
        resampled: torch.Tensor = chunked(x, feat_cache, feat_idx)
        return resampled
    if module.mode == "upsample3d" and x.shape[2] > 1:
        doubled = module.time_conv(x[:, :, 1:]).unflatten(1, (2, -1))
        x = torch.cat([x[:, :, :1], torch.stack(doubled.unbind(1), dim=3).flatten(2, 3)], dim=2)
    frames = x.transpose(1, 2)
    x = module.resample(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)
    if module.mode == "downsample3d" and x.shape[2] > 1:
        x = torch.cat([x[:, :, :1], module.time_conv(x)], dim=2)
    return x
