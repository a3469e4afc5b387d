"""tiny-ltx: flow matching on packed latents of 64 channels at a sixteenth of the size, cross-attention."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)

from training import text
from training.attention import LTXProcessor
from training.autoencoding import Codec
from training.noise import Flow

HEADS, HEAD, LAYERS, CHANNELS = 3, 64, 6, 64
FRAME_RATE, TIME, SPACE = 25, 4, 16  # the pipeline's default rate; how much smaller the latent is

name = "ltx"
noise = Flow()
text_encoder = text.t5
processor = LTXProcessor


def autoencoder() -> Any:
    """Untrained. Patches of 4x4 pixels, nothing is computed at full size; time and space are halved twice."""
    return AutoencoderKLLTXVideo(
        latent_channels=CHANNELS,
        block_out_channels=(48, 64, 64),
        down_block_types=("LTXVideoDownBlock3D",) * 3,
        decoder_block_out_channels=(64, 64, 64),
        layers_per_block=(1, 1, 1, 1),
        decoder_layers_per_block=(2, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False),
        decoder_spatio_temporal_scaling=(True, True, False),
        decoder_inject_noise=(False,) * 4,
        downsample_type=("conv",) * 3,
        upsample_residual=(False,) * 3,
        upsample_factor=(1,) * 3,
        patch_size=4,
    )


def load_autoencoder(folder: str) -> Any:
    return AutoencoderKLLTXVideo.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32)


def codec(autoencoder: Any) -> Codec:
    """How training calls it: whole clips, as the class does itself."""
    return Codec(autoencoder, autoencoder.encoder, partial(_decode, autoencoder))


def _decode(autoencoder: Any, latent: torch.Tensor) -> torch.Tensor:
    video: torch.Tensor = autoencoder.decoder(latent, None)
    return video


def transformer() -> Any:
    """3.9 M parameters, untrained; the output starts at zero."""
    model = LTXVideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD,
        cross_attention_dim=HEADS * HEAD,
        num_layers=LAYERS,
        caption_channels=text.WIDTH,
    )
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.proj_out.bias)
    return model


def from_shared(latent: torch.Tensor) -> torch.Tensor:
    """The shared latent [N, 16, t, h, w] with 2x2 places folded into channels: [N, 64, t, h/2, w/2]."""
    batch, channels, frames, height, width = latent.shape
    places = latent.reshape(batch, channels, frames, height // 2, 2, width // 2, 2)
    return places.permute(0, 4, 6, 1, 2, 3, 5).flatten(1, 3).contiguous()


def embed(encoder: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Caption features [N, tokens, width] and the mask; as in LTXPipeline the encoder itself sees no mask."""
    return encoder(ids).last_hidden_state, (ids != 0).long()


def predict(
    model: Any, x: torch.Tensor, t: torch.Tensor, words: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """The network's output for noisy latents `x` at timesteps `t` on 0..1000, unpacked again."""
    frames, height, width = x.shape[2:]
    packed = x.flatten(2).transpose(1, 2)
    output: torch.Tensor = model(
        packed,
        words,
        t,
        mask,
        num_frames=frames,
        height=height,
        width=width,
        rope_interpolation_scale=(TIME / FRAME_RATE, SPACE, SPACE),
        return_dict=False,
    )[0]
    return output.transpose(1, 2).reshape(x.shape)


def pipeline(parts: dict[str, Any]) -> Any:
    """Everything together, ready to be saved. The shift grows with the number of tokens, as for LTX-Video."""
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=1.1,
        max_shift=2.05,
        base_image_seq_len=80,
        max_image_seq_len=1280,
        shift_terminal=None,
    )
    return LTXPipeline(scheduler=scheduler, **parts)


@torch.no_grad()
def start_from(model: Any, wan: Any) -> None:
    """Start `model` from the trained transformer of tiny-wan, which differs in norms and positions only.

    What Wan normalises before its cross-attention LTX does not: the norm's gain and mean go into the query.
    """
    _copy(model.proj_in.weight, wan.patch_embedding.weight.permute(0, 3, 4, 2, 1).flatten(1))
    _copy(model.proj_in.bias, wan.patch_embedding.bias)
    theirs = wan.condition_embedder
    model.time_embed.emb.timestep_embedder.load_state_dict(theirs.time_embedder.state_dict())
    model.time_embed.linear.load_state_dict(theirs.time_proj.state_dict())
    model.caption_projection.load_state_dict(theirs.text_embedder.state_dict())
    model.proj_out.load_state_dict(wan.proj_out.state_dict())
    _copy(model.scale_shift_table, wan.scale_shift_table[0])
    for mine, other in zip(model.transformer_blocks, wan.blocks, strict=True):
        mine.attn1.load_state_dict(other.attn1.state_dict())
        mine.attn2.load_state_dict(other.attn2.state_dict())
        mine.ff.load_state_dict(other.ffn.state_dict())
        _copy(mine.scale_shift_table, other.scale_shift_table[0])
        gained = other.attn2.to_q.weight * other.norm2.weight
        _copy(mine.attn2.to_q.weight, gained - gained.mean(dim=1, keepdim=True))
        _copy(mine.attn2.to_q.bias, other.attn2.to_q.bias + other.attn2.to_q.weight @ other.norm2.bias)


def _copy(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    mine.copy_(theirs)
