"""HOW a cached value is reused: the weights of the computed steps it is forecast from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Protocol

from sencache.errors import SencacheError
from sencache.gram import Gram
from sencache.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


# Weight of the newest miss in what one of several forecasts is chosen by.
NEWEST = 0.3


class Place(Protocol):
    """What a forecast may know of a step."""

    @property
    def index(self) -> int:
        """From 0."""

    @property
    def timestep(self) -> float:
        """On 0..1000."""


class Forecast(ABC):
    """A value at t as a weighted sum of those at the nodes, the computed steps before it.

    `order` is the degree: a forecast stands on the last `order + 1` nodes, and on fewer while there are
    fewer. `earlier`: on how many nodes before the last one `between` stands. `several`: it is a choice of
    three. `fits`: its weights come from a profile's table.
    """

    name: ClassVar[str]
    order: ClassVar[int]
    earlier: ClassVar[int] = 1
    several: ClassVar[bool] = False
    fits: ClassVar[bool] = False

    def fitted_to(self, gram: Gram) -> Forecast:
        """The same by a table, where it `fits`."""
        return self

    def position(self, step: Place) -> float:
        """The coordinate that distances are taken in: the timestep."""
        return step.timestep

    @abstractmethod
    def weights(self, nodes: Sequence[float], t: float) -> Sequence[float]:
        """One for each of the `nodes`, at most `order + 1`, newest last. They sum to 1."""

    def choices(self, nodes: Sequence[float], t: float) -> Sequence[Sequence[float]]:
        """This one; or three, simplest first, each by the weights of as many of the newest nodes, of which
        that one serves which missed least of late.
        """
        return (self.weights(nodes, t),)

    def error(self, choice: int, nodes: Sequence[Place], step: Place) -> float:
        """How far that of several `choices` is expected to miss, relative to the value, up to a factor that
        the run reveals.
        """
        raise NotImplementedError

    def between(self, nodes: Sequence[Place], step: Place) -> Sequence[float]:
        """Weights at a `step` before the last of the `nodes`, for going over reused steps again: on the line
        in t through the last two. Any higher order swings: it was tried, and loses.
        """
        b, c = nodes
        newest = (step.timestep - b.timestep) / (c.timestep - b.timestep)
        return (1 - newest, newest)


FORECASTS: Registry[Forecast] = Registry("forecast")


def enter_forecast(cls: type[Forecast]) -> type[Forecast]:
    """Make `cls` a forecast that every method can be set to; raises SencacheError where its weights do not
    sum to 1.
    """
    made = cls()
    for count in range(1, made.order + 2):
        nodes = [1000.0 - 7.0 * i * (i + 2) for i in range(count)]
        total = sum(made.weights(nodes, nodes[-1] - 11.0))
        if abs(total - 1) > 1e-6:
            raise SencacheError(
                f"the weights of {cls.name!r} on {count} nodes sum to {total:g}; let them sum to 1"
            )
    FORECASTS.enter(cls.name, made)
    return cls


@enter_forecast
class Hold(Forecast):
    """The newest value itself."""

    name = "hold"
    order = 0

    def weights(self, nodes: Sequence[float], t: float) -> Sequence[float]:
        return (1.0,)


@enter_forecast
class Linear(Forecast):
    """The line through the last two values, in t: `v_b + (t_b - t)/(t_a - t_b) (v_b - v_a)`."""

    name = "linear"
    order = 1

    def weights(self, nodes: Sequence[float], t: float) -> Sequence[float]:
        if len(nodes) == 1:
            return (1.0,)
        a, b = nodes
        newest = 1 + (b - t) / (a - b)
        return (1 - newest, newest)


@enter_forecast
class Taylor(Forecast):
    """TaylorSeer of order 2 (arXiv 2503.06923), as diffusers has it: `v + v' o + v'' o^2 / 2`, o steps after
    the newest, with divided differences for the derivatives. It counts in steps, not in t.
    """

    name = "taylor"
    order = 2

    def position(self, step: Place) -> float:
        return float(step.index)

    def weights(self, nodes: Sequence[float], t: float) -> Sequence[float]:
        """Those of a, b and c, of b and c, or of c alone."""
        if len(nodes) == 1:
            return (1.0,)
        *_, b, c = nodes
        slope = (t - c) / (c - b)
        if len(nodes) == 2:
            return (-slope, 1 + slope)
        bend = (t - c) ** 2 / 2 / (c - b)  # v'' is the change of v' over the last distance.
        to_b, to_a = bend / (c - b), bend / (b - nodes[0])
        return (to_a, -slope - to_b - to_a, 1 + slope + to_b)


class Fitted(Forecast):
    """The best weights there are on average, by the table of inner products that a profile holds: those with
    the least expected error, on one, two or three nodes, and on either side of the step. It counts in steps.
    """

    name = "fitted"
    order = 2
    earlier = 2
    several = fits = True

    def __init__(self, gram: Gram | None = None) -> None:
        if gram is not None:
            # Asked again and again while a budget is planned.
            self._weights, self._error = cache(gram.weights), cache(gram.error)

    def fitted_to(self, gram: Gram) -> Forecast:
        return Fitted(gram)

    def position(self, step: Place) -> float:
        return float(step.index)

    def weights(self, nodes: Sequence[float], t: float) -> Sequence[float]:
        return self._weights(tuple(int(node) for node in nodes), int(t))

    def choices(self, nodes: Sequence[float], t: float) -> Sequence[Sequence[float]]:
        """On the newest node, on two, on three; on as many as there are."""
        return [self.weights(nodes[-count:], t) for count in range(1, self.order + 2)]

    def error(self, choice: int, nodes: Sequence[Place], step: Place) -> float:
        """As the table has it, on `choice` + 1 nodes."""
        return self._error(tuple(node.index for node in nodes[-1 - choice :]), step.index)

    def between(self, nodes: Sequence[Place], step: Place) -> Sequence[float]:
        """The same, with nodes on both sides."""
        return self._weights(tuple(node.index for node in nodes), step.index)


FORECASTS.enter(Fitted.name, Fitted())


def weigh(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The sum of `weights` times `values`, newest last; the weights sum to 1."""
    import torch

    *older, newest = values
    if len(older) == 1:
        # lerp takes one pass and no temporary.
        return torch.lerp(older[0], newest, weights[-1])
    # By differences to the newest nothing large cancels in half precision.
    total = newest
    for value, weight in zip(older, weights[:-1], strict=True):
        total = total + weight * (value - newest)
    return total
