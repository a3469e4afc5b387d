"""tiny-wan: flow matching, one latent of 16 channels, 2x2 patches, cross-attention to the caption."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

from training import text, wan_autoencoder
from training.attention import WanProcessor
from training.autoencoding import Codec
from training.noise import Flow

HEADS, HEAD, LAYERS, FEED_FORWARD, CHANNELS = 3, 64, 6, 768, 16

name = "wan"
noise = Flow()
text_encoder = text.umt5
processor = WanProcessor


def autoencoder(mean: list[float] | None = None, std: list[float] | None = None) -> Any:
    """Untrained; the statistics are known when it is trained."""
    return wan_autoencoder.build(mean or [0.0] * CHANNELS, std or [1.0] * CHANNELS)


def load_autoencoder(folder: str) -> Any:
    return AutoencoderKLWan.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32)


def codec(autoencoder: Any) -> Codec:
    module = wan_autoencoder.unchunk(autoencoder)
    return Codec(module, partial(wan_autoencoder.encode, module), partial(wan_autoencoder.decode, module))


def transformer() -> Any:
    """4.0 M parameters, untrained; the output starts at zero."""
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=HEADS,
        attention_head_dim=HEAD,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=text.WIDTH,
        freq_dim=256,
        ffn_dim=FEED_FORWARD,
        num_layers=LAYERS,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.proj_out.bias)
    return model


def from_shared(latent: torch.Tensor) -> torch.Tensor:
    """The shared latent [N, 16, t, h, w] as this model's own: the same."""
    return latent


def embed(encoder: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Caption features [N, tokens, width], zero where there is padding as in WanPipeline, and the mask."""
    mask = (ids != 0).long()
    hidden = encoder(ids, mask).last_hidden_state
    return hidden * mask[..., None].to(hidden.dtype), mask


def predict(
    model: Any, x: torch.Tensor, t: torch.Tensor, words: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """The network's output for noisy latents `x` at timesteps `t` on 0..1000."""
    output: torch.Tensor = model(x, t, words, return_dict=False)[0]
    return output


def pipeline(parts: dict[str, Any]) -> Any:
    """Everything together, ready to be saved."""
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )
    return WanPipeline(scheduler=scheduler, **parts)


@torch.no_grad()
def start_from(model: Any, trained: Any) -> None:
    """Start the transformer `model` from a trained one."""
    model.load_state_dict(trained.state_dict())
