"""The stand-ins: for a transformer's block list, and for a child whose output is worth seeing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

TEXT = "encoder_hidden_states"


@dataclass(slots=True)
class BlockCall:
    """The arguments of one block: the hidden states [B, tokens, width], and everything else as the model gave
    it.
    """

    hidden: torch.Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def moved(self, hidden: torch.Tensor) -> BlockCall:
        """The same call with other hidden states."""
        return BlockCall(hidden, self.args, self.kwargs)

    def returned(self, text_stream: bool) -> Any:
        """What a block returns that leaves its input as it is."""
        return (self.hidden, self.kwargs[TEXT]) if text_stream else self.hidden


class Stack(torch.nn.Module):
    """One pretended block. Given the first block's arguments it asks `play`, which runs the real blocks or
    not.

    The real blocks are below it, so that whatever walks the transformer's modules during a forward, as the
    scaling of LoRA layers does, finds them.
    """

    def __init__(self, play: Callable[[BlockCall], Any], blocks: torch.nn.Module) -> None:
        super().__init__()
        self.__dict__["_play"] = play
        self.blocks = blocks

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Same arguments and return value as a block of the transformer."""
        play: Callable[[BlockCall], Any] = self.__dict__["_play"]
        return play(BlockCall(hidden_states, args, kwargs))


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
    hidden, args, kwargs = call.hidden, call.args, call.kwargs
    for block in blocks:
        if text_stream:
            hidden, text = block(hidden, *args, **kwargs)
            kwargs = {**kwargs, TEXT: text}
        else:
            hidden = block(hidden, *args, **kwargs)
    return BlockCall(hidden, args, kwargs)
