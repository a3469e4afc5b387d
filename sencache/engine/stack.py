"""The stand-ins: for a transformer's block lists, and for a child whose output is worth seeing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from sencache.architectures.base import BlockCall


class Stack(torch.nn.Module):
    """One pretended block. Given the first block's arguments it asks `play`, which runs the real blocks or
    not.

    The real blocks are below it, so that whatever walks the transformer's modules during a forward, as the
    scaling of LoRA layers does, finds them.
    """

    def __init__(self, play: Callable[[BlockCall], Any], lists: Iterable[torch.nn.Module]) -> None:
        super().__init__()
        self.__dict__["_play"] = play
        self.lists = torch.nn.ModuleList(lists)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Same arguments and return value as a block of the transformer."""
        play: Callable[[BlockCall], Any] = self.__dict__["_play"]
        return play(BlockCall(args, kwargs))


class Tap(torch.nn.Module):
    """A child module, below it, whose first output is shown to `show` in passing."""

    def __init__(self, child: torch.nn.Module, show: Callable[[torch.Tensor], None]) -> None:
        super().__init__()
        self.__dict__["_show"] = show
        self.child = child

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Same arguments and return value as the child."""
        show: Callable[[torch.Tensor], None] = self.__dict__["_show"]
        outputs = self.child(*args, **kwargs)
        show(outputs[0])
        return outputs


def run_blocks(blocks: Iterable[torch.nn.Module], text_stream: bool, call: BlockCall) -> BlockCall:
    """All blocks in turn; returns the call with the states that the last one left."""
    for block in blocks:
        if text_stream:
            hidden, text = block(*call.args, **call.kwargs)
            call = call.with_states(hidden, text)
        else:
            call = call.with_states(block(*call.args, **call.kwargs))
    return call
