"""MagCache against the one that diffusers ships: other hooks and bookkeeping, the same latents bit for bit.

diffusers holds its ratios as float32, so ours are rounded alike. It reuses at `error <= threshold` and we
below the threshold, as the paper does; random ratios never tie.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
from diffusers.hooks import MagCacheConfig
from diffusers.hooks.mag_cache import nearest_interp
from pipelines import STEPS, Tiny

from sencache.engine.attach import attach
from sencache.policies import MagCache

SETTINGS = (
    {"threshold": 0.1, "max_reuses": 2, "retention": 0.2},
    {"threshold": 0.3, "max_reuses": 3, "retention": 0.1},
    {"threshold": 0.5, "max_reuses": 6, "retention": 0.0},
    {"threshold": 0.08, "max_reuses": 4, "retention": 0.5},
)


def float32(value: float) -> float:
    return float(np.float32(value))


def random_ratios(seed: int, count: int = STEPS) -> tuple[float, ...]:
    draw = random.Random(seed)
    return tuple(float32(draw.uniform(0.85, 1.1)) for _ in range(count))


def ours(
    tiny: Tiny, ratios: tuple[float, ...], settings: dict[str, Any], **changes: Any
) -> tuple[torch.Tensor, str]:
    policy = MagCache(pipelines.profile(tiny.name, len(ratios), ratios), **settings)
    with attach(tiny.pipe, policy) as trace:
        latents = tiny(**changes)
    return latents, "".join("C" if record.decision == "compute" else "R" for record in trace)


def theirs(
    tiny: Tiny, ratios: tuple[float, ...], settings: dict[str, Any], steps: int = STEPS, **changes: Any
) -> tuple[torch.Tensor, int]:
    calls = []
    block: Any = tiny.blocks[1]
    handle = block.attn1.register_forward_hook(lambda *_: calls.append(1))
    config = MagCacheConfig(
        threshold=settings["threshold"],
        max_skip_steps=settings["max_reuses"],
        retention_ratio=settings["retention"],
        num_inference_steps=steps,
        mag_ratios=torch.tensor(ratios),
    )
    tiny.pipe.transformer.enable_cache(config)
    latents = tiny(steps=steps, **changes)
    tiny.pipe.transformer.disable_cache()
    handle.remove()
    return latents, len(calls)


def test_latents_and_calls_are_those_of_diffusers(tiny: Tiny) -> None:
    """Also after one another on one pipeline: neither leaves anything behind for the other."""
    patterns = set()
    for seed, settings in enumerate(SETTINGS):
        ratios = random_ratios(seed)
        latents, pattern = ours(tiny, ratios, settings)
        peer, calls = theirs(tiny, ratios, settings)
        assert torch.equal(latents, peer), (settings, pattern)
        assert pattern.count("C") * tiny.branches == calls
        patterns.add(pattern)
    assert len(patterns) > 1 and all("R" in pattern for pattern in patterns)
    assert torch.equal(tiny(), pipelines.ALL[tiny.name]()())


@pytest.mark.parametrize("changes", [{"guidance_scale": 1.0}, {"steps": 7}, {"steps": 20}], ids=str)
def test_without_guidance_and_with_another_number_of_steps(tiny: Tiny, changes: dict[str, Any]) -> None:
    """Both resample the ratios to the nearest."""
    ratios, settings = random_ratios(9), SETTINGS[1]
    latents, pattern = ours(tiny, ratios, settings, **changes)
    assert len(pattern) == changes.get("steps", STEPS) and "R" in pattern
    assert torch.equal(latents, theirs(tiny, ratios, settings, **changes)[0])


def test_resampling_agrees_except_where_a_ratio_lies_halfway() -> None:
    """diffusers rounds a float32 product, we a double: they may part where a ratio lies halfway between two.

    And for a single step diffusers takes the last ratio, we the first; neither is ever looked at.
    """
    for length in range(1, 41):
        positions = tuple(float(k + 1) for k in range(length))
        profile = pipelines.profile("wan", length, positions)
        for steps in range(2, 41):
            mine = profile.magnitude_ratios(steps)
            peer = nearest_interp(torch.tensor(positions), steps).tolist()
            for k, (a, b) in enumerate(zip(mine, peer, strict=True)):
                halves, rest = divmod(2 * k * (length - 1), steps - 1)
                halfway = rest == 0 and halves % 2 == 1
                assert a == b or (halfway and abs(a - b) == 1), (length, steps, k)
