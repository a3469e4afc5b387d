"""One step under way: what its hooks, its senses and its observers know of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch

from sencache.architectures.base import BlockCall
from sencache.engine.cache import History
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
        """`latent`: of the prompt's own samples, as `StepState.latent`; nothing of the call is recorded."""


@dataclass
class StepState:
    """One transformer call of a step, made when it begins and dropped when it ends; tensors are batch first.

    `transformer` tells the pipeline's transformers apart, where it has several. `conditional` selects the
    samples of the prompt itself where guidance doubles the batch; `latent`, the denoised part of the
    transformer's input, is reduced to them, `given` is not. `branch` counts the step's calls: the first
    decides, and senses and observers see it alone. `signal` is what the policy asked to look at, `first` the
    call after the first of the `blocks` and `head` what that one added, where it ran apart. `residual`, what
    the blocks behind it added (`tail`), `output` and `value`, what is going to be cached, appear when the
    call is computed, and `rerun` with them.
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
    branch: int = 0
    reuse: bool = False
    blocks: int = 1
    first: BlockCall | None = None
    head: torch.Tensor | None = None
    tail: torch.Tensor | None = None
    given: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.given = self.latent
        # Guidance that doubles the batch hands over the same latent twice.
        if self.conditional.start:
            self.latent = self.latent[self.conditional]
