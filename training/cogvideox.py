"""tiny-cogvideox: v-prediction on the DDIM schedule, text and video tokens attending together."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from diffusers.models.embeddings import get_3d_rotary_pos_embed

from training import text
from training.attention import CogVideoXProcessor, Rotation
from training.autoencoding import Codec
from training.noise import Velocity

HEADS, HEAD, LAYERS, CHANNELS = 3, 64, 6, 16

name = "cogvideox"
text_encoder = text.t5
processor = CogVideoXProcessor


def _scheduler() -> Any:
    # The published settings of CogVideoX-2b.
    return CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.0120,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        rescale_betas_zero_snr=True,
        snr_shift_scale=3.0,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
    )


noise = Velocity(_scheduler())


def autoencoder() -> Any:
    """Untrained: 16 channels, 8 times smaller in space and 4 times in time."""
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        latent_channels=CHANNELS,
        layers_per_block=1,
        # PyTorch's gradient of a group norm is slow on a CPU where groups are small.
        norm_num_groups=2,
        temporal_compression_ratio=4,
        sample_height=64,
        sample_width=64,
        scaling_factor=1.0,
    )


def load_autoencoder(folder: str) -> Any:
    return AutoencoderKLCogVideoX.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32)


def codec(autoencoder: Any) -> Codec:
    """How training calls it: in the class's own chunks, because its norms depend on them."""
    return Codec(autoencoder, autoencoder._encode, partial(_decode, autoencoder))


def _decode(autoencoder: Any, latent: torch.Tensor) -> torch.Tensor:
    video: torch.Tensor = autoencoder._decode(latent).sample
    return video


def transformer() -> Any:
    """Untrained; the output starts at zero."""
    model = CogVideoXTransformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=HEAD,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        time_embed_dim=96,
        text_embed_dim=text.WIDTH,
        num_layers=LAYERS,
        sample_width=8,
        sample_height=8,
        sample_frames=17,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=text.LENGTH,
        use_rotary_positional_embeddings=True,
    )
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.proj_out.bias)
    return model


def from_shared(latent: torch.Tensor) -> torch.Tensor:
    """The shared latent [N, 16, t, h, w] as this model's own: the same."""
    return latent


def embed(encoder: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Caption features [N, tokens, width], padding included and unmasked as in CogVideoXPipeline."""
    return encoder(ids).last_hidden_state, (ids != 0).long()


def predict(
    model: Any, x: torch.Tensor, t: torch.Tensor, words: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """The network's output for noisy latents `x` [N, channels, t, h, w] at integer timesteps."""
    rotation = rotary(x.shape[2], x.shape[3] // 2, x.shape[4] // 2, x.device)
    output: torch.Tensor = model(x.transpose(1, 2), words, t, image_rotary_emb=rotation, return_dict=False)[0]
    return output.transpose(1, 2)


@lru_cache(maxsize=4)
def rotary(frames: int, height: int, width: int, device: torch.device) -> Rotation:
    """Cosines and sines of the pipeline's rotary positions for a grid of patches."""
    grid = (height, width)
    cosine, sine = get_3d_rotary_pos_embed(HEAD, ((0, 0), grid), grid, frames, device=device)
    return cosine, sine


def pipeline(parts: dict[str, Any]) -> Any:
    """Everything together, ready to be saved."""
    return CogVideoXPipeline(scheduler=_scheduler(), **parts)


@torch.no_grad()
def start_from(model: Any, wan: Any) -> None:
    """Start `model` from the trained transformer of tiny-wan, as far as the two have the same parts.

    Patches, self-attention, feed-forward and output are taken over; what the timestep does to them is fitted,
    at equal ratios of noise to signal. How captions come in is not Wan's and is learned anew.
    """
    model.patch_embed.proj.weight.copy_(wan.patch_embedding.weight.squeeze(2))
    model.patch_embed.proj.bias.copy_(wan.patch_embedding.bias)
    places = wan.proj_out.weight.view(2, 2, CHANNELS, -1).permute(2, 0, 1, 3)
    model.proj_out.weight.copy_(places.flatten(0, 2))
    model.proj_out.bias.copy_(wan.proj_out.bias.view(2, 2, CHANNELS).permute(2, 0, 1).flatten())
    features, embedded, modulated = _timesteps(model, wan)
    for mine, other in zip(model.transformer_blocks, wan.blocks, strict=True):
        mine.ff.load_state_dict(other.ffn.state_dict())
        _take_attention(mine.attn1, other.attn1)
        shares = modulated + other.scale_shift_table.flatten(1)
        for norm, wanted in zip((mine.norm1, mine.norm2), shares.chunk(2, dim=1), strict=True):
            _fit(norm.linear, features, wanted)
    _fit(
        model.norm_out.linear, features, torch.cat([embedded, embedded], 1) + wan.scale_shift_table.flatten(1)
    )


def _take_attention(mine: Any, other: Any) -> None:
    for name in ("to_q", "to_k", "to_v"):
        getattr(mine, name).load_state_dict(getattr(other, name).state_dict())
    mine.to_out[0].load_state_dict(other.to_out[0].state_dict())
    # Wan normalises all heads together with a gain per channel, CogVideoX each head with the same gains.
    for name in ("norm_q", "norm_k"):
        getattr(mine, name).weight.copy_(getattr(other, name).weight.view(HEADS, HEAD).mean(0))


def _timesteps(model: Any, wan: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For all timesteps what this model's modulations see, and Wan's embedding and modulations there."""
    signal, spread = noise.alphas.sqrt(), (1 - noise.alphas).sqrt()
    steps = torch.arange(len(noise.alphas))
    features = torch.nn.functional.silu(model.time_embedding(model.time_proj(steps)))
    level = 1000 * spread / (signal + spread)
    embedded, modulated, *_ = wan.condition_embedder(level, torch.zeros(1, 1, text.WIDTH))
    return features, embedded, modulated


def _fit(linear: Any, features: torch.Tensor, wanted: torch.Tensor) -> None:
    """Ridge regression of `wanted` [N, rows] for the first rows of `linear`; its other rows become 0."""
    inputs = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    gram = inputs.T @ inputs + 1e-3 * torch.eye(inputs.shape[1])
    solved = torch.linalg.solve(gram, inputs.T @ wanted.double()).float()
    linear.weight.zero_()
    linear.bias.zero_()
    linear.weight[: wanted.shape[1]] = solved[:-1].T
    linear.bias[: wanted.shape[1]] = solved[-1]
