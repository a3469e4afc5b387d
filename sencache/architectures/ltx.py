"""LTX-Video."""

from __future__ import annotations

from math import lcm
from typing import Any

from sencache.architectures.base import MASKS, Architecture, BlockCall, BlockSignal, Config, Decoder

# Of decoding, for each pixel of each frame, counted while the VAE decodes a video of the usual size.
VAE_FLOPS, VAE091_FLOPS = 871_000, 1_417_000
# VAEs that take part in the denoising; the values that diffusers' documentation gives.
TIMESTEP_AWARE = {"decode_timestep": 0.05, "decode_noise_scale": 0.025}


def _modulated(block: Any, call: BlockCall) -> Any:
    """`norm1(h) (1 + scale) + shift`, what the block's self-attention sees."""
    temb = call["temb"]
    # Read outside the block's forward: its table is on the host while its group is offloaded.
    table = block.scale_shift_table.to(temb.device, temb.dtype)
    shift, scale = (table + temb.unflatten(-1, (len(table), -1)))[..., :2, :].unbind(dim=-2)
    return block.norm1(call.hidden) * (1 + scale) + shift


def _describe(transformer: Config, vae: Config) -> dict[str, Any]:
    inner = transformer.get("num_attention_heads", 32) * transformer.get("attention_head_dim", 64)
    halvings = 2 ** sum(vae.get("spatio_temporal_scaling", (True, True, True, False)))
    spatial = vae.get("spatial_compression_ratio") or vae.get("patch_size", 4) * halvings
    temporal = vae.get("temporal_compression_ratio") or vae.get("patch_size_t", 1) * halvings
    patch = transformer.get("patch_size", 1)
    side = spatial * patch
    multiple, aware = lcm(32, side), bool(vae.get("timestep_conditioning"))
    width = (vae.get("decoder_block_out_channels") or vae.get("block_out_channels", (128,)))[0]
    return {
        "size_multiple": multiple,
        "temporal_factor": temporal,
        "temporal_compression": temporal,
        "min_side": multiple,
        "inner": inner,
        "feed_forward": 4 * inner,
        "layers": transformer.get("num_layers", 28),
        "token_side": side,
        "token_values": vae.get("latent_channels", 128) * patch**2,
        "vae_values": vae.get("block_out_channels", (128,))[0] // vae.get("patch_size", 4) ** 2,
        "vae_flops": round(VAE091_FLOPS * (width / 256) ** 2 if aware else VAE_FLOPS * (width / 128) ** 2),
        "call": TIMESTEP_AWARE if aware else {},
    }


def _clean(pipe: Any, encoded: Any) -> Any:
    vae = pipe.vae
    normal = pipe._normalize_latents(encoded, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
    return pipe._pack_latents(
        normal, pipe.transformer_spatial_patch_size, pipe.transformer_temporal_patch_size
    )


ARCHITECTURE = Architecture(
    "ltx",
    transformers=("LTXVideoTransformer3DModel",),
    blocks=("transformer_blocks",),
    channel_axis=2,
    doubles_batch=True,
    signals={"modulated_input": BlockSignal(_modulated, weights=True)},
    pipelines={"LTXPipeline": False, "LTXConditionPipeline": False, "LTXImageToVideoPipeline": True},
    samplers={"euler": "FlowMatchEulerDiscreteScheduler"},
    encoded=MASKS,
    defaults={
        "pipeline": "LTXPipeline",
        "summary": "an LTX-Video checkpoint of your own",
        "licence": "see the repository",
        "height": 512,
        "width": 768,
        "frames": 161,
        "fps": 25,
        "steps": 50,
        "guidance_scale": 3.0,
        "scheduler": "FlowMatchEulerDiscreteScheduler",
        "min_side": 128,
        "max_side": 1280,
        "max_frames": 257,
        "max_sequence_length": 128,
    },
    describe=_describe,
    clean=_clean,
    # Plain blocks, without a published figure: 12 tensors are assumed.
    decoder=Decoder(frames=None, tensors=12, tile=512 * 512),
)
