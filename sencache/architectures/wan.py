"""Wan 2.1 and 2.2."""

from __future__ import annotations

from math import lcm, prod
from typing import Any

from sencache.architectures import base
from sencache.architectures.base import Architecture, BlockSignal, ChildSignal, Config, Decoder

# Of decoding, for each pixel of each frame, counted while the VAE decodes a video of the usual size.
VAE_FLOPS, VAE22_FLOPS = 8_512_000, 18_445_000


def _describe(transformer: Config, vae: Config) -> dict[str, Any]:
    heads, size = transformer.get("num_attention_heads", 40), transformer.get("attention_head_dim", 128)
    patch = transformer.get("patch_size", (1, 2, 2))
    spatial, temporal = vae.get("scale_factor_spatial", 8), vae.get("scale_factor_temporal", 4)
    folded = vae.get("patch_size") or 1
    width = vae.get("decoder_base_dim") or vae.get("base_dim", 96)
    side = spatial * patch[1]
    flops = VAE_FLOPS / 96**2 if folded == 1 else VAE22_FLOPS / 256**2
    return {
        # What the authors' scripts set is not known here; the checkpoint's own shift stays.
        "shift": None,
        "size_multiple": lcm(16, side),
        "temporal_factor": temporal,
        "temporal_compression": temporal,
        "min_side": lcm(16, side),
        "inner": heads * size,
        "feed_forward": transformer.get("ffn_dim", 13824),
        "layers": transformer.get("num_layers", 40),
        "token_side": side,
        "token_values": vae.get("z_dim", 16) * prod(patch),
        "vae_values": width // folded**2,
        "vae_flops": round(flops * width**2),
    }


def _clean(pipe: Any, encoded: Any) -> Any:
    mean, std = base.per_channel(encoded, pipe.vae.config.latents_mean, pipe.vae.config.latents_std)
    return (encoded - mean) / std


def _choose(index: Config, from_image: bool) -> str:
    name = str(index.get("_class_name"))
    return "WanImageToVideoPipeline" if from_image and index.get("expand_timesteps") else name


ARCHITECTURE = Architecture(
    "wan",
    transformers=("WanTransformer3DModel",),
    blocks=("blocks",),
    channel_axis=1,
    signals={
        "time_projection": BlockSignal(base.read_temb),
        "time_embedding": ChildSignal("condition_embedder"),
    },
    pipelines={"WanPipeline": False, "WanImageToVideoPipeline": True},
    choose=_choose,
    samplers={"unipc": "UniPCMultistepScheduler", "euler": "FlowMatchEulerDiscreteScheduler"},
    defaults={
        "pipeline": "WanPipeline",
        "summary": "a Wan checkpoint of your own",
        "licence": "apache-2.0",
        "height": 480,
        "width": 832,
        "frames": 81,
        "fps": 16,
        "steps": 50,
        "guidance_scale": 5.0,
        "scheduler": "UniPCMultistepScheduler",
        "shift": 5.0,
        "min_side": 128,
        "max_side": 1280,
        "max_frames": 121,
        "max_sequence_length": 512,
        # The authors' and diffusers' examples keep them in full precision.
        "dtypes": {"vae": "float32", "image_encoder": "float32"},
    },
    describe=_describe,
    clean=_clean,
    # Plain blocks, without a published figure: 12 tensors are assumed.
    decoder=Decoder(frames=4, tensors=12, tile=256 * 256),
)
