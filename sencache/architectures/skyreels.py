"""SkyReels-V2: Wan's network under a class of its own."""

from __future__ import annotations

from dataclasses import replace

from sencache.architectures.base import named_class
from sencache.architectures.wan import ARCHITECTURE as WAN

ARCHITECTURE = replace(
    WAN,
    name="skyreels",
    transformers=("SkyReelsV2Transformer3DModel",),
    pipelines={"SkyReelsV2Pipeline": False},
    choose=named_class,
    defaults={
        **WAN.defaults,
        "summary": "a SkyReels-V2 checkpoint of your own",
        "height": 544,
        "width": 960,
        "frames": 97,
        "fps": 24,
        "guidance_scale": 6.0,
    },
)
