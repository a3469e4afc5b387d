"""Pipelines of the real sizes with random weights, made on the device itself; and the same in miniature.

Configurations are those of the published checkpoints' config.json. There is no text encoder, and no VAE but
where one is measured: random embeddings go in, latents come out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipelines import profile as made_up_profile

from sencache.models.catalogue import MODELS
from sencache.models.placement import Work

__all__ = [
    "ENTRIES",
    "Entry",
    "Size",
    "Subject",
    "made_up_profile",
    "make_subject",
    "make_transformer",
    "make_vae",
    "size_of",
    "work_of",
]

Config = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """A transformer's configuration, and what is asked of it."""

    config: Config
    height: int
    width: int
    frames: int
    tokens: int
    text: int


@dataclass(frozen=True)
class Entry:
    """One model at both scales.

    `key` is its name in the list, `steps` are those of a run, `seconds` those of a computed guided step at
    full size: not measured but computed from operations at 155 TFLOP/s, so rather too long.
    """

    key: str
    network: str
    make: Callable[[Any], Any]
    guidance: float
    full: Size
    tiny: Size
    steps: int
    seconds: float
    vae: str
    tiny_vae: Config


@dataclass(frozen=True)
class Subject:
    """A pipeline, and the arguments of one call of it but for the number of steps."""

    name: str
    pipe: Any
    arguments: dict[str, Any]
    device: torch.device
    scale: str

    @property
    def size(self) -> Size:
        """What is asked of it."""
        return size_of(self.name, self.scale)

    @property
    def transformer(self) -> Any:
        """The network."""
        return self.pipe.transformer

    @property
    def blocks(self) -> Any:
        """Its block list."""
        return self.transformer.blocks if self.name == "wan" else self.transformer.transformer_blocks

    @property
    def branches(self) -> int:
        """Calls of the network in one guided step."""
        return 2 if self.name == "wan" else 1


def _wan(transformer: Any) -> Any:
    from diffusers import UniPCMultistepScheduler, WanPipeline

    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )
    return WanPipeline(
        tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, transformer=transformer
    )


def _cogvideox(transformer: Any) -> Any:
    from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline

    scheduler = CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=3.0,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    return CogVideoXPipeline(
        tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, transformer=transformer
    )


def _ltx(transformer: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, LTXPipeline

    scheduler = FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=1024,
        base_shift=0.95,
        max_image_seq_len=4096,
        max_shift=2.05,
        shift_terminal=0.1,
        use_dynamic_shifting=True,
    )
    return LTXPipeline(
        tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, transformer=transformer
    )


WAN: Config = {
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "text_dim": 4096,
    "ffn_dim": 8960,
    "num_layers": 30,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
}
COGVIDEOX: Config = {
    "num_attention_heads": 30,
    "attention_head_dim": 64,
    "num_layers": 30,
    "text_embed_dim": 4096,
    "sample_width": 90,
    "sample_height": 60,
    "sample_frames": 49,
}
LTX: Config = {
    "num_attention_heads": 32,
    "attention_head_dim": 64,
    "cross_attention_dim": 2048,
    "num_layers": 28,
    "caption_channels": 4096,
}
SMALL: Config = {"num_attention_heads": 2, "num_layers": 4}

ENTRIES = {
    "wan": Entry(
        "wan-1.3b",
        "WanTransformer3DModel",
        _wan,
        5.0,
        Size(WAN, 480, 832, 81, tokens=512, text=4096),
        Size(
            {**WAN, **SMALL, "attention_head_dim": 12, "text_dim": 32, "ffn_dim": 32}, 32, 32, 9, 16, text=32
        ),
        steps=6,
        seconds=3.65,
        vae="AutoencoderKLWan",
        tiny_vae={"base_dim": 4, "z_dim": 16, "dim_mult": [1] * 4, "num_res_blocks": 1},
    ),
    "cogvideox": Entry(
        "cogvideox-2b",
        "CogVideoXTransformer3DModel",
        _cogvideox,
        6.0,
        Size(COGVIDEOX, 480, 720, 49, tokens=226, text=4096),
        Size(
            {
                **COGVIDEOX,
                **SMALL,
                "attention_head_dim": 16,
                "text_embed_dim": 32,
                "sample_width": 4,
                "sample_height": 4,
                "sample_frames": 9,
                "max_text_seq_length": 16,
            },
            32,
            32,
            9,
            tokens=16,
            text=32,
        ),
        steps=8,
        seconds=1.55,
        vae="AutoencoderKLCogVideoX",
        tiny_vae={"block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 2},
    ),
    "ltx": Entry(
        "ltx",
        "LTXVideoTransformer3DModel",
        _ltx,
        3.0,
        Size(LTX, 512, 768, 161, tokens=128, text=4096),
        Size(
            {**LTX, **SMALL, "attention_head_dim": 16, "cross_attention_dim": 32, "caption_channels": 32},
            64,
            64,
            9,
            tokens=16,
            text=32,
        ),
        steps=16,
        seconds=0.54,
        vae="AutoencoderKLLTXVideo",
        tiny_vae={
            **{"block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4},
            **{"layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5},
        },
    ),
}


def make_subject(name: str, scale: str, device: torch.device, dtype: torch.dtype) -> Subject:
    """The pipeline `name`, at `scale` full or tiny, with the same random weights every time."""
    entry, size = ENTRIES[name], size_of(name, scale)
    torch.manual_seed(0)
    transformer = make_transformer(entry, size, device)
    _cast(transformer.eval().requires_grad_(False), dtype)
    pipe = entry.make(transformer)
    pipe.set_progress_bar_config(disable=True)
    shape = (1, size.tokens, size.text)
    arguments: dict[str, Any] = {
        "height": size.height,
        "width": size.width,
        "num_frames": size.frames,
        "guidance_scale": entry.guidance,
        "prompt_embeds": torch.randn(shape, device=device, dtype=dtype),
        "negative_prompt_embeds": torch.randn(shape, device=device, dtype=dtype),
        "output_type": "latent",
    }
    if name == "ltx":
        mask = torch.ones(shape[:2], device=device, dtype=torch.long)
        arguments |= {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask}
    if name == "cogvideox":
        arguments["max_sequence_length"] = size.tokens
    return Subject(name, pipe, arguments, device, scale)


def size_of(name: str, scale: str) -> Size:
    """At `scale` full or tiny."""
    return ENTRIES[name].full if scale == "full" else ENTRIES[name].tiny


def make_vae(name: str, scale: str, device: torch.device) -> Any:
    """The model's VAE with random weights, on a GPU in the precision that it is run in."""
    import diffusers

    entry, spec = ENTRIES[name], MODELS[ENTRIES[name].key]
    dtype = spec.dtypes.get("vae", spec.dtype) if device.type == "cuda" else "float32"
    with device:
        vae = getattr(diffusers, entry.vae)(**(entry.tiny_vae if scale == "tiny" else {}))
    _cast(vae.eval().requires_grad_(False), getattr(torch, dtype))
    return vae


def work_of(subject: Subject, steps: int, lanes: int = 0, frames: int = 0) -> Work:
    """What the plan of the model's memory says of the subject's size."""
    size, transformer = subject.size, subject.transformer
    config = transformer.config
    inner = config.num_attention_heads * config.attention_head_dim
    spec = replace(
        MODELS[ENTRIES[subject.name].key],
        **{"height": size.height, "width": size.width, "frames": frames or size.frames, "steps": steps},
        **{"inner": inner, "feed_forward": getattr(config, "ffn_dim", 4 * inner)},
    )
    return Work.of(spec, lanes=lanes)


def make_transformer(entry: Entry, size: Size, device: torch.device) -> Any:
    """The network alone, its weights drawn on `device`."""
    import diffusers

    with device:
        return getattr(diffusers, entry.network)(**size.config)


def _cast(network: Any, dtype: torch.dtype) -> None:
    """To `dtype`, but for what loading a checkpoint leaves in float32 as well."""
    kept = network._keep_in_fp32_modules or []
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_floating_point() and not set(kept) & set(name.split(".")):
            tensor.data = tensor.data.to(dtype)
