"""diffusers' own caches as peers of ours in the GPU benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from gpu_bench import Bench

from sencache.policies import Fixed


def peers(bench: Bench, values: dict[str, float]) -> None:
    """diffusers' own caches, made to compute the very steps of our schedule."""
    ours = bench.run(Fixed(steps=bench.schedule))
    values["schedule, s"] = ours.seconds
    for name, make in PEERS.items():
        # The first run compiles what the peer lets compile.
        counted, theirs = _calls(bench, make), bench.run(around=_enabled(bench, make))
        expected = len(bench.schedule) * bench.subject.branches
        if not bench.compiled and counted != expected:
            raise RuntimeError(f"{name} made {counted} calls of its second block, not {expected}")
        values[f"{name}, s"] = theirs.seconds
        values[f"faster than {name} by"] = theirs.seconds / ours.seconds - 1
        values[f"same latents as {name}"] = float(torch.equal(theirs.latents, ours.latents))
        if ours.peak and theirs.peak:
            values[f"peak over that of {name}"] = ours.peak / theirs.peak


def _calls(bench: Bench, make: Callable[[Bench], AbstractContextManager[Any]]) -> int:
    """How often the second block runs; a hook within a compiled block is not called every time."""
    calls: list[int] = []
    counter = bench.subject.blocks[1].attn1.register_forward_hook(lambda *_: calls.append(1))
    try:
        bench.run(around=_enabled(bench, make))
    finally:
        counter.remove()
    return len(calls)


@contextmanager
def _enabled(bench: Bench, make: Callable[[Bench], AbstractContextManager[Any]]) -> Iterator[None]:
    with make(bench) as config:
        bench.subject.transformer.enable_cache(config)
        try:
            yield
        finally:
            bench.subject.transformer.disable_cache()


@contextmanager
def _magcache(bench: Bench) -> Iterator[Any]:
    from diffusers import MagCacheConfig

    ratios = [0.0 if step in bench.schedule else 1.0 for step in range(bench.steps)]
    yield MagCacheConfig(
        threshold=0.5,
        max_skip_steps=bench.steps,
        retention_ratio=0.0,
        num_inference_steps=bench.steps,
        mag_ratios=torch.tensor(ratios),
    )


@contextmanager
def _first_block(bench: Bench) -> Iterator[Any]:
    """It measures as ever, and waits for the result as ever; then the schedule decides."""
    from diffusers import FirstBlockCacheConfig
    from diffusers.hooks.first_block_cache import FBCHeadBlockHook

    asked, measured = 0, FBCHeadBlockHook._should_compute_remaining_blocks

    def scheduled(self: Any, residual: torch.Tensor) -> bool:
        nonlocal asked
        measured(self, residual)
        step, asked = asked // bench.subject.branches, asked + 1
        return step in bench.schedule

    FBCHeadBlockHook._should_compute_remaining_blocks = torch.compiler.disable(scheduled)
    try:
        yield FirstBlockCacheConfig(threshold=0.1)
    finally:
        FBCHeadBlockHook._should_compute_remaining_blocks = measured


PEERS = {"MagCacheConfig": _magcache, "FirstBlockCacheConfig": _first_block}
