"""Blocks compiled ahead of time: captured and exported for real, then run as exported.

The compiler itself (inductor, a minute a block on a CPU) is left out; what it would make of the exported
block is taken to be that block.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spaces
import torch
from pipelines import STEPS, Tiny

from sencache.app import service
from sencache.app.aot import compile_blocks, layout_of, load_blocks
from sencache.app.space import sample
from sencache.comparison.lanes import Finished, lane
from sencache.comparison.stepping import round_robin
from sencache.engine.attach import attach
from sencache.policies import Fixed


class Compiler:
    """In place of the compiler and of torch's loader; `spaces` itself does all that lies between them."""

    def __init__(self) -> None:
        self.packages: dict[Path, torch.nn.Module] = {}
        self.loads = self.calls = 0

    def save(self, folder: Path, exported: Any) -> None:
        package = Path(folder) / "root" / "package.pt2"
        package.parent.mkdir()
        package.touch()
        self.packages[package] = exported.module()

    def load(self, package: Path) -> Loaded:
        self.loads += 1
        return Loaded(self, self.packages[package])


class Loaded:
    """One loaded package: its program and the weights that it was last given."""

    def __init__(self, compiler: Compiler, program: torch.nn.Module) -> None:
        self._compiler, self._program = compiler, program
        self._weights: dict[str, torch.Tensor] = {}

    def get_constant_fqns(self) -> list[str]:
        return list(self._program.state_dict())

    def load_constants(self, weights: dict[str, torch.Tensor], **_: Any) -> None:
        self._weights = weights

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._compiler.calls += 1
        return torch.func.functional_call(self._program, self._weights, args, kwargs)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    made = Compiler()
    monkeypatch.setattr(spaces, "aoti_compile_and_save", made.save)
    monkeypatch.setattr(torch._inductor, "aoti_load_package", made.load)
    # It would try the machine's C compiler.
    monkeypatch.setattr("spaces.zero.torch.aoti.valid_vec_isa_list", list)
    return made


def compiled_ahead(tiny: Tiny, folder: Path) -> None:
    transformer = tiny.pipe.transformer
    layout = compile_blocks(transformer, lambda: tiny(steps=2), folder)
    assert all("forward" not in block.__dict__ for block in tiny.blocks), "the captured call left nothing"
    load_blocks(transformer, folder, layout)


def test_one_package_serves_every_block_and_caches_leave_blocks_out(
    tiny: Tiny, compiler: Compiler, tmp_path: Path
) -> None:
    """Each block with its own weights; another size than that captured runs the blocks as they are."""
    other = {"height": tiny.arguments(1)["height"] * 2}
    plain, plain_other = tiny(), tiny(**other)
    compiled_ahead(tiny, tmp_path)
    assert torch.equal(tiny(**other), plain_other)
    assert compiler.calls == 0
    latents = tiny()
    assert torch.allclose(latents, plain, rtol=1e-3, atol=1e-3)
    # CogVideoX's first block is given its text states in another layout than the others.
    served = len(tiny.blocks) - (tiny.name == "cogvideox")
    assert compiler.calls == served * tiny.branches * STEPS
    for interval, computed in ((1, STEPS), (3, STEPS // 3)):
        compiler.calls = 0
        with attach(tiny.pipe, Fixed(interval=interval)) as trace:
            cached = tiny()
        assert trace.nfe == computed
        assert compiler.calls == served * tiny.branches * computed
        assert torch.equal(cached, latents) == (interval == 1)


def test_lanes_share_what_is_loaded_and_each_block_keeps_its_weights(
    tiny: Tiny, compiler: Compiler, tmp_path: Path
) -> None:
    """Every lane runs in a context of its own, where `spaces` would load the package again."""
    compiled_ahead(tiny, tmp_path)

    def generate(pipe: Any, callback: Any) -> Any:
        return replace(tiny, pipe=pipe)(callback_on_step_end=callback).numpy()

    lanes = [lane(tiny.pipe, Fixed(interval=n), generate, torch.device("cpu")) for n in (1, 3, 1)]
    first, _, last = (item for _, item in round_robin(lanes) if isinstance(item, Finished))
    alone = tiny().numpy()
    assert np.array_equal(first.frames, alone) and np.array_equal(last.frames, alone)
    assert compiler.loads == 1


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
    service._load.cache_clear()
    service.ComparisonService().warm()
    assert compiler.packages == {}
    monkeypatch.setattr(service.space, "ahead_of_time", lambda: True)
    try:
        service.ComparisonService().warm()
        loaded = service.model("tiny-wan")
        encoded = loaded.encode("a red circle", "", 4.0)
        request = sample(loaded.spec)
        loaded.latent(loaded.pipe, encoded, request)
        assert len(compiler.packages) == 1
        assert compiler.calls == len(loaded.pipe.transformer.blocks) * 2 * request.steps
    finally:
        service._load.cache_clear()
