"""HunyuanVideo: two block lists, two text encoders, and guidance that is an input of the network."""

from __future__ import annotations

from typing import Any

from sencache.architectures.base import Architecture, BlockSignal, Config, read_temb


def _describe(transformer: Config, vae: Config) -> dict[str, Any]:
    inner = transformer.get("num_attention_heads", 24) * transformer.get("attention_head_dim", 128)
    patch, patch_t = transformer.get("patch_size", 2), transformer.get("patch_size_t", 1)
    spatial, temporal = vae.get("spatial_compression_ratio", 8), vae.get("temporal_compression_ratio", 4)
    return {
        # The pipeline refuses other sizes, whatever the patch is.
        "size_multiple": max(16, spatial * patch),
        "temporal_factor": temporal * patch_t,
        "temporal_compression": temporal,
        "temporal_patch": patch_t,
        "inner": inner,
        "feed_forward": round(inner * transformer.get("mlp_ratio", 4.0)),
        "layers": transformer.get("num_layers", 20) + transformer.get("num_single_layers", 40),
        "token_side": spatial * patch,
        "token_values": transformer.get("in_channels", 16) * patch**2 * patch_t,
        "vae_values": vae.get("block_out_channels", (128,))[0],
    }


def _encode(pipe: Any, prompt: str, negative_prompt: str, guidance_scale: float, **options: Any) -> Any:
    return pipe.encode_prompt(prompt, **options)


def _clean(pipe: Any, encoded: Any) -> Any:
    return encoded * pipe.vae.config.scaling_factor


ARCHITECTURE = Architecture(
    "hunyuan",
    transformers=("HunyuanVideoTransformer3DModel",),
    blocks=("transformer_blocks", "single_transformer_blocks"),
    channel_axis=1,
    text_stream=True,
    embedded_guidance=True,
    signals={"time_embedding": BlockSignal(read_temb)},
    pipelines={"HunyuanVideoPipeline": False},
    samplers={"euler": "FlowMatchEulerDiscreteScheduler"},
    encoded=("prompt_embeds", "pooled_prompt_embeds", "prompt_attention_mask"),
    encode=_encode,
    text_encoders=("text_encoder", "text_encoder_2"),
    defaults={
        "summary": "a HunyuanVideo checkpoint of your own",
        "height": 720,
        "width": 1280,
        "frames": 129,
        "fps": 24,
        "steps": 50,
        "guidance_scale": 6.0,
        "scheduler": "FlowMatchEulerDiscreteScheduler",
        "min_side": 16,
        "max_side": 1280,
        "max_frames": 129,
        "max_sequence_length": 256,
    },
    describe=_describe,
    clean=_clean,
)
