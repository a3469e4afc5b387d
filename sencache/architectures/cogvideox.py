"""CogVideoX and CogVideoX 1.5."""

from __future__ import annotations

from typing import Any

from sencache.architectures.base import Architecture, BlockSignal, Config, Decoder, read_temb

# Of decoding, for each pixel of each frame, counted while the VAE decodes a video of the usual size.
VAE_FLOPS = 18_603_000


def _describe(transformer: Config, vae: Config) -> dict[str, Any]:
    inner = transformer.get("num_attention_heads", 30) * transformer.get("attention_head_dim", 64)
    channels = vae.get("block_out_channels", (128, 256, 256, 512))
    spatial = 2 ** (len(channels) - 1)
    patch, patch_t = transformer.get("patch_size", 2), transformer.get("patch_size_t") or 1
    multiple = spatial * patch
    height, width = (transformer.get(name, 60) * spatial for name in ("sample_height", "sample_width"))
    frames, compression = transformer.get("sample_frames", 49), vae.get("temporal_compression_ratio", 4)
    return {
        "height": height // multiple * multiple,
        "width": width // multiple * multiple,
        "frames": frames,
        "size_multiple": multiple,
        # The VAE makes other numbers of frames from an even number of latent ones.
        "temporal_factor": 2 * compression,
        "temporal_compression": compression,
        "min_side": multiple,
        "max_frames": max(frames, 161 if patch_t > 1 else 49),
        "max_sequence_length": transformer.get("max_text_seq_length", 226),
        "fixed_size": bool(transformer.get("use_learned_positional_embeddings")),
        "dtype": "bfloat16" if transformer.get("use_rotary_positional_embeddings") else "float16",
        "inner": inner,
        "feed_forward": 4 * inner,
        "layers": transformer.get("num_layers", 30),
        "token_values": vae.get("latent_channels", 16) * patch**2 * patch_t,
        "vae_values": channels[0],
        "vae_flops": round(VAE_FLOPS * (channels[0] / 128) ** 2),
        "temporal_patch": patch_t,
    }


def _clean(pipe: Any, encoded: Any) -> Any:
    latent = (encoded * pipe.vae_scaling_factor_image).permute(0, 2, 1, 3, 4)
    # Models with a temporal patch pad in front, and drop the padding when they decode.
    missing = -latent.shape[1] % (pipe.transformer.config.patch_size_t or 1)
    frames = [0] * missing + list(range(latent.shape[1]))
    return latent[:, frames]


ARCHITECTURE = Architecture(
    "cogvideox",
    transformers=("CogVideoXTransformer3DModel",),
    blocks=("transformer_blocks",),
    channel_axis=2,
    doubles_batch=True,
    text_stream=True,
    signals={"time_embedding": BlockSignal(read_temb)},
    pipelines={"CogVideoXPipeline": False, "CogVideoXImageToVideoPipeline": True},
    samplers={"ddim": "CogVideoXDDIMScheduler", "dpm": "CogVideoXDPMScheduler"},
    defaults={
        "pipeline": "CogVideoXPipeline",
        "summary": "a CogVideoX checkpoint of your own",
        "licence": "CogVideoX licence",
        "width": 720,
        "fps": 8,
        "steps": 50,
        "guidance_scale": 6.0,
        "scheduler": "CogVideoXDDIMScheduler",
        "min_side": 256,
        "max_side": 1360,
    },
    describe=_describe,
    clean=_clean,
    # diffusers states 19 GB for CogVideoX-2b's 49 frames of 720x480, which gives these 26 tensors.
    decoder=Decoder(frames=8, tensors=26, tile=240 * 360),
)
