"""The values kept of a guidance branch, and what is forecast from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import torch

from sencache.forecasts import NEWEST, Forecast, weigh
from sencache.measures import rms
from sencache.policies.steps import Step


class History:
    """The last computed values of one guidance branch, newest last, with the places they belong to.

    Where the forecast is one of several, `misses` are how far each would have missed the newest value,
    relative to it, and `average` the mean of their logarithms, which forgets.
    """

    def __init__(self, forecast: Forecast) -> None:
        self._forecast = forecast
        self._values: deque[tuple[float, torch.Tensor]] = deque(maxlen=forecast.order + 1)
        self.misses: torch.Tensor | None = None
        self.average: torch.Tensor | None = None

    def put(self, step: Step, value: torch.Tensor, samples: slice = slice(None)) -> None:
        """Keep `value`; the oldest goes when there are as many as the forecast needs. Of several forecasts
        that of `samples` is judged.
        """
        if self._forecast.several and len(self._values) > 1:
            self._learn(self._choices(step), value, samples)
        self._values.append((self._forecast.position(step), value))

    def _choices(self, step: Step) -> Sequence[Sequence[float]]:
        nodes = [node for node, _ in self._values]
        return self._forecast.choices(nodes, self._forecast.position(step))

    def _learn(self, choices: Sequence[Sequence[float]], value: torch.Tensor, samples: slice) -> None:
        """How far each choice would have missed `value`, and how far they do of late; of the worst sample."""
        size = rms(value[samples])
        misses = [(rms((value - self._weigh(w))[samples]) / size).amax() for w in choices]
        self.misses = torch.stack(misses)
        logs = self.misses.clamp_min(1e-9).log()
        self.average = logs if self.average is None else self.average.lerp(logs, NEWEST)

    def _weigh(self, weights: Sequence[float]) -> torch.Tensor:
        return weigh([value for _, value in self._values][-len(weights) :], weights)

    @property
    def several(self) -> bool:
        """Whether the forecast is a choice of several, about which enough is known."""
        return self._forecast.several

    @property
    def choice(self) -> torch.Tensor:
        """Which of several forecasts serves: that which missed least of late, 0-d."""
        assert self.average is not None
        return self.average.argmin()

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
        """The value expected at `step`. Which of several forecasts serves is decided on the device."""
        choices = self._choices(step)
        if self.average is None:
            return self._weigh(choices[0])
        serves = self.choice == torch.arange(len(choices), device=self.average.device)
        newest = self._values[-1][1]
        total = newest
        for back, (_, value) in enumerate(list(self._values)[-2::-1], 2):
            shares = [choice[-back] if len(choice) >= back else 0.0 for choice in choices]
            share = sum(s * serves[k] for k, s in enumerate(shares))
            total = total + share * (value - newest)
        return total

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (value for _, value in self._values)
