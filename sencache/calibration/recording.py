"""Plain runs on record, and what a policy would have decided along them.

A recording holds distances between the steps of one run and no tensor of the model, so it stays small at any
resolution. `simulate` plays it to a policy's own rule, at no network evaluation: the way to find the setting
that meets a budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from sencache.engine.step import StepState
from sencache.errors import SencacheError
from sencache.policies import METHODS
from sencache.policies.base import Policy, Schedule, Signals, Step, watched
from sencache.policies.senses import Choice, Sense
from sencache.policies.tables import Table
from sencache.trace import Trace

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Recording:
    """One plain run of N steps of one sample, as the `tables` that senses ask for: [N] or [N, N] numbers.

    `handovers`: the steps at which another transformer took over, so that there is nothing to reuse.
    `blocks`: how many the transformer has.
    """

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...] | None
    tables: Mapping[str, Array]
    handovers: tuple[int, ...] = ()
    blocks: int = 1

    @property
    def schedule(self) -> Schedule:
        """The steps of the recorded run."""
        return Schedule(self.timesteps, self.sigmas)


def simulate(policy: Policy, recording: Recording) -> Trace:
    """The trace that `policy` would have left, had each reuse been exact."""
    trace, computed, rule = Trace(), list[int](), policy.start(recording.schedule)
    cost = policy.cost(recording.blocks)
    choice = Choice(policy.target, policy.forecaster(recording.schedule))
    for step in recording.schedule:
        read = partial(_read, policy, choice, recording, step.index, computed)
        cached = not policy.caches or step.index not in recording.handovers
        decision = rule.decide(step, read, cached=cached)
        trace.records.append(decision.record(step, cost))
        if not decision.reuse:
            computed.append(step.index)
    return trace


def _read(
    policy: Policy, choice: Choice, recording: Recording, step: int, computed: Sequence[int]
) -> Signals:
    signals: dict[str, float] = {}
    for sense in policy.senses:
        signals |= sense.read(recording, choice, step, computed)
    return signals


def all_watched() -> set[tuple[type[Sense], str]]:
    """What every method looks at, with the target that it reuses by default."""
    return {pair for method in METHODS.values() for pair in watched(method)}


class Recorder:
    """An observer that records one sample's run.

    `signal` names the tensor of the network that the policies look at, None where none does; `watch` are the
    senses whose tables are kept, each with the target that is reused. What they keep lies on the device until
    `recording` is asked for.
    """

    def __init__(self, signal: str | None, watch: Iterable[tuple[type[Sense], str]] = ()) -> None:
        self.signal = signal
        self._tables: dict[str, Table] = {}
        for sense, target in watch:
            self._tables |= sense.tables(target)
        self._timesteps: list[float] = []
        self._sigmas: list[float | None] = []
        self._transformers: list[int] = []
        self._blocks = 1
        self._recording: Recording | None = None

    def observe(self, scene: StepState) -> None:
        """Note what the step shows of the prompt; raises SencacheError for a batch of several videos."""
        if len(scene.latent) != 1:
            raise SencacheError(
                f"only one video at a time can be recorded, not {len(scene.latent)}; make them one by one"
            )
        self._timesteps.append(scene.step.timestep)
        self._sigmas.append(scene.step.sigma)
        self._transformers.append(scene.transformer)
        self._latent_shape, self._blocks = tuple(scene.latent.shape[1:]), scene.blocks
        for table in self._tables.values():
            if not table.guided:
                table.note(scene)

    def predicted(self, step: Step, prediction: torch.Tensor) -> None:
        """Note what the sampler gets at the step."""
        for table in self._tables.values():
            if table.guided:
                table.note(prediction)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one sample's latent as the transformer sees it."""
        return self._latent_shape

    def recording(self) -> Recording:
        """The run that has ended, as tables on the host; frees every tensor."""
        if self._recording is None:
            self._recording = self._finished()
            self._tables.clear()
        return self._recording

    def _finished(self) -> Recording:
        sigmas = tuple(sigma for sigma in self._sigmas if sigma is not None)
        return Recording(
            timesteps=tuple(self._timesteps),
            sigmas=sigmas if len(sigmas) == len(self._timesteps) else None,
            tables={name: _on_host(table.array()) for name, table in self._tables.items()},
            handovers=tuple(i for i, (a, b) in enumerate(pairwise(self._transformers), 1) if a != b),
            blocks=self._blocks,
        )


def to_host(values: Sequence[torch.Tensor]) -> Array:
    """Equally shaped tensors as one float64 array, in one transfer."""
    return _on_host(torch.stack(list(values)))


def _on_host(values: torch.Tensor) -> Array:
    return np.asarray(values.detach().double().cpu())
