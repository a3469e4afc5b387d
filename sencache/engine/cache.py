"""HOW a cached value is reused: held, or extrapolated in t from the last two computed steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch

from sencache.policies.base import Forecast


class History:
    """The last computed values of one guidance branch, newest last, with the timesteps they belong to."""

    def __init__(self, forecast: Forecast) -> None:
        self.order = 2 if forecast == "linear" else 1
        self._values: deque[tuple[float, torch.Tensor]] = deque(maxlen=self.order)

    def put(self, timestep: float, value: torch.Tensor) -> None:
        """Keep `value`; the oldest goes when there are as many as the forecast needs."""
        self._values.append((timestep, value))

    @property
    def complete(self) -> bool:
        """Whether the forecast has all the values that it is defined on."""
        return len(self._values) == self.order

    def serves(self, shape: torch.Size) -> bool:
        """Whether there is a value, and of this shape."""
        return bool(self._values) and self._values[-1][1].shape == shape

    def forecast(self, timestep: float) -> torch.Tensor:
        """The value expected at `timestep`: `v_b + (t_b - t)/(t_a - t_b) (v_b - v_a)`, or `v_b` while only
        one is known.
        """
        t_b, v_b = self._values[-1]
        if len(self._values) == 1:
            return v_b
        t_a, v_a = self._values[0]
        # lerp takes one pass and no temporary; its weight counts from v_a.
        return torch.lerp(v_a, v_b, 1 + (t_b - timestep) / (t_a - t_b))

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (value for _, value in self._values)


def cached_value(
    target: str, latent: torch.Tensor, residual: torch.Tensor | None, output: torch.Tensor
) -> torch.Tensor | None:
    """WHAT is kept of a computed call: its residual, its output, or output minus latent."""
    if target == "residual":
        return residual
    return output - latent if target == "delta" else output
