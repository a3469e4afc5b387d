"""What a checkpoint's own configuration files say of it: the entry of the list for one that is not on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from math import lcm
from pathlib import Path
from typing import Any

from sencache.errors import SencacheError
from sencache.models.families import COGVIDEOX_MODEL, LTX_MODEL, TIMESTEP_AWARE, VAE_FLOPS, WAN_MODEL
from sencache.models.spec import PIPELINES, ModelSpec

Config = Mapping[str, Any]

INDEX = "model_index.json"
UNKNOWN = "see the repository"


def describe_folder(folder: Path, source: Path | str, from_image: bool = False) -> ModelSpec:
    """The entry for the checkpoint in `folder`, which is known to the user as `source`.

    Sizes, rules and widths come from the configuration of its VAE and transformer; where it does not say how
    it is meant to be run, from the family it belongs to. `from_image`: a still is to be used, which decides
    for checkpoints that take one or none. Raises SencacheError for pipelines that are not supported.
    """
    index = read_config(folder / INDEX)
    name = str(index.get("_class_name"))
    if name == "WanPipeline" and index.get("expand_timesteps") and from_image:
        name = "WanImageToVideoPipeline"
    if name not in PIPELINES:
        raise SencacheError(
            f"{source} is a {name}, which is not supported; use one of {', '.join(PIPELINES)}"
        )
    transformer = read_config(folder / "transformer" / "config.json")
    vae = read_config(folder / "vae" / "config.json")
    family = FAMILIES[PIPELINES[name].architecture]
    # Never the whole path: reports carry the key.
    key = source if isinstance(source, str) else source.name
    spec = family(key, source, name, transformer, vae)
    parts = dict.fromkeys(model_parts(index), 0)
    return replace(spec, licence=UNKNOWN, parameters=parts)


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file; raises SencacheError when it is missing or not JSON."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SencacheError(
            f"{path.parent} is not a checkpoint in the layout of diffusers ({path.name}: {error.strerror}); "
            f"give a folder with a {INDEX}"
        ) from None
    except ValueError as error:
        raise SencacheError(f"{path} is damaged ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise SencacheError(f"{path} is damaged (no settings in it); fetch it again")
    return content


def model_parts(index: Config) -> list[str]:
    """The parts that have weights."""
    known = ("text_encoder", "transformer", "transformer_2", "vae", "image_encoder")
    return [part for part in known if isinstance(index.get(part), list) and index[part][0]]


def _wan(key: str, source: Path | str, pipeline: str, transformer: Config, vae: Config) -> ModelSpec:
    heads, size = transformer.get("num_attention_heads", 40), transformer.get("attention_head_dim", 128)
    patch = transformer.get("patch_size", (1, 2, 2))
    spatial, temporal = vae.get("scale_factor_spatial", 8), vae.get("scale_factor_temporal", 4)
    folded = vae.get("patch_size") or 1
    width = vae.get("decoder_base_dim") or vae.get("base_dim", 96)
    spec: ModelSpec = WAN_MODEL(
        key=key,
        source=source,
        pipeline=pipeline,
        summary="a Wan checkpoint of your own",
        height=480,
        width=832,
        # What the authors' scripts set is not known here; the checkpoint's own shift stays.
        shift=None,
        size_multiple=lcm(16, spatial * patch[1]),
        temporal_factor=temporal,
        temporal_compression=temporal,
        min_side=lcm(16, spatial * patch[1]),
        inner=heads * size,
        feed_forward=transformer.get("ffn_dim", 13824),
        layers=transformer.get("num_layers", 40),
        token_side=spatial * patch[1],
        vae_values=width // folded**2,
        vae_flops=_decoding("wan", width / 96) if folded == 1 else _decoding("wan2.2", width / 256),
    )
    return spec


def _cogvideox(key: str, source: Path | str, pipeline: str, transformer: Config, vae: Config) -> ModelSpec:
    inner = transformer.get("num_attention_heads", 30) * transformer.get("attention_head_dim", 64)
    channels = vae.get("block_out_channels", (128, 256, 256, 512))
    spatial = 2 ** (len(channels) - 1)
    multiple = spatial * transformer.get("patch_size", 2)
    height, width = (transformer.get(name, 60) * spatial for name in ("sample_height", "sample_width"))
    frames, compression = transformer.get("sample_frames", 49), vae.get("temporal_compression_ratio", 4)
    spec: ModelSpec = COGVIDEOX_MODEL(
        key=key,
        source=source,
        pipeline=pipeline,
        summary="a CogVideoX checkpoint of your own",
        height=height // multiple * multiple,
        width=width // multiple * multiple,
        frames=frames,
        size_multiple=multiple,
        temporal_factor=2 * compression,
        temporal_compression=compression,
        min_side=multiple,
        max_frames=max(frames, 161 if transformer.get("patch_size_t") else 49),
        max_sequence_length=transformer.get("max_text_seq_length", 226),
        fixed_size=bool(transformer.get("use_learned_positional_embeddings")),
        dtype="bfloat16" if transformer.get("use_rotary_positional_embeddings") else "float16",
        inner=inner,
        feed_forward=4 * inner,
        layers=transformer.get("num_layers", 30),
        vae_values=channels[0],
        vae_flops=_decoding("cogvideox", channels[0] / 128),
        temporal_patch=transformer.get("patch_size_t") or 1,
    )
    return spec


def _ltx(key: str, source: Path | str, pipeline: str, transformer: Config, vae: Config) -> ModelSpec:
    inner = transformer.get("num_attention_heads", 32) * transformer.get("attention_head_dim", 64)
    halvings = 2 ** sum(vae.get("spatio_temporal_scaling", (True, True, True, False)))
    spatial = vae.get("spatial_compression_ratio") or vae.get("patch_size", 4) * halvings
    temporal = vae.get("temporal_compression_ratio") or vae.get("patch_size_t", 1) * halvings
    side = spatial * transformer.get("patch_size", 1)
    multiple, aware = lcm(32, side), bool(vae.get("timestep_conditioning"))
    width = (vae.get("decoder_block_out_channels") or vae.get("block_out_channels", (128,)))[0]
    spec: ModelSpec = LTX_MODEL(
        key=key,
        source=source,
        pipeline=pipeline,
        summary="an LTX-Video checkpoint of your own",
        size_multiple=multiple,
        temporal_factor=temporal,
        temporal_compression=temporal,
        min_side=multiple,
        inner=inner,
        feed_forward=4 * inner,
        layers=transformer.get("num_layers", 28),
        token_side=side,
        vae_values=vae.get("block_out_channels", (128,))[0] // vae.get("patch_size", 4) ** 2,
        vae_flops=_decoding("ltx-0.9.1", width / 256) if aware else _decoding("ltx", width / 128),
        call=TIMESTEP_AWARE if aware else {},
    )
    return spec


def _decoding(kind: str, width: float) -> int:
    """FLOPs per pixel and frame of a VAE that is `width` times as wide as the published one of its kind."""
    return round(VAE_FLOPS[kind] * width**2)


FAMILIES = {"wan": _wan, "cogvideox": _cogvideox, "ltx": _ltx}
