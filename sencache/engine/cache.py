"""The values kept of a guidance branch, and what is forecast from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch

from sencache.forecasts import Forecast, weighted
from sencache.policies.steps import Step


class History:
    """The last computed values of one guidance branch, newest last, with the places they belong to."""

    def __init__(self, forecast: Forecast) -> None:
        self._forecast = forecast
        self._values: deque[tuple[float, torch.Tensor]] = deque(maxlen=forecast.order + 1)

    def put(self, step: Step, value: torch.Tensor) -> None:
        """Keep `value`; the oldest goes when there are as many as the forecast needs."""
        self._values.append((self._forecast.position(step), value))

    @property
    def complete(self) -> bool:
        """Whether the forecast has all the values that it is defined on."""
        return len(self._values) == self._values.maxlen

    def __len__(self) -> int:
        return len(self._values)

    def serves(self, shape: torch.Size) -> bool:
        """Whether there is a value, and of this shape."""
        return bool(self._values) and self._values[-1][1].shape == shape

    def forecast(self, step: Step) -> torch.Tensor:
        """The value expected at `step`."""
        nodes, values = zip(*self._values, strict=True)
        weights = self._forecast.weights(nodes, self._forecast.position(step))
        return weighted(values[-len(weights) :], weights)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (value for _, value in self._values)
