"""Blocks compiled ahead of time: captured and exported for real, then run as exported.

The compiler itself (inductor, a minute a block on a CPU) is left out; what it would make of the exported
block is taken to be that block.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import spaces
import torch
from pipelines import STEPS, Tiny

from sencache.engine.attach import attach
from sencache.policies import Fixed
from sencache.service import studio as service
from sencache.service.aot import compile_blocks, layout_of, load_blocks
from sencache.service.opening import sample


class Compiler:
    """In place of the compiler and its packages."""

    def __init__(self) -> None:
        self.packages: dict[str, Any] = {}
        self.calls = 0

    def save(self, folder: Path, exported: Any) -> None:
        self.packages[str(folder)] = exported.module()

    def load(self, blocks: torch.nn.ModuleList, folder: Path) -> None:
        for block in blocks:
            self._patch(block, self.packages[str(folder)])

    def _patch(self, block: torch.nn.Module, program: torch.nn.Module) -> None:
        weights = block.state_dict()

        def compiled(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return torch.func.functional_call(program, weights, args, kwargs)

        block.forward = compiled  # type: ignore[method-assign]


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    made = Compiler()
    monkeypatch.setattr(spaces, "aoti_compile_and_save", made.save)
    monkeypatch.setattr(spaces, "aoti_load_from_package_dir", made.load)
    return made


def compiled_ahead(tiny: Tiny, folder: Path) -> None:
    transformer = tiny.pipe.transformer
    load_blocks(transformer, folder, compile_blocks(transformer, lambda: tiny(steps=2), folder))


def test_one_package_serves_every_block_with_its_own_weights(
    tiny: Tiny, compiler: Compiler, tmp_path: Path
) -> None:
    plain = tiny()
    compiled_ahead(tiny, tmp_path)
    latents = tiny()
    assert torch.allclose(latents, plain, rtol=1e-3, atol=1e-3)
    # CogVideoX's first block is given its text states in another layout than the others.
    served = len(tiny.blocks) - (tiny.name == "cogvideox")
    assert compiler.calls == served * tiny.branches * STEPS


def test_caches_leave_compiled_blocks_out(tiny: Tiny, compiler: Compiler, tmp_path: Path) -> None:
    compiled_ahead(tiny, tmp_path)
    latents = tiny()
    for interval, computed in ((1, STEPS), (3, STEPS // 3)):
        compiler.calls = 0
        with attach(tiny.pipe, Fixed(interval=interval)) as trace:
            cached = tiny()
        assert trace.nfe == computed
        served = len(tiny.blocks) - (tiny.name == "cogvideox")
        assert compiler.calls == served * tiny.branches * computed
        assert torch.equal(cached, latents) == (interval == 1)


def test_another_size_runs_the_blocks_as_they_are(tiny: Tiny, compiler: Compiler, tmp_path: Path) -> None:
    other = {"height": tiny.arguments(1)["height"] * 2}
    plain = tiny(**other)
    compiled_ahead(tiny, tmp_path)
    assert torch.equal(tiny(**other), plain)
    assert compiler.calls == 0


def test_nothing_is_left_of_the_captured_call(tiny: Tiny, compiler: Compiler, tmp_path: Path) -> None:
    plain = tiny()
    compile_blocks(tiny.pipe.transformer, lambda: tiny(steps=2), tmp_path)
    assert torch.equal(tiny(), plain)
    assert all("forward" not in block.__dict__ for block in tiny.blocks)


def test_layouts_tell_apart_what_a_compiler_would() -> None:
    x = torch.zeros(2, 3)
    same = layout_of(((x, [torch.ones(2, 3)]), {"a": None, "b": 2}))
    assert layout_of(((x, (torch.zeros(2, 3),)), {"b": 2, "a": None})) == same
    for other in (torch.zeros(3, 2).T, torch.zeros(2, 4), torch.zeros(2, 3, dtype=torch.half)):
        assert layout_of(((x, [other]), {"a": None, "b": 2})) != same


def test_the_service_compiles_when_it_starts_if_told_to(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off ZeroGPU the GPU function is called in place; the real worker is in test_zerogpu.py."""
    service._loaded.cache_clear()
    service.Studio().warm()
    assert compiler.packages == {}
    monkeypatch.setattr(service, "ahead_of_time", lambda: True)
    try:
        service.Studio().warm()
        loaded = service.model("tiny-wan")
        encoded = loaded.encode("a red circle", "", 4.0)
        request = sample(loaded.spec)
        loaded.latent(loaded.pipe, encoded, request)
        assert len(compiler.packages) == 1
        assert compiler.calls == len(loaded.pipe.transformer.blocks) * 2 * request.steps
    finally:
        service._loaded.cache_clear()
