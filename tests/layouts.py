"""Tiny random checkpoints of every layout that can be loaded, saved to disk as they are published.

Real classes with small numbers: tokenizer, text encoder, VAE, scheduler and transformer of each pipeline,
some hundred kilobytes in all. Nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import pipelines
import torch
from published import COGVIDEOX_2B, COGVIDEOX_5B, HUNYUAN, LTX, MOCHI, WAN, Form, publish, subword_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaModel,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

WIDTH = 32


def tokenizer() -> Any:
    """Single letters, in the class that all three families name."""
    special = ["<pad>", "</s>", "<unk>"]
    letters = [("▁", -2.0), *((letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz,.")]
    return T5Tokenizer(vocab=[(token, 0.0) for token in special] + letters, extra_ids=0)


def text_encoder(multilingual: bool) -> Any:
    config, model = (UMT5Config, UMT5EncoderModel) if multilingual else (T5Config, T5EncoderModel)
    sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": WIDTH, "num_layers": 1, "num_heads": 2}
    return model(config(vocab_size=64, feed_forward_proj="gated-gelu", **sizes)).eval()


def wan_transformer(latent: int = 16, condition: int = 0, image: bool = False) -> Any:
    eyes = {"image_dim": WIDTH, "added_kv_proj_dim": 24} if image else {}
    sizes = {"out_channels": latent, "num_layers": 2, "freq_dim": 32}
    return pipelines.wan_transformer(latent + condition, **sizes, **eyes)


def wan22_vae() -> Any:
    """Twice the compression: pixels are folded into channels first."""
    return pipelines.wan_vae(
        decoder_base_dim=4,
        z_dim=48,
        latents_mean=[0.0] * 48,
        latents_std=[1.0] * 48,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    )


def wan(pipeline: Any = diffusers.WanPipeline, **changes: Any) -> Any:
    parts = {
        "tokenizer": tokenizer(),
        "text_encoder": text_encoder(multilingual=True),
        "vae": pipelines.wan_vae(),
        "scheduler": pipelines.unipc(),
        "transformer": wan_transformer(),
    }
    return pipeline(**{**parts, **changes})


def wan_image() -> Any:
    """Wan 2.1: latent, mask and still on the channels, and the still's embedding beside the text."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 2}
    eyes = CLIPVisionConfig(num_attention_heads=2, image_size=32, patch_size=16, **sizes)
    return wan(
        diffusers.WanImageToVideoPipeline,
        transformer=wan_transformer(condition=20, image=True),
        image_encoder=CLIPVisionModel(eyes).eval(),
        image_processor=CLIPImageProcessor(crop_size={"height": 32, "width": 32}, size={"shortest_edge": 32}),
    )


def wan22_image() -> Any:
    """Wan 2.2: two experts, the still on the channels alone."""
    experts = {name: wan_transformer(condition=20) for name in ("transformer", "transformer_2")}
    alone = {"image_encoder": None, "image_processor": None, "boundary_ratio": 0.9}
    return wan(diffusers.WanImageToVideoPipeline, **experts, **alone)


def cogvideox(rotary: bool = True, image: bool = False, **changes: Any) -> Any:
    pipeline = diffusers.CogVideoXImageToVideoPipeline if image else diffusers.CogVideoXPipeline
    return pipeline(
        tokenizer=tokenizer(),
        text_encoder=text_encoder(multilingual=False),
        vae=pipelines.cogvideox_vae(),
        transformer=diffusers.CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=8 if image else 4,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=WIDTH,
            num_layers=2,
            sample_width=4,
            sample_height=4,
            sample_frames=9,
            max_text_seq_length=16,
            use_rotary_positional_embeddings=rotary,
            **changes,
        ).eval(),
        scheduler=diffusers.CogVideoXDDIMScheduler(),
    )


def ltx(pipeline: str = "LTXPipeline", timestep_aware: bool = False) -> Any:
    scaling = (True, True, True, False)
    return getattr(diffusers, pipeline)(
        tokenizer=tokenizer(),
        text_encoder=text_encoder(multilingual=False),
        vae=diffusers.AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            spatio_temporal_scaling=scaling,
            decoder_spatio_temporal_scaling=scaling,
            decoder_inject_noise=(False,) * 5,
            timestep_conditioning=timestep_aware,
        ).eval(),
        transformer=diffusers.LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=16,
            cross_attention_dim=WIDTH,
            num_layers=2,
            caption_channels=WIDTH,
        ).eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            # Checkpoints from 0.9.5 on come with this pipeline and lay out their own timesteps.
            use_dynamic_shifting=pipeline != "LTXConditionPipeline"
        ),
    )


def skyreels() -> Any:
    return wan(
        diffusers.SkyReelsV2Pipeline,
        transformer=diffusers.SkyReelsV2Transformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            text_dim=WIDTH,
            freq_dim=32,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
        ).eval(),
    )


def mochi() -> Any:
    return diffusers.MochiPipeline(
        tokenizer=tokenizer(),
        text_encoder=text_encoder(multilingual=False),
        vae=diffusers.AutoencoderKLMochi(
            encoder_block_out_channels=(32, 32, 32, 32),
            decoder_block_out_channels=(32, 32, 32, 32),
            layers_per_block=(1, 1, 1, 1, 1),
        ).eval(),
        transformer=diffusers.MochiTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            pooled_projection_dim=16,
            text_embed_dim=WIDTH,
            time_embed_dim=4,
        ).eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    )


def hunyuan() -> Any:
    tokens, tokens_2 = subword_tokenizers()
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_attention_heads": 2}
    clip = CLIPTextConfig(
        vocab_size=len(tokens_2), num_hidden_layers=1, eos_token_id=tokens_2.eos_token_id, **sizes
    )
    return diffusers.HunyuanVideoPipeline(
        tokenizer=tokens,
        # The pipeline takes the states before its last two layers.
        text_encoder=LlamaModel(LlamaConfig(vocab_size=len(tokens), num_hidden_layers=3, **sizes)).eval(),
        tokenizer_2=tokens_2,
        text_encoder_2=CLIPTextModel(clip).eval(),
        vae=diffusers.AutoencoderKLHunyuanVideo(
            latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2
        ).eval(),
        transformer=diffusers.HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            text_embed_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            rope_axes_dim=(4, 4, 4),
        ).eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
    )


@dataclass(frozen=True)
class Layout:
    """How a checkpoint is made and published, a size that it takes, and whether it starts from a still."""

    make: Callable[[], Any]
    form: Form
    height: int = 32
    width: int = 32
    frames: int = 5
    image: bool = False


def _two_experts() -> Any:
    return wan(transformer_2=wan_transformer(), boundary_ratio=0.875)


def _ti2v() -> Any:
    return wan(vae=wan22_vae(), transformer=wan_transformer(latent=48), expand_timesteps=True)


def _learned() -> Any:
    return cogvideox(image=True, use_learned_positional_embeddings=True)


LAYOUTS: dict[str, Layout] = {
    "wan": Layout(wan, WAN),
    "wan-image": Layout(wan_image, WAN, image=True),
    "wan2.2-a14b": Layout(_two_experts, WAN),
    "wan2.2-a14b-image": Layout(wan22_image, WAN, image=True),
    "wan2.2-ti2v": Layout(_ti2v, WAN),
    "wan2.2-ti2v-image": Layout(_ti2v, WAN, image=True),
    "cogvideox-2b": Layout(lambda: cogvideox(rotary=False), COGVIDEOX_2B, frames=9),
    "cogvideox-5b": Layout(cogvideox, COGVIDEOX_5B, frames=9),
    "cogvideox1.5-5b": Layout(lambda: cogvideox(patch_size_t=2, patch_bias=False), COGVIDEOX_5B, frames=9),
    "cogvideox-5b-image": Layout(_learned, COGVIDEOX_5B, frames=9, image=True),
    "ltx": Layout(ltx, LTX, frames=9),
    "ltx-0.9.1": Layout(lambda: ltx(timestep_aware=True), LTX, frames=9),
    "ltx-condition": Layout(lambda: ltx("LTXConditionPipeline"), LTX, frames=9),
    "skyreels": Layout(skyreels, WAN),
    "mochi": Layout(mochi, MOCHI, frames=7),
    "hunyuan": Layout(hunyuan, HUNYUAN),
    "ltx-image": Layout(lambda: ltx("LTXImageToVideoPipeline"), LTX, frames=9, image=True),
}


def save(name: str, folder: Path) -> Path:
    """Write the checkpoint of the layout `name` into `folder`."""
    torch.manual_seed(0)
    layout = LAYOUTS[name]
    return publish(layout.make(), folder, layout.form)
