"""What is kept of a full run, so that a policy's decisions along it can be had without the network.

A table follows the steps of one run of one sample and becomes an array of [N] or [N, N] numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sencache.measures import relative_l1

if TYPE_CHECKING:
    from torch import Tensor

Look = Callable[[Any], "Tensor | None"]

# What is too large to keep of every step is compared with so many steps before.
SPAN = 16
# Elements that are copied to float64 at a time.
PIECE = 2**22


class Table(ABC):
    """One table of one run; `look` tells what of a step it is about, [1, ...], None where there is none.

    `guided`: it follows the guided predictions, [1, ...], and `note` gets these.
    """

    guided: ClassVar[bool] = False

    def __init__(self, look: Look) -> None:
        self.look = look

    @abstractmethod
    def note(self, seen: Any) -> None:
        """Every step of the run, in order."""

    @abstractmethod
    def array(self) -> Tensor:
        """[N] or [N, N], on the device of the run."""


class Distances(Table):
    """[N, N]: the size of the difference between any two steps. Keeps them all."""

    def __init__(self, look: Look, size: Callable[[Tensor], Tensor]) -> None:
        super().__init__(look)
        self.size = size
        self._kept: list[Tensor] = []

    def note(self, seen: Any) -> None:
        value = self.look(seen)
        assert value is not None
        self._kept.append(value.clone())

    def array(self) -> Tensor:
        import torch

        stacked = torch.cat(self._kept)
        return torch.stack([self.size(stacked - one) for one in self._kept])


class Sizes(Table):
    """[N]: the size of the value at every step."""

    def __init__(self, look: Look, size: Callable[[Tensor], Tensor]) -> None:
        super().__init__(look)
        self.size = size
        self._rows: list[Tensor] = []

    def note(self, seen: Any) -> None:
        value = self.look(seen)
        assert value is not None
        self._rows.append(self.size(value)[0])

    def array(self) -> Tensor:
        return _stack(self._rows)


class StepChanges(Table):
    """[N]: relative L1 change from the step before, 0 for the first and where there is nothing to see."""

    def __init__(self, look: Look) -> None:
        super().__init__(look)
        self._before: Tensor | None = None
        self._rows: list[Tensor] = []

    def note(self, seen: Any) -> None:
        now, before = self.look(seen), self._before
        known = now is not None and before is not None
        nothing = seen.latent.new_zeros(())
        self._rows.append(relative_l1(now, before)[0] if known else nothing)  # type: ignore[arg-type]
        self._before = None if now is None else now.clone()

    def array(self) -> Tensor:
        return _stack(self._rows)


class Changes(Table):
    """[N, N]: relative L1 change from step j to a later step i at [i, j]; infinite elsewhere, and where they
    lie more than SPAN apart.
    """

    def __init__(self, look: Look) -> None:
        super().__init__(look)
        self._window: deque[Tensor] = deque(maxlen=SPAN)
        self._rows: list[Tensor | None] = []

    def note(self, seen: Any) -> None:
        import torch

        now = self.look(seen)
        changes = [relative_l1(now, before)[0] for before in self._window] if now is not None else []
        self._rows.append(torch.stack(changes) if changes else None)
        if now is not None:
            self._window.append(now.clone())

    def array(self) -> Tensor:
        import torch

        table = torch.full((len(self._rows),) * 2, float("inf"), dtype=torch.float64)
        for i, row in enumerate(self._rows):
            if row is not None:
                table[i, i - len(row) : i] = row.double().cpu()
        return table


class Products(Table):
    """[N, N]: inner products of the value's changes into any two steps, NaN more than SPAN apart."""

    def __init__(self, look: Look) -> None:
        super().__init__(look)
        self._newest: Tensor | None = None
        self._window: deque[Tensor] = deque()
        self._rows: list[Tensor] = []

    def note(self, seen: Any) -> None:
        """Multiply the newest change with those before."""
        import torch

        value = self.look(seen)
        assert value is not None
        if len(self._window) == SPAN:
            # Before the next one is made: at the size of a large model they are most of the memory in use.
            self._window.popleft()
        self._window.append(torch.zeros_like(value) if self._newest is None else value - self._newest)
        self._newest = value.clone() if self._newest is None else self._newest.copy_(value)
        self._rows.append(torch.stack([dot(self._window[-1], other) for other in self._window]))

    def array(self) -> Tensor:
        """As multiplied, on both sides of the diagonal."""
        import torch

        table = torch.full((len(self._rows),) * 2, float("nan"), dtype=torch.float64)
        for i, row in enumerate(self._rows):
            within = slice(i + 1 - len(row), i + 1)
            table[i, within] = table[within, i] = row.cpu()
        return table


class InnerProducts(Table):
    """[N, N]: inner products of the guided predictions of any two steps. Keeps them all."""

    guided = True

    def __init__(self) -> None:
        super().__init__(lambda prediction: prediction)
        self._kept: list[Tensor] = []

    def note(self, seen: Any) -> None:
        self._kept.append(seen.flatten().clone())

    def array(self) -> Tensor:
        """In float64, a piece of all at a time."""
        import torch

        pieces = torch.split(torch.stack(self._kept), PIECE // len(self._kept), dim=1)
        return torch.stack([piece.double() @ piece.double().T for piece in pieces]).sum(dim=0)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product in float64 throughout: a small miss is the difference of large products. In pieces, as a
    large model's residual would take gigabytes in float64.
    """
    import torch

    a, b = a.flatten(), b.flatten()
    pieces = [slice(start, start + PIECE) for start in range(0, len(a), PIECE)]
    return torch.stack([torch.dot(a[piece].double(), b[piece].double()) for piece in pieces]).sum()


def squared_norm(value: Tensor) -> Tensor:
    """[1, ...] -> [1], in float64."""
    return dot(value, value).reshape(1)


def _stack(rows: Sequence[Tensor]) -> Tensor:
    import torch

    return torch.stack(list(rows))
