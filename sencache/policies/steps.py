"""The steps of a run, and the numbers measured at them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Signals = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Step:
    """One iteration of the sampler: `index` of `total`, its timestep on 0..1000 and, where the scheduler has
    one, its sigma.
    """

    index: int
    total: int
    timestep: float
    sigma: float | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """The steps of one run, as the pipeline's scheduler laid them out."""

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.timesteps)

    def __iter__(self) -> Iterator[Step]:
        return (self.step(i) for i in range(len(self)))

    def step(self, index: int) -> Step:
        """The step at `index`; raises IndexError past the end."""
        sigma = self.sigmas[index] if self.sigmas is not None else None
        return Step(index, len(self), self.timesteps[index], sigma)
