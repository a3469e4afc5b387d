"""The models offered by a short name: where the weights are, what they were made for, what they cost.

Loads no framework, so that a list of models is quick. A new checkpoint of a known architecture is one entry;
`describe_folder` makes the same entry for any folder or repository in the layout of diffusers.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from sencache.architectures import find_architecture, ltx
from sencache.architectures.base import Config
from sencache.models.spec import ASSETS, ModelSpec

# Counted on the classes of diffusers 0.42.1 and transformers with the published configurations; a test counts
# them again.
UMT5_XXL, T5_XXL, CLIP_VIT_H = 5_680_910_336, 4_762_310_656, 630_766_080
WAN_VAE, WAN22_VAE, COGVIDEOX_VAE = 126_892_531, 704_688_668, 215_583_907
LTX_VAE, LTX091_VAE, LTX097_VAE = 419_193_649, 934_991_538, 1_246_913_522
WAN_14B, WAN_14B_IMAGE, WAN22_14B_IMAGE = 14_288_491_584, 16_394_878_784, 14_288_901_184
WAN_1_3B, WAN22_5B = 1_418_996_800, 4_999_787_712
COGVIDEOX_2B, COGVIDEOX_5B, COGVIDEOX_5B_IMAGE = 1_693_783_872, 5_570_283_072, 5_570_479_680
COGVIDEOX15_5B, LTX_2B, LTX_13B = 5_570_676_352, 1_923_385_472, 13_042_569_344


def parts(text_encoder: int, transformer: int, vae: int, **more: int) -> dict[str, int]:
    """Parameter counts by part."""
    return {"text_encoder": text_encoder, "transformer": transformer, "vae": vae, **more}


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


def _tiny(architecture: str, family: str, sampler: str, **facts: Any) -> ModelSpec:
    """A bundled model. Its VAE's FLOPs are counted as those of the architectures are."""
    key = f"tiny-{architecture}"
    video = {"height": 64, "width": 64, "frames": 17, "fps": 8, "steps": 50, "guidance_scale": 4.0}
    limits = {"temporal_factor": 4, "min_side": 32, "max_side": 256, "max_frames": 81}
    network = {"max_sequence_length": 32, "inner": 192, "feed_forward": 768, "layers": 6, "token_values": 64}
    return ModelSpec(
        key=key,
        summary=f"bundled: moving shapes, 64x64, 17 frames; {family} classes, seconds on a CPU",
        source=ASSETS / key,
        architecture=architecture,
        pipeline=find_architecture(architecture).defaults["pipeline"],
        licence="apache-2.0",
        # Differences between methods are smaller than bfloat16's rounding, on any device.
        dtype="float32",
        calibration_prompts=TINY_PROMPTS,
        profile=f"{key}.{sampler}",
        **{**video, **limits, **network, **facts},
    )


def _family(name: str, transformer: Config | None = None, vae: Config | None = None) -> Any:
    """Entries whose parts have these configurations; only where they differ from the classes' own."""
    architecture = find_architecture(name)
    assert architecture.describe is not None
    facts = {**architecture.describe(transformer or {}, vae or {}), **architecture.defaults}
    return partial(ModelSpec, architecture=name, **facts)


HD = {"height": 720, "width": 1280}
FIVE_B = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}

WAN_MODEL, LTX_MODEL = _family("wan"), _family("ltx")
COGVIDEOX_MODEL, COGVIDEOX_5B_MODEL = _family("cogvideox"), _family("cogvideox", FIVE_B)
WAN_IMAGE_MODEL: Any = partial(
    WAN_MODEL,
    pipeline="WanImageToVideoPipeline",
    steps=40,
    parameters=parts(UMT5_XXL, WAN_14B_IMAGE, WAN_VAE, image_encoder=CLIP_VIT_H),
)
WAN22_5B_MODEL: Any = partial(
    _family(
        "wan",
        {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30},
        {"z_dim": 48, "scale_factor_spatial": 16, "patch_size": 2, "decoder_base_dim": 256},
    ),
    source="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
    height=704,
    width=1280,
    frames=121,
    fps=24,
    parameters=parts(UMT5_XXL, WAN22_5B, WAN22_VAE),
)
LTX_13B_MODEL: Any = partial(
    _family("ltx", {"attention_head_dim": 128, "num_layers": 48}),
    pipeline="LTXConditionPipeline",
    parameters=parts(T5_XXL, LTX_13B, LTX097_VAE),
    call=ltx.TIMESTEP_AWARE,
)

TINY_LTX = {"size_multiple": 32, "token_side": 16, "token_values": 128}
MODELS: dict[str, ModelSpec] = {
    spec.key: spec
    for spec in (
        _tiny("wan", "Wan 2.1", "unipc-50", size_multiple=16, vae_flops=77_400),
        _tiny("cogvideox", "CogVideoX", "ddim-50", size_multiple=16, temporal_factor=8, vae_flops=229_000),
        _tiny("ltx", "LTX-Video", "euler-50", **TINY_LTX, vae_flops=87_300),
        _family("wan", {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30})(
            key="wan-1.3b",
            summary="Wan 2.1, text to video, 480p",
            source="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
            parameters=parts(UMT5_XXL, WAN_1_3B, WAN_VAE),
            profile="wan2.1-t2v-1.3b",
        ),
        WAN_MODEL(
            key="wan-14b",
            summary="Wan 2.1, text to video, 720p",
            source="Wan-AI/Wan2.1-T2V-14B-Diffusers",
            **HD,
            parameters=parts(UMT5_XXL, WAN_14B, WAN_VAE),
            profile="wan2.1-t2v-14b",
        ),
        WAN_IMAGE_MODEL(
            key="wan-14b-i2v-480p",
            summary="Wan 2.1, image to video, 480p",
            source="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
            shift=3.0,
            profile="wan2.1-i2v-14b-480p",
        ),
        WAN_IMAGE_MODEL(
            key="wan-14b-i2v-720p",
            summary="Wan 2.1, image to video, 720p",
            source="Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
            **HD,
            profile="wan2.1-i2v-14b-720p",
        ),
        WAN22_5B_MODEL(
            key="wan2.2-ti2v-5b",
            summary="Wan 2.2, text to video, 704p, 24 frames a second",
            profile="wan2.2-ti2v-5b",
        ),
        WAN22_5B_MODEL(
            key="wan2.2-ti2v-5b-i2v",
            summary="Wan 2.2, the same weights from a still",
            pipeline="WanImageToVideoPipeline",
            profile="wan2.2-ti2v-5b.image",
        ),
        WAN_MODEL(
            key="wan2.2-a14b",
            summary="Wan 2.2, text to video, 720p, an expert each for high and low noise",
            source="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
            **HD,
            steps=40,
            guidance_scale=4.0,
            guidance_scale_2=3.0,
            shift=12.0,
            parameters=parts(UMT5_XXL, WAN_14B, WAN_VAE, transformer_2=WAN_14B),
            profile="wan2.2-t2v-a14b",
        ),
        WAN_MODEL(
            key="wan2.2-a14b-i2v",
            summary="Wan 2.2, image to video, 720p, two experts",
            source="Wan-AI/Wan2.2-I2V-A14B-Diffusers",
            pipeline="WanImageToVideoPipeline",
            **HD,
            steps=40,
            guidance_scale=3.5,
            guidance_scale_2=3.5,
            parameters=parts(UMT5_XXL, WAN22_14B_IMAGE, WAN_VAE, transformer_2=WAN22_14B_IMAGE),
            profile="wan2.2-i2v-a14b",
        ),
        COGVIDEOX_MODEL(
            key="cogvideox-2b",
            summary="CogVideoX, text to video, 720x480",
            source="THUDM/CogVideoX-2b",
            licence="apache-2.0",
            parameters=parts(T5_XXL, COGVIDEOX_2B, COGVIDEOX_VAE),
            profile="cogvideox-2b",
        ),
        COGVIDEOX_5B_MODEL(
            key="cogvideox-5b",
            summary="CogVideoX, text to video, 720x480",
            source="THUDM/CogVideoX-5b",
            parameters=parts(T5_XXL, COGVIDEOX_5B, COGVIDEOX_VAE),
            profile="cogvideox-5b",
        ),
        COGVIDEOX_5B_MODEL(
            key="cogvideox-5b-i2v",
            summary="CogVideoX, image to video, 720x480 only",
            source="THUDM/CogVideoX-5b-I2V",
            pipeline="CogVideoXImageToVideoPipeline",
            # Its learned positions exist for one size.
            fixed_size=True,
            parameters=parts(T5_XXL, COGVIDEOX_5B_IMAGE, COGVIDEOX_VAE),
            profile="cogvideox-5b-i2v",
        ),
        _family("cogvideox", {**FIVE_B, "patch_size_t": 2})(
            key="cogvideox1.5-5b",
            summary="CogVideoX 1.5, text to video, 1360x768, 16 frames a second",
            source="THUDM/CogVideoX1.5-5B",
            height=768,
            width=1360,
            frames=81,
            fps=16,
            parameters=parts(T5_XXL, COGVIDEOX15_5B, COGVIDEOX_VAE),
            profile="cogvideox1.5-5b",
        ),
        LTX_MODEL(
            key="ltx",
            summary="LTX-Video 2B as in the authors' own repository, text to video",
            source="Lightricks/LTX-Video",
            parameters=parts(T5_XXL, LTX_2B, LTX_VAE),
        ),
        LTX_MODEL(
            key="ltx-0.9.1",
            summary="LTX-Video 0.9.1, text to video",
            source="a-r-r-o-w/LTX-Video-0.9.1-diffusers",
            parameters=parts(T5_XXL, LTX_2B, LTX091_VAE),
            vae_flops=ltx.VAE091_FLOPS,
            call=ltx.TIMESTEP_AWARE,
            profile="ltx-video-0.9.1",
        ),
        LTX_13B_MODEL(
            key="ltx-0.9.7-13b",
            summary="LTX-Video 0.9.7 13B, text to video",
            source="Lightricks/LTX-Video-0.9.7-dev",
            steps=30,
            guidance_scale=5.0,
            call={**ltx.TIMESTEP_AWARE, "guidance_rescale": 0.7},
        ),
        LTX_13B_MODEL(
            key="ltx-0.9.8-13b-distilled",
            summary="LTX-Video 0.9.8 13B, text to video in few steps without guidance",
            source="Lightricks/LTX-Video-0.9.8-13B-distilled",
            steps=8,
            guidance_scale=1.0,
        ),
    )
}
