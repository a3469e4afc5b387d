"""The stand-ins: for a transformer's block list, and for a child whose output is worth seeing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

HIDDEN = "hidden_states"
TEXT = "encoder_hidden_states"


@dataclass(slots=True)
class BlockCall:
    """The arguments of one block, by position and by name as the model gave them: blocks that were compiled
    ahead of time know no other way.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def hidden(self) -> torch.Tensor:
        """The hidden states, [B, tokens, width]."""
        hidden: torch.Tensor = self.kwargs[HIDDEN] if HIDDEN in self.kwargs else self.args[0]
        return hidden

    def moved(self, hidden: torch.Tensor, **changed: Any) -> BlockCall:
        """The same call with other hidden states, and with what else was `changed`."""
        if HIDDEN in self.kwargs:
            return BlockCall(self.args, {**self.kwargs, HIDDEN: hidden, **changed})
        return BlockCall((hidden, *self.args[1:]), {**self.kwargs, **changed})

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
            call = call.moved(hidden, **{TEXT: text})
        else:
            call = call.moved(block(*call.args, **call.kwargs))
    return call
