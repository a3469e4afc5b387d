"""The facts in which the supported transformers differ. Everything else in the engine is the same for all of
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from sencache.engine.stack import BlockCall
from sencache.errors import SencacheError


@dataclass(frozen=True)
class BlockSignal:
    """A signal that `read` computes from the first block and its arguments; `weights`: with the block's own
    weights, outside its forward.
    """

    read: Callable[[torch.nn.Module, BlockCall], torch.Tensor]
    weights: bool = False


@dataclass(frozen=True)
class ChildSignal:
    """A signal that is the first output of a child module which runs before the blocks."""

    child: str


@dataclass(frozen=True)
class Architecture:
    """One transformer class.

    `blocks`: attribute of the block list. `branches`: cache-context names of the calls that make one guided
    step; a single name means that guidance doubles the batch instead. `channel_axis`: axis of `hidden_states`
    with the latent's channels; image-to-video models append theirs after them. `text_stream`: blocks return
    (hidden states, text states). `signals`: what TeaCache may look at, the first one being the default.
    """

    name: str
    blocks: str
    branches: tuple[str, ...]
    channel_axis: int
    text_stream: bool = False
    signals: Mapping[str, BlockSignal | ChildSignal] = field(default_factory=dict)

    @property
    def default_signal(self) -> str | None:
        """The signal a calibration fits TeaCache's polynomial on."""
        return next(iter(self.signals), None)

    def latent(self, hidden_states: torch.Tensor, channels: int) -> torch.Tensor:
        """The denoised latent inside the transformer's input: its first `channels` channels, batch first."""
        return hidden_states.narrow(self.channel_axis, 0, channels)


def _temb(block: torch.nn.Module, call: BlockCall) -> torch.Tensor:
    temb: torch.Tensor = call.kwargs["temb"] if "temb" in call.kwargs else call.args[2]
    return temb


def _ltx_modulated(block: torch.nn.Module, call: BlockCall) -> torch.Tensor:
    """`norm1(h) (1 + scale) + shift`, what the block's self-attention sees."""
    table, norm1 = (getattr(block, name) for name in ("scale_shift_table", "norm1"))
    temb: Any = _temb(block, call)
    # Read outside the block's forward: its table is on the host while its group is offloaded.
    table = table.to(temb.device, temb.dtype)
    shift, scale = (table + temb.unflatten(-1, (len(table), -1)))[..., :2, :].unbind(dim=-2)
    modulated: torch.Tensor = norm1(call.hidden) * (1 + scale) + shift
    return modulated


ARCHITECTURES: dict[str, Architecture] = {
    "WanTransformer3DModel": Architecture(
        "wan",
        blocks="blocks",
        branches=("cond", "uncond"),
        channel_axis=1,
        signals={
            "time_projection": BlockSignal(_temb),
            "time_embedding": ChildSignal("condition_embedder"),
        },
    ),
    "CogVideoXTransformer3DModel": Architecture(
        "cogvideox",
        blocks="transformer_blocks",
        branches=("cond_uncond",),
        channel_axis=2,
        text_stream=True,
        signals={"time_embedding": BlockSignal(_temb)},
    ),
    "LTXVideoTransformer3DModel": Architecture(
        "ltx",
        blocks="transformer_blocks",
        branches=("cond_uncond",),
        channel_axis=2,
        signals={"modulated_input": BlockSignal(_ltx_modulated, weights=True)},
    ),
}


def architecture_of(transformer: torch.nn.Module) -> Architecture:
    """The table's entry for `transformer` or one of its base classes; raises SencacheError when there is
    none.
    """
    for cls in type(transformer).__mro__:
        if cls.__name__ in ARCHITECTURES:
            return ARCHITECTURES[cls.__name__]
    raise SencacheError(
        f"no step cache knows the transformer {type(transformer).__name__}; "
        f"use a pipeline with one of {', '.join(ARCHITECTURES)}"
    )
