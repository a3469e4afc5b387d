"""Facts of the list that can be checked without weights: counts on the real classes, and the guide."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import sencache
from sencache.models import families
from sencache.models.catalogue import MODELS
from sencache.models.listing import describe_model, memory_table

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
            "num_attention_heads": 24,
            "ffn_dim": 14336,
            "num_layers": 30,
            "in_channels": 48,
            "out_channels": 48,
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


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_counts_are_those_of_the_real_classes(name: str) -> None:
    """Every parameter once, tied ones too; nothing is allocated."""
    counted = {id(p): p.numel() for p in build(*CONFIGURATIONS[name]).parameters()}
    assert getattr(families, name) == sum(counted.values())


def test_every_count_is_counted() -> None:
    named = {name for name, value in vars(families).items() if isinstance(value, int) and name.isupper()}
    assert named == set(CONFIGURATIONS)


@pytest.mark.parametrize("key", [key for key, spec in MODELS.items() if spec.parameters])
def test_widths_are_those_of_the_real_transformers(key: str) -> None:
    spec = MODELS[key]
    name = next(name for name in CONFIGURATIONS if getattr(families, name) == spec.parameters["transformer"])
    config: Any = build(*CONFIGURATIONS[name]).config
    assert spec.inner == config.num_attention_heads * config.attention_head_dim
    assert spec.feed_forward == getattr(config, "ffn_dim", 4 * spec.inner)


def test_the_guides_table_is_that_of_the_list() -> None:
    lines = GUIDE.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| model | repository |"))
    assert lines[start : start + len(memory_table(MODELS.values()))] == memory_table(MODELS.values()), (
        "paste the output of: python -c 'from sencache.models.catalogue import MODELS; "
        'from sencache.models.listing import memory_table; print(*memory_table(MODELS.values()), sep="\\n")\''
    )


def test_the_list_is_printed_without_any_framework() -> None:
    script = "import sys; from sencache.cli import app; app(['models', '--json'], standalone_mode=False); "
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
