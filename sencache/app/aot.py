"""Blocks compiled ahead of time: ZeroGPU lends no time for torch.compile within a visitor's call.

Blocks and not whole transformers, so that a cache can still leave them out. One package serves all blocks of
a list, each with its own weights. It is made for one kind of GPU and one size of video; calls of any
other layout run the blocks as they are. LoRA weights must be loaded before.

Run on a CPU, inductor included; not yet on ZeroGPU.
"""

from __future__ import annotations

import spaces  # isort: skip

from collections.abc import Callable
from contextvars import Context
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sencache.architectures import architecture_of

Layout = Any


def compile_blocks(transformer: Any, run: Callable[[], object], folder: Path) -> Layout:
    """Compile a block for the arguments with which `run()` first calls it, and write the package to `folder`.

    Needs the device it is for. Returns the layout of the arguments, for `load_blocks`.
    """
    blocks = _blocks(transformer)
    # The first block may be given tensors laid out otherwise than those that blocks hand on.
    block = blocks[min(1, len(blocks) - 1)]
    with spaces.aoti_capture(block) as call:
        run()
    with torch.no_grad():
        exported = torch.export.export(block, args=call.args, kwargs=call.kwargs)
    spaces.aoti_compile_and_save(folder, exported)
    return layout_of((call.args, call.kwargs))


def load_blocks(transformer: Any, folder: Path, layout: Layout) -> None:
    """Let every block run the package in `folder` where its arguments are laid out as `layout`.

    A process loads the package once, at its first call, for one thread at a time.
    """
    blocks = _blocks(transformer)
    eager = [block.forward for block in blocks]
    spaces.aoti_load_from_package_dir(blocks, folder)
    # `spaces` keeps what it has loaded in context variables, and every lane runs in a context of its own.
    shared = Context()
    for block, own in zip(blocks, eager, strict=True):
        block.forward = _either(partial(shared.run, block.forward), own, layout)


def _either(compiled: Callable[..., Any], eager: Callable[..., Any], layout: Layout) -> Callable[..., Any]:
    """The compiled function for arguments laid out as `layout`, the block's own forward for all others."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        return (compiled if layout_of((args, kwargs)) == layout else eager)(*args, **kwargs)

    return forward


def layout_of(value: Any) -> Layout:
    """What a compiled function takes for granted of its arguments: shapes, strides and types of tensors, and
    all else as it is.
    """
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.stride(), value.dtype, value.device.type
    if isinstance(value, (tuple, list)):
        return tuple(layout_of(item) for item in value)
    if isinstance(value, dict):
        return tuple((key, layout_of(item)) for key, item in sorted(value.items()))
    return value


def _blocks(transformer: Any) -> Any:
    # One package holds one kind of block: where there are several lists, that of the first.
    return transformer.get_submodule(architecture_of(transformer).blocks[0])
