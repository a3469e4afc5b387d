"""FirstBlockCache, SeaCache and the Taylor forecast against those that diffusers ships."""

from __future__ import annotations

from typing import Any

import pipelines
import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig, SeaCacheConfig, TaylorSeerCacheConfig
from pipelines import Tiny

from sencache.engine.attach import attach
from sencache.errors import SencacheError
from sencache.policies import Fixed, Policy
from sencache.policies.firstblock import FirstBlockCache
from sencache.policies.seacache import SeaCache
from sencache.trace import Trace


def ours(tiny: Tiny, policy: Policy, **changes: Any) -> tuple[torch.Tensor, Trace]:
    with attach(tiny.pipe, policy) as trace:
        return tiny(**changes), trace


def theirs(tiny: Tiny, config: Any, **changes: Any) -> torch.Tensor:
    tiny.pipe.transformer.enable_cache(config)
    try:
        return tiny(**changes)
    finally:
        tiny.pipe.transformer.disable_cache()


def test_the_first_block_decides_as_in_diffusers(tiny: Tiny) -> None:
    """Bit for bit at guidance 1; with guidance diffusers decides for each branch apart."""
    nfes = set()
    for threshold in (0.05, 0.15, 0.6):
        latents, trace = ours(tiny, FirstBlockCache(threshold=threshold), guidance_scale=1.0)
        assert torch.equal(latents, theirs(tiny, FirstBlockCacheConfig(threshold), guidance_scale=1.0))
        nfes.add(trace.nfe)
    assert len(nfes) > 1 and max(nfes) > 3


def test_a_reused_step_costs_the_blocks_that_ran(tiny: Tiny) -> None:
    ran: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, i=index: ran.append(i))
        for index, block in enumerate(tiny.blocks)
    ]
    _, trace = ours(tiny, FirstBlockCache(threshold=0.15))
    for handle in handles:
        handle.remove()
    blocks = len(tiny.blocks)
    assert trace.nfe < len(trace)
    assert len(ran) / blocks / tiny.branches == pytest.approx(trace.cost)
    assert {record.cost for record in trace} == {None, 1 / blocks}
    assert trace.cost == pytest.approx(trace.nfe + (len(trace) - trace.nfe) / blocks)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_seacache_is_that_of_diffusers(scale: float) -> None:
    """Bit for bit where both hold the residual."""
    tiny = pipelines.wan()
    for threshold in (0.25, 1.0):
        latents, trace = ours(tiny, SeaCache(threshold=threshold), guidance_scale=scale)
        config = SeaCacheConfig(threshold=threshold, residual_order=0)
        assert torch.equal(latents, theirs(tiny, config, guidance_scale=scale))
        assert trace.nfe < len(trace)


def test_seacache_says_which_models_it_cannot_serve() -> None:
    tiny = pipelines.ALL["ltx"]()
    with pytest.raises(SencacheError, match=r"seacache cannot serve ltx \(it serves wan\); choose another"):
        ours(tiny, SeaCache())


@pytest.mark.parametrize(("forecast", "order"), [("hold", 0), ("taylor", 2)])
def test_the_taylor_forecast_is_that_of_taylorseer(forecast: str, order: int) -> None:
    """Its lite mode forecasts what the last projection gives: the output but for its arrangement."""
    tiny, steps = pipelines.wan(), 12
    config = TaylorSeerCacheConfig(
        cache_interval=3,
        disable_cache_before_step=4,
        max_order=order,
        taylor_factors_dtype=torch.float32,
        use_lite_mode=True,
    )
    computed = tuple(i for i in range(steps) if i < 4 or (i - 5) % 3 == 0)
    latents, trace = ours(tiny, Fixed(steps=computed, target="output", forecast=forecast))
    assert trace.nfe == len(computed)
    torch.testing.assert_close(latents, theirs(tiny, config), rtol=1e-4, atol=1e-4)
