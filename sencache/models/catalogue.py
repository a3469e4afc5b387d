"""The models offered by a short name: where the weights are, what they were made for, what they cost.

Loads no framework, so that a list of models is quick. A new checkpoint of a known architecture is one entry;
`layout.py` makes the same entry for any folder or repository in the layout of diffusers.
"""

from __future__ import annotations

from sencache.architectures.ltx import TIMESTEP_AWARE, VAE091_FLOPS
from sencache.errors import SencacheError
from sencache.models.families import (
    COGVIDEOX15_5B,
    COGVIDEOX_2B,
    COGVIDEOX_5B,
    COGVIDEOX_5B_IMAGE,
    COGVIDEOX_MODEL,
    COGVIDEOX_VAE,
    LTX091_VAE,
    LTX_2B,
    LTX_13B_MODEL,
    LTX_MODEL,
    LTX_VAE,
    TINY_MODEL,
    WAN22_5B_MODEL,
    WAN22_14B_IMAGE,
    WAN_1_3B,
    WAN_14B,
    WAN_IMAGE_MODEL,
    WAN_MODEL,
    t5_parts,
    wan_parts,
)
from sencache.models.spec import ASSETS, ModelSpec

TINY = "bundled: moving shapes, 64x64, 17 frames; {} classes, seconds on a CPU"

MODELS: dict[str, ModelSpec] = {
    spec.key: spec
    for spec in (
        TINY_MODEL(
            key="tiny-wan",
            summary=TINY.format("Wan 2.1"),
            source=ASSETS / "tiny-wan",
            pipeline="WanPipeline",
            architecture="wan",
            size_multiple=16,
            vae_flops=77_400,
            profile="tiny-wan.unipc-50",
        ),
        TINY_MODEL(
            key="tiny-cogvideox",
            summary=TINY.format("CogVideoX"),
            source=ASSETS / "tiny-cogvideox",
            pipeline="CogVideoXPipeline",
            architecture="cogvideox",
            size_multiple=16,
            temporal_factor=8,
            vae_flops=229_000,
            profile="tiny-cogvideox.ddim-50",
        ),
        TINY_MODEL(
            key="tiny-ltx",
            summary=TINY.format("LTX-Video"),
            source=ASSETS / "tiny-ltx",
            pipeline="LTXPipeline",
            architecture="ltx",
            size_multiple=32,
            token_side=16,
            token_values=128,
            vae_flops=87_300,
            profile="tiny-ltx.euler-50",
        ),
        WAN_MODEL(
            key="wan-1.3b",
            summary="Wan 2.1, text to video, 480p",
            source="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
            height=480,
            width=832,
            parameters=wan_parts(WAN_1_3B),
            inner=1536,
            feed_forward=8960,
            layers=30,
            profile="wan2.1-t2v-1.3b",
        ),
        WAN_MODEL(
            key="wan-14b",
            summary="Wan 2.1, text to video, 720p",
            source="Wan-AI/Wan2.1-T2V-14B-Diffusers",
            height=720,
            width=1280,
            parameters=wan_parts(WAN_14B),
            profile="wan2.1-t2v-14b",
        ),
        WAN_IMAGE_MODEL(
            key="wan-14b-i2v-480p",
            summary="Wan 2.1, image to video, 480p",
            source="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
            height=480,
            width=832,
            shift=3.0,
            profile="wan2.1-i2v-14b-480p",
        ),
        WAN_IMAGE_MODEL(
            key="wan-14b-i2v-720p",
            summary="Wan 2.1, image to video, 720p",
            source="Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
            height=720,
            width=1280,
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
            height=720,
            width=1280,
            steps=40,
            guidance_scale=4.0,
            guidance_scale_2=3.0,
            shift=12.0,
            parameters=wan_parts(WAN_14B, transformer_2=WAN_14B),
            profile="wan2.2-t2v-a14b",
        ),
        WAN_MODEL(
            key="wan2.2-a14b-i2v",
            summary="Wan 2.2, image to video, 720p, two experts",
            source="Wan-AI/Wan2.2-I2V-A14B-Diffusers",
            pipeline="WanImageToVideoPipeline",
            height=720,
            width=1280,
            steps=40,
            guidance_scale=3.5,
            guidance_scale_2=3.5,
            parameters=wan_parts(WAN22_14B_IMAGE, transformer_2=WAN22_14B_IMAGE),
            profile="wan2.2-i2v-a14b",
        ),
        COGVIDEOX_MODEL(
            key="cogvideox-2b",
            summary="CogVideoX, text to video, 720x480",
            source="THUDM/CogVideoX-2b",
            licence="apache-2.0",
            dtype="float16",
            parameters=t5_parts(COGVIDEOX_2B, COGVIDEOX_VAE),
            inner=1920,
            feed_forward=7680,
            layers=30,
            profile="cogvideox-2b",
        ),
        COGVIDEOX_MODEL(
            key="cogvideox-5b",
            summary="CogVideoX, text to video, 720x480",
            source="THUDM/CogVideoX-5b",
            parameters=t5_parts(COGVIDEOX_5B, COGVIDEOX_VAE),
            profile="cogvideox-5b",
        ),
        COGVIDEOX_MODEL(
            key="cogvideox-5b-i2v",
            summary="CogVideoX, image to video, 720x480 only",
            source="THUDM/CogVideoX-5b-I2V",
            pipeline="CogVideoXImageToVideoPipeline",
            # Its learned positions exist for one size.
            fixed_size=True,
            parameters=t5_parts(COGVIDEOX_5B_IMAGE, COGVIDEOX_VAE),
            profile="cogvideox-5b-i2v",
        ),
        COGVIDEOX_MODEL(
            key="cogvideox1.5-5b",
            summary="CogVideoX 1.5, text to video, 1360x768, 16 frames a second",
            source="THUDM/CogVideoX1.5-5B",
            height=768,
            width=1360,
            frames=81,
            fps=16,
            max_frames=161,
            token_values=128,
            temporal_patch=2,
            parameters=t5_parts(COGVIDEOX15_5B, COGVIDEOX_VAE),
            profile="cogvideox1.5-5b",
        ),
        LTX_MODEL(
            key="ltx",
            summary="LTX-Video 2B as in the authors' own repository, text to video",
            source="Lightricks/LTX-Video",
            parameters=t5_parts(LTX_2B, LTX_VAE),
        ),
        LTX_MODEL(
            key="ltx-0.9.1",
            summary="LTX-Video 0.9.1, text to video",
            source="a-r-r-o-w/LTX-Video-0.9.1-diffusers",
            parameters=t5_parts(LTX_2B, LTX091_VAE),
            vae_flops=VAE091_FLOPS,
            call=TIMESTEP_AWARE,
            profile="ltx-video-0.9.1",
        ),
        LTX_13B_MODEL(
            key="ltx-0.9.7-13b",
            summary="LTX-Video 0.9.7 13B, text to video",
            source="Lightricks/LTX-Video-0.9.7-dev",
            steps=30,
            guidance_scale=5.0,
            call={**TIMESTEP_AWARE, "guidance_rescale": 0.7},
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


def model_spec(key: str) -> ModelSpec:
    """The entry named `key`; raises SencacheError naming the models there are."""
    if key not in MODELS:
        raise SencacheError(f"unknown model {key!r}; choose from {', '.join(MODELS)}")
    return MODELS[key]
