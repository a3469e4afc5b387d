"""Plain runs on record, and what a policy would have decided along them.

A recording holds distances between the steps of one run and no tensor of the model, so it stays small at any
resolution. `simulate` plays it to a policy's own rule, at no network evaluation: the way to find the setting
that meets a budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from sencache.engine.step import StepState
from sencache.errors import SencacheError
from sencache.policies import METHODS
from sencache.policies.base import Policy, Schedule, Signals, Step, watch_list
from sencache.policies.senses import Choice, Sense
from sencache.policies.tables import Table
from sencache.repair import SamplerStep
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
        return Schedule(self.timesteps, self.sigmas)


def simulate(policy: Policy, recording: Recording) -> Trace:
    """The trace that `policy` would have left, had each reuse been exact."""
    trace, computed, rule = Trace(), list[int](), policy.start(recording.schedule)
    cost = policy.cost(recording.blocks)
    choice = Choice(policy.target, policy.forecaster(recording.schedule))
    for step in recording.schedule:

        def read(index: int = step.index) -> Signals:
            shown = (sense.read(recording, choice, index, computed) for sense in policy.senses)
            return {name: value for signals in shown for name, value in signals.items()}

        cached = not policy.caches or step.index not in recording.handovers
        decision = rule.decide(step, read, cached=cached)
        trace.add(decision.record(step, cost))
        if not decision.reuse:
            computed.append(step.index)
    return trace


def full_watch_list() -> set[tuple[type[Sense], str]]:
    """What every method looks at, with the target that it reuses by default."""
    return {pair for method in METHODS.values() for pair in watch_list(method)}


class Recorder:
    """An observer that records one sample's run.

    `signal` names the tensor of the network that the policies look at, None where none does; `watch` are the
    senses whose tables are kept, each with the target that is reused. What they keep lies on the device until
    `recording` is asked for.
    """

    latent_shape: tuple[int, ...]
    """Of one sample's latent as the transformer sees it."""

    def __init__(self, signal: str | None, watch: Iterable[tuple[type[Sense], str]] = ()) -> None:
        self.signal = signal
        self._tables: dict[str, Table] = {}
        for sense, target in watch:
            self._tables |= sense.tables(target)
        self._steps: list[Step] = []
        self._transformers: list[int] = []
        self._blocks = 1
        self._recording: Recording | None = None

    def observe(self, state: StepState) -> None:
        """Note what the step shows of the prompt; raises SencacheError for a batch of several videos."""
        if len(state.latent) != 1:
            raise SencacheError(
                f"only one video at a time can be recorded, not {len(state.latent)}; make them one by one"
            )
        self._steps.append(state.step)
        self._transformers.append(state.transformer)
        self.latent_shape, self._blocks = tuple(state.latent.shape[1:]), state.blocks
        for table in self._tables.values():
            if not table.guided:
                table.note(state)

    def note_prediction(self, step: Step, call: SamplerStep) -> None:
        for table in self._tables.values():
            if table.guided:
                table.note(call.prediction)

    def recording(self) -> Recording:
        """The run that has ended, as tables on the host; frees every tensor."""
        if self._recording is None:
            sigmas = tuple(step.sigma for step in self._steps if step.sigma is not None)
            self._recording = Recording(
                timesteps=tuple(step.timestep for step in self._steps),
                sigmas=sigmas if len(sigmas) == len(self._steps) else None,
                tables={name: to_host([table.array()])[0] for name, table in self._tables.items()},
                handovers=tuple(i for i, (a, b) in enumerate(pairwise(self._transformers), 1) if a != b),
                blocks=self._blocks,
            )
            self._tables.clear()
        return self._recording


def to_host(values: Sequence[torch.Tensor]) -> Array:
    """Equally shaped tensors as one float64 array, in one transfer."""
    return np.asarray(torch.stack(list(values)).detach().double().cpu())
