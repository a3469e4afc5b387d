"""What senses and observers see of a step, and how signals come to the host."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch

from sencache.engine.cache import History
from sencache.policies.senses import Sense
from sencache.policies.steps import Step


@dataclass(frozen=True)
class Evaluated:
    """What one forward gave, batch first: the block stack's residual and the network's output."""

    residual: torch.Tensor
    output: torch.Tensor

    def of(self, samples: slice) -> Evaluated:
        """The same of some samples."""
        return Evaluated(self.residual[samples], self.output[samples])


class Rerun(Protocol):
    """One more evaluation at the same arguments, but for the timestep and, where given, the latent."""

    def __call__(self, timestep: float, latent: torch.Tensor | None = None) -> Evaluated:
        """`latent`: of the prompt's own samples, as `Scene.latent`; nothing of the call is recorded."""


@dataclass
class Scene:
    """The first call of one step as senses and observers see it; tensors are batch first.

    `transformer` tells the pipeline's transformers apart, where it has several.
    `conditional` selects the samples of the prompt itself where guidance doubles the batch; `latent`, the
    denoised part of the transformer's input, is reduced to them. `signal` is what the policy asked to look
    at, `head` what the first of the `blocks` added, where someone looks at that. `residual`, `output` and
    `value`, what is going to be cached, appear when the step is computed, and `rerun` with them.
    """

    step: Step
    latent: torch.Tensor
    conditional: slice
    transformer: int = 0
    signal: torch.Tensor | None = None
    residual: torch.Tensor | None = None
    output: torch.Tensor | None = None
    history: History | None = None
    value: torch.Tensor | None = None
    rerun: Rerun | None = None
    head: torch.Tensor | None = None
    blocks: int = 1

    def __post_init__(self) -> None:
        # Guidance that doubles the batch hands over the same latent twice.
        if self.conditional.start:
            self.latent = self.latent[self.conditional]


def fetch(senses: Iterable[Sense]) -> dict[str, float]:
    """The signals of all `senses` as Python floats, in one transfer from the device."""
    found = {name: value for sense in senses for name, value in sense.values().items()}
    if len(found) <= 1:
        return {name: value.item() for name, value in found.items()}
    return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))
