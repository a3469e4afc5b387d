"""What the checkpoints of one family share, and how many parameters their parts have."""

from __future__ import annotations

from functools import partial
from typing import Any

from sencache.architectures import find_architecture, wan
from sencache.architectures.ltx import TIMESTEP_AWARE
from sencache.models.spec import ModelSpec

# Counted on the classes of diffusers 0.42.1 and transformers with the published configurations; a test counts
# them again.
UMT5_XXL, T5_XXL, CLIP_VIT_H = 5_680_910_336, 4_762_310_656, 630_766_080
WAN_VAE, WAN22_VAE, COGVIDEOX_VAE = 126_892_531, 704_688_668, 215_583_907
LTX_VAE, LTX091_VAE, LTX097_VAE = 419_193_649, 934_991_538, 1_246_913_522
WAN_14B, WAN_14B_IMAGE, WAN22_14B_IMAGE = 14_288_491_584, 16_394_878_784, 14_288_901_184
WAN_1_3B, WAN22_5B = 1_418_996_800, 4_999_787_712
COGVIDEOX_2B, COGVIDEOX_5B, COGVIDEOX_5B_IMAGE = 1_693_783_872, 5_570_283_072, 5_570_479_680
COGVIDEOX15_5B, LTX_2B, LTX_13B = 5_570_676_352, 1_923_385_472, 13_042_569_344


def wan_parts(transformer: int, *, vae: int = WAN_VAE, **more: int) -> dict[str, int]:
    """Parameter counts of a Wan checkpoint."""
    return {"text_encoder": UMT5_XXL, "transformer": transformer, "vae": vae, **more}


def t5_parts(transformer: int, vae: int) -> dict[str, int]:
    """Parameter counts of a CogVideoX or LTX-Video checkpoint."""
    return {"text_encoder": T5_XXL, "transformer": transformer, "vae": vae}


# What a model trained on moving shapes is calibrated on.
TINY_PROMPTS = (
    "a red circle moving right, on a black background",
    "a small blue square moving up, on a gray background",
    "a green triangle bouncing up and down, on a checkered background",
    "a large yellow square spinning, on a black background",
    "a purple circle growing, on a white background",
    "an orange square moving side to side, and a cyan circle standing still, on a striped background",
    "a pink triangle moving in a circle, on a gray background",
    "a small cyan triangle moving left, and a red square shrinking, on a black background",
)
# Their VAEs' FLOPs are counted as those of the architectures are.
TINY_MODEL: Any = partial(
    ModelSpec,
    licence="apache-2.0",
    height=64,
    width=64,
    frames=17,
    fps=8,
    steps=50,
    guidance_scale=4.0,
    temporal_factor=4,
    min_side=32,
    max_side=256,
    max_frames=81,
    max_sequence_length=32,
    # Their differences between methods are smaller than bfloat16's rounding, on any device.
    dtype="float32",
    calibration_prompts=TINY_PROMPTS,
    inner=192,
    feed_forward=768,
    layers=6,
    token_values=64,
)


def _family(name: str) -> Any:
    return partial(ModelSpec, architecture=name, **find_architecture(name).defaults)


WAN_MODEL, COGVIDEOX_MODEL, LTX_MODEL = _family("wan"), _family("cogvideox"), _family("ltx")
WAN_IMAGE_MODEL: Any = partial(
    WAN_MODEL,
    pipeline="WanImageToVideoPipeline",
    steps=40,
    parameters=wan_parts(WAN_14B_IMAGE, image_encoder=CLIP_VIT_H),
)
WAN22_5B_MODEL: Any = partial(
    WAN_MODEL,
    source="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
    height=704,
    width=1280,
    frames=121,
    fps=24,
    size_multiple=32,
    parameters=wan_parts(WAN22_5B, vae=WAN22_VAE),
    inner=3072,
    feed_forward=14336,
    layers=30,
    token_values=192,
    vae_values=64,
    vae_flops=wan.VAE22_FLOPS,
)
LTX_13B_MODEL: Any = partial(
    LTX_MODEL,
    pipeline="LTXConditionPipeline",
    layers=48,
    parameters=t5_parts(LTX_13B, LTX097_VAE),
    inner=4096,
    feed_forward=16384,
    call=TIMESTEP_AWARE,
)
