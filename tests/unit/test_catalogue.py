"""Facts of the list that can be checked without weights: counts on the real classes, and the guide."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from guide_tables import memory_table
from torch.utils.flop_counter import FlopCounterMode

import sencache
from sencache.models import catalogue, flops
from sencache.models.catalogue import MODELS
from sencache.models.checkpoint import read_config
from sencache.models.listing import describe_model
from sencache.models.spec import ModelSpec

ROOT = Path(sencache.__file__).parent.parent
GUIDE = ROOT / "docs" / "real-models.md"

XXL = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
IMAGE = {"in_channels": 36, "out_channels": 16}
EYES = {"image_dim": 1280, "added_kv_proj_dim": 5120}
FIVE_B = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}
# Published configurations, where they differ from the defaults of the classes.
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "WAN_14B": ("WanTransformer3DModel", {}),
    "WAN_14B_IMAGE": ("WanTransformer3DModel", {**IMAGE, **EYES}),
    "WAN22_14B_IMAGE": ("WanTransformer3DModel", IMAGE),
    "WAN_1_3B": ("WanTransformer3DModel", {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}),
    "WAN22_5B": (
        "WanTransformer3DModel",
        {
            **{"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30},
            **{"in_channels": 48, "out_channels": 48},
        },
    ),
    "WAN_VAE": ("AutoencoderKLWan", {}),
    "WAN22_VAE": (
        "AutoencoderKLWan",
        {
            **{"base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True, "patch_size": 2},
            **{"in_channels": 12, "out_channels": 12, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48},
        },
    ),
    "COGVIDEOX_2B": ("CogVideoXTransformer3DModel", {}),
    "COGVIDEOX_5B": ("CogVideoXTransformer3DModel", FIVE_B),
    "COGVIDEOX_5B_IMAGE": (
        "CogVideoXTransformer3DModel",
        {**FIVE_B, "in_channels": 32, "out_channels": 16, "use_learned_positional_embeddings": True},
    ),
    "COGVIDEOX15_5B": ("CogVideoXTransformer3DModel", {**FIVE_B, "patch_size_t": 2, "patch_bias": False}),
    "COGVIDEOX_VAE": ("AutoencoderKLCogVideoX", {}),
    "LTX_2B": ("LTXVideoTransformer3DModel", {}),
    "LTX_13B": (
        "LTXVideoTransformer3DModel",
        {"attention_head_dim": 128, "cross_attention_dim": 4096, "num_layers": 48},
    ),
    "LTX_VAE": ("AutoencoderKLLTXVideo", {}),
    "LTX091_VAE": (
        "AutoencoderKLLTXVideo",
        {
            **{"decoder_block_out_channels": (256, 512, 1024), "decoder_layers_per_block": (5, 6, 7, 8)},
            **{"decoder_spatio_temporal_scaling": (True,) * 3, "upsample_residual": (True,) * 3},
            **{"decoder_inject_noise": (False, True, True, True), "upsample_factor": (2, 2, 2)},
            "timestep_conditioning": True,
        },
    ),
    "LTX097_VAE": (
        "AutoencoderKLLTXVideo",
        {
            **{"block_out_channels": (128, 256, 512, 1024, 2048), "layers_per_block": (4, 6, 6, 2, 2)},
            **{"down_block_types": ("LTXVideo095DownBlock3D",) * 4, "spatio_temporal_scaling": (True,) * 4},
            "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
            **{"decoder_block_out_channels": (256, 512, 1024), "decoder_layers_per_block": (5, 5, 5, 5)},
            **{"decoder_spatio_temporal_scaling": (True,) * 3, "upsample_residual": (True,) * 3},
            **{"decoder_inject_noise": (False,) * 4, "upsample_factor": (2, 2, 2)},
            "timestep_conditioning": True,
        },
    ),
    "UMT5_XXL": ("UMT5", {**XXL, "vocab_size": 256384, "feed_forward_proj": "gated-gelu"}),
    "T5_XXL": ("T5", {**XXL, "vocab_size": 32128, "feed_forward_proj": "gated-gelu"}),
    "CLIP_VIT_H": (
        "CLIPVision",
        {
            **{"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32},
            **{"num_attention_heads": 16, "image_size": 224, "patch_size": 14},
        },
    ),
}


def build(kind: str, config: dict[str, Any]) -> torch.nn.Module:
    import diffusers
    import transformers

    with torch.device("meta"):
        if hasattr(diffusers, kind):
            return getattr(diffusers, kind)(**config)
        model = kind + ("Model" if kind == "CLIPVision" else "EncoderModel")
        return getattr(transformers, model)(getattr(transformers, f"{kind}Config")(**config))


@cache
def real(name: str) -> Any:
    """One of the configurations, built once."""
    return build(*CONFIGURATIONS[name])


COUNTS = [name for name, value in vars(catalogue).items() if isinstance(value, int) and name.isupper()]


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_those_of_the_real_classes(name: str) -> None:
    """Every parameter once, tied ones too; nothing is allocated."""
    counted = {id(p): p.numel() for p in real(name).parameters()}
    assert getattr(catalogue, name) == sum(counted.values())


@pytest.mark.parametrize("key", [key for key, spec in MODELS.items() if spec.parameters])
def test_widths_are_those_of_the_real_transformers(key: str) -> None:
    spec = MODELS[key]
    name = next(name for name in CONFIGURATIONS if getattr(catalogue, name) == spec.parameters["transformer"])
    config = real(name).config
    assert spec.inner == config.num_attention_heads * config.attention_head_dim
    assert spec.feed_forward == getattr(config, "ffn_dim", 4 * spec.inner)
    assert spec.layers == config.num_layers


def count_flops(call: Callable[[], Any]) -> int:
    """FLOPs of all operations that `call` makes; on the meta device nothing is computed."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def bundled_part(spec: ModelSpec, part: str) -> torch.nn.Module:
    config = read_config(Path(spec.source) / part / "config.json")
    return build(config["_class_name"], {k: v for k, v in config.items() if not k.startswith("_")})


def one_step(spec: ModelSpec, transformer: Any) -> Callable[[], Any]:
    """The call, or on Wan one of the two, that a guided step makes, with the published shapes of latents."""
    config, text = transformer.config, spec.max_sequence_length
    latent_frames = (spec.frames - 1) // spec.temporal_compression + 1
    batch = 1 if spec.architecture == "wan" else 2
    with torch.device("meta"):
        common = {"timestep": torch.empty(batch, dtype=torch.long)}
        if spec.architecture == "ltx":
            cell = 16 if spec.bundled else 32
            grid = {"num_frames": latent_frames, "height": spec.height // cell, "width": spec.width // cell}
            latent = torch.empty(batch, math.prod(grid.values()), config.in_channels)
            prompt = torch.empty(batch, text, config.caption_channels)
            common |= {"encoder_attention_mask": torch.empty(batch, text), **grid}
        elif spec.architecture == "cogvideox":
            folded = config.patch_size_t or 1
            latent_frames = -(-latent_frames // folded) * folded
            sides = spec.height // 8, spec.width // 8
            latent = torch.empty(batch, latent_frames, config.in_channels, *sides)
            prompt = torch.empty(batch, text, config.text_embed_dim)
            count = latent_frames // folded * sides[0] * sides[1] // 4
            rotary = torch.empty(count, config.attention_head_dim)
            common["image_rotary_emb"] = (rotary, rotary) if config.use_rotary_positional_embeddings else None
        else:
            cell = 16 if config.in_channels == 48 else 8
            sides = spec.height // cell, spec.width // cell
            latent = torch.empty(batch, config.in_channels, latent_frames, *sides)
            prompt = torch.empty(batch, text, config.text_dim)
            if config.image_dim:
                common["encoder_hidden_states_image"] = torch.empty(batch, 257, config.image_dim)
    return lambda: transformer(hidden_states=latent, encoder_hidden_states=prompt, **common)


TRANSFORMERS = ("wan-14b-i2v-480p", "wan2.2-ti2v-5b", "cogvideox1.5-5b", "ltx", "tiny-cogvideox", "tiny-ltx")


@pytest.mark.parametrize("key", TRANSFORMERS)
def test_flops_of_a_step_are_those_of_the_real_transformer(key: str) -> None:
    """Within one in a hundred, at the model's own size."""
    spec = MODELS[key]
    if spec.bundled:
        transformer = bundled_part(spec, "transformer")
    else:
        names = (n for n in CONFIGURATIONS if getattr(catalogue, n) == spec.parameters["transformer"])
        transformer = real(next(names))
    calls = 2 if spec.architecture == "wan" else 1
    assert flops.guided_step(spec) == pytest.approx(
        calls * count_flops(one_step(spec, transformer)), rel=0.01
    )
    unguided = replace(spec, guidance_scale=1.0)
    assert flops.guided_step(unguided) == flops.evaluation(spec) == flops.guided_step(spec) / 2


VAES = {"wan-1.3b": "WAN_VAE", "wan2.2-ti2v-5b": "WAN22_VAE", "cogvideox-5b": "COGVIDEOX_VAE"}
VAES |= {"ltx": "LTX_VAE", "ltx-0.9.1": "LTX091_VAE"}


@pytest.mark.parametrize("key", [*VAES, *(key for key, spec in MODELS.items() if spec.bundled)])
def test_flops_of_decoding_are_those_of_the_real_vae(key: str) -> None:
    """Within one in a hundred at the model's own size; Wan's works on a few frames at a time, so of its video
    33 will do.
    """
    spec = MODELS[key]
    spec = replace(spec, frames=min(spec.frames, 33)) if key in ("wan-1.3b", "wan2.2-ti2v-5b") else spec
    vae: Any = real(VAES[key]) if key in VAES else bundled_part(spec, "vae")
    channels = getattr(vae.config, "z_dim", None) or vae.config.latent_channels
    cell = {"tiny-ltx": 16, "wan2.2-ti2v-5b": 16, "ltx": 32, "ltx-0.9.1": 32}.get(key, 8)
    frames = (spec.frames - 1) // spec.temporal_compression + 1
    with torch.device("meta"):
        latent = torch.empty(1, channels, frames, spec.height // cell, spec.width // cell)
        aware = (torch.empty(1),) if spec.call else ()
    assert flops.decoding(spec) == pytest.approx(count_flops(lambda: vae.decode(latent, *aware)), rel=0.01)


def test_the_guides_table_is_that_of_the_list() -> None:
    lines = GUIDE.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| model | repository |"))
    assert lines[start : start + len(memory_table(MODELS.values()))] == memory_table(MODELS.values()), (
        "paste the output of: python docs/guide_tables.py"
    )


def test_the_list_is_printed_without_any_framework() -> None:
    script = "import sys; from sencache.cli.commands import app\n"
    script += "app(['models', '--json'], standalone_mode=False); "
    script += "sys.exit(not {'torch', 'diffusers', 'transformers'}.isdisjoint(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_list_says_what_is_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    listed = {key: describe_model(spec) for key, spec in MODELS.items()}
    assert listed["tiny-wan"]["here"] and listed["tiny-wan"]["source"] == "bundled"
    assert not listed["wan-14b"]["here"]
    least, most = (listed["wan-14b"]["bytes"][name] for name in ("gpu_least", "gpu_all_parts"))
    assert least < most and listed["wan-14b"]["bytes"]["measured"] is False
