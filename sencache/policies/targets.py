"""WHAT is reused: what is kept of a computed call, and how it comes back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from sencache.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


class Target(ABC):
    """One value of a forward that stands in for its costly part.

    `inside`: it comes back within the block stack, so that what is before and after the blocks runs;
    otherwise it takes the place of the network's output. `guided`: it is what the sampler gets, of all
    guidance branches together, so that nothing need be known of the network. `first_block`: the first block
    runs at a reused step too, and what is kept begins behind it.
    """

    name: ClassVar[str]
    inside: ClassVar[bool] = False
    guided: ClassVar[bool] = False
    first_block: ClassVar[bool] = False

    @abstractmethod
    def keep(self, latent: Tensor, added: Tensor | None, output: Tensor) -> Tensor:
        """What is kept. `added`: by the blocks (behind the first, with `first_block`) to the hidden states;
        there where the target is `inside`.
        """

    @abstractmethod
    def restore(self, now: Tensor, value: Tensor) -> Tensor:
        """The hidden states after the last block (`inside`) or the network's output, from what is expected of
        the kept value. `now`: the hidden states before the blocks it stands for, or the latent.
        """

    def of_full_run(
        self, latent: Tensor, residual: Tensor | None, head: Tensor | None, output: Tensor
    ) -> Tensor:
        """What would be kept of a call whose blocks added `residual`, the first of them `head`."""
        if self.first_block and residual is not None:
            assert head is not None
            residual = residual - head
        return self.keep(latent, residual, output)


TARGETS: Registry[Target] = Registry("target")


def enter_target(cls: type[Target]) -> type[Target]:
    """Make `cls` a target that every method can be set to."""
    TARGETS.enter(cls.name, cls())
    return cls


@enter_target
class Residual(Target):
    """Block-stack output minus input."""

    name = "residual"
    inside = True

    def keep(self, latent: Tensor, added: Tensor | None, output: Tensor) -> Tensor:
        assert added is not None
        return added

    def restore(self, now: Tensor, value: Tensor) -> Tensor:
        return now + value


@enter_target
class Output(Target):
    """The network's output."""

    name = "output"

    def keep(self, latent: Tensor, added: Tensor | None, output: Tensor) -> Tensor:
        return output

    def restore(self, now: Tensor, value: Tensor) -> Tensor:
        return value


@enter_target
class Delta(Target):
    """Network output minus its latent input."""

    name = "delta"

    def keep(self, latent: Tensor, added: Tensor | None, output: Tensor) -> Tensor:
        return output - latent

    def restore(self, now: Tensor, value: Tensor) -> Tensor:
        return now + value


@enter_target
class Tail(Residual):
    """What the blocks after the first add; the first one runs at every step."""

    name = "tail"
    first_block = True


@enter_target
class Prediction(Target):
    """The guided prediction as the sampler gets it: one a step, whatever the guidance. On a reused step the
    network does not run at all, and the pipeline's arithmetic on its outputs comes to nothing.
    """

    name = "prediction"
    guided = True

    def keep(self, latent: Tensor, added: Tensor | None, output: Tensor) -> Tensor:
        """The prediction, in place of the output."""
        return output

    def restore(self, now: Tensor, value: Tensor) -> Tensor:
        return value
