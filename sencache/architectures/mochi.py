"""Mochi 1. Its timesteps rise from 0, and sigma with them."""

from __future__ import annotations

from typing import Any

from sencache.architectures.base import MASKS, Architecture, BlockSignal, Config, per_channel, read_temb


def _describe(transformer: Config, vae: Config) -> dict[str, Any]:
    inner = transformer.get("num_attention_heads", 24) * transformer.get("attention_head_dim", 128)
    patch = transformer.get("patch_size", 2)
    return {
        # The pipeline takes these of its VAE for granted.
        "size_multiple": 8 * patch,
        "min_side": 8 * patch,
        "inner": inner,
        # SwiGLU: two thirds of the width, in three matrices.
        "feed_forward": 4 * inner,
        "layers": transformer.get("num_layers", 48),
        "token_values": transformer.get("in_channels", 12) * patch**2,
        "vae_values": vae.get("decoder_block_out_channels", (128,))[0],
    }


def _clean(pipe: Any, encoded: Any) -> Any:
    config = pipe.vae.config
    if config.latents_mean is None or config.latents_std is None:
        return encoded * config.scaling_factor
    mean, std = per_channel(encoded, config.latents_mean, config.latents_std)
    return (encoded - mean) * config.scaling_factor / std


ARCHITECTURE = Architecture(
    "mochi",
    transformers=("MochiTransformer3DModel",),
    blocks=("transformer_blocks",),
    channel_axis=1,
    doubles_batch=True,
    text_stream=True,
    signals={"time_embedding": BlockSignal(read_temb)},
    pipelines={"MochiPipeline": False},
    samplers={"euler": "FlowMatchEulerDiscreteScheduler"},
    encoded=MASKS,
    defaults={
        "summary": "a Mochi checkpoint of your own",
        "height": 480,
        "width": 848,
        "frames": 85,
        "fps": 30,
        "steps": 64,
        "guidance_scale": 4.5,
        "scheduler": "FlowMatchEulerDiscreteScheduler",
        "temporal_factor": 6,
        "temporal_compression": 6,
        "max_side": 1280,
        "max_frames": 163,
        "max_sequence_length": 256,
    },
    describe=_describe,
    clean=_clean,
)
