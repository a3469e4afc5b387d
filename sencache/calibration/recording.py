"""Plain runs on record, and what a policy would have decided along them.

A recording holds distances between the steps of one run and no tensor of the model, so it stays small at any
resolution. `simulate` plays it to a policy's own rule, at no network evaluation: the way to find the setting
that meets a budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from sencache.engine.cache import cached_value
from sencache.engine.sensors import Scene, mean_abs, relative_l1, rms
from sencache.errors import SencacheError
from sencache.policies.base import Policy, Schedule, Sense, Signals, Target
from sencache.trace import Trace

Array = np.ndarray[Any, np.dtype[np.float64]]
Reading = Callable[["Recording", Policy, int, Sequence[int]], Signals]

# Forecast errors are known between computed steps that lie within so many steps.
SPAN = 16
# Elements that are copied to float64 at a time.
PIECE = 2**22


@dataclass(frozen=True)
class Recording:
    """One plain run of N steps of one sample, as distances between steps.

    `latent_rms`, `latent_l1`, `output_l1`: [N, N], of any two steps, root mean square and mean absolute.
    `output_norm`: [N], mean absolute output. `signal_change`: [N], relative L1 change of TeaCache's signal
    from the step before, 0 for the first. `products`: per target, [N, N] inner products of the value's
    changes into any two steps, NaN more than SPAN apart; `norms`: per target, [N] squared norms. `handovers`:
    the steps at which another transformer took over, so that there is nothing to reuse.
    """

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...] | None
    latent_rms: Array
    latent_l1: Array
    output_l1: Array
    output_norm: Array
    signal_change: Array
    products: Mapping[Target, Array] = field(default_factory=dict)
    norms: Mapping[Target, Array] = field(default_factory=dict)
    handovers: tuple[int, ...] = ()

    @property
    def schedule(self) -> Schedule:
        """The steps of the recorded run."""
        return Schedule(self.timesteps, self.sigmas)

    def forecast_error(self, policy: Policy, computed: Sequence[int]) -> float:
        """|v_c - v_hat| / |v_c| of the newest of the `computed` steps, forecast as `policy` would have.

        The miss is a weighted sum of changes from step to step, so its norm follows from their inner
        products: infinite where they reach too far back to be known.
        """
        newest, weights = computed[-1], np.zeros(len(self.timesteps))
        if policy.forecast == "linear":
            a, b = computed[-3], computed[-2]
            t = self.timesteps
            weights[a + 1 : b + 1] = (t[newest] - t[b]) / (t[a] - t[b])
        else:
            a = b = computed[-2]
        weights[b + 1 : newest + 1] = 1.0
        span = slice(a + 1, newest + 1)
        missed = weights[span] @ self.products[policy.target][span, span] @ weights[span]
        if np.isnan(missed):
            return float("inf")
        return float(np.sqrt(max(missed, 0.0) / self.norms[policy.target][newest]))


def _distance(recording: Recording, policy: Policy, step: int, computed: Sequence[int]) -> Signals:
    return {"dx_rms": float(recording.latent_rms[step, computed[-1]])}


def _change(recording: Recording, policy: Policy, step: int, computed: Sequence[int]) -> Signals:
    return {"relative_l1": float(recording.signal_change[step])}


def _rate(recording: Recording, policy: Policy, step: int, computed: Sequence[int]) -> Signals:
    before, last = computed[-2:]
    return {
        "input_change": float(recording.latent_l1[step, step - 1]),
        "output_norm": float(recording.output_norm[last]),
        "rate": float(recording.output_l1[last, before] / recording.latent_l1[last, before]),
    }


def _error(recording: Recording, policy: Policy, step: int, computed: Sequence[int]) -> Signals:
    return {"forecast_error": recording.forecast_error(policy, computed)}


READINGS: Mapping[Sense, Reading] = {
    "dx_rms": _distance,
    "relative_l1": _change,
    "output_rate": _rate,
    "forecast_error": _error,
}


def simulate(policy: Policy, recording: Recording) -> Trace:
    """The trace that `policy` would have left, had each reuse been exact."""
    trace, computed, rule = Trace(), list[int](), policy.start(recording.schedule)
    for step in recording.schedule:
        read = partial(_read, policy, recording, step.index, computed)
        cached = not policy.caches or step.index not in recording.handovers
        decision = rule.decide(step, read, cached=cached)
        trace.records.append(decision.record(step))
        if not decision.reuse:
            computed.append(step.index)
    return trace


def _read(policy: Policy, recording: Recording, step: int, computed: Sequence[int]) -> Signals:
    signals: dict[str, float] = {}
    for sense in policy.senses:
        signals |= READINGS[sense](recording, policy, step, computed)
    return signals


class Recorder:
    """An observer that records one sample's run.

    `signal` names what TeaCache looks at, None where no policy needs it; `targets` are the values whose
    forecast errors are to be known. Until `recording` is asked for, all latents and outputs are kept, and of
    each target the last SPAN changes and the newest value.
    """

    def __init__(self, signal: str | None, targets: Collection[Target] = ()) -> None:
        self.signal = signal
        self._timesteps: list[float] = []
        self._sigmas: list[float | None] = []
        self._latents: list[torch.Tensor] = []
        self._outputs: list[torch.Tensor] = []
        self._changes: list[torch.Tensor] = []
        self._last_signal: torch.Tensor | None = None
        self._transformers: list[int] = []
        self._targets = {target: _Changes() for target in targets}
        self._recording: Recording | None = None

    def observe(self, scene: Scene) -> None:
        """Note what the step shows of the prompt; raises SencacheError for a batch of several videos."""
        assert scene.output is not None
        if len(scene.latent) != 1:
            raise SencacheError(
                f"only one video at a time can be recorded, not {len(scene.latent)}; make them one by one"
            )
        output = scene.output[scene.conditional]
        self._timesteps.append(scene.step.timestep)
        self._sigmas.append(scene.step.sigma)
        self._transformers.append(scene.transformer)
        self._latent_shape = tuple(scene.latent.shape[1:])
        self._latents.append(scene.latent.clone())
        self._outputs.append(output.clone())
        self._note_signal(scene)
        for target, changes in self._targets.items():
            residual = None if scene.residual is None else scene.residual[scene.conditional]
            value = cached_value(target, scene.latent, residual, output)
            assert value is not None
            changes.add(value)

    def _note_signal(self, scene: Scene) -> None:
        now, before = None if scene.signal is None else scene.signal[scene.conditional], self._last_signal
        known = now is not None and before is not None
        nothing = torch.zeros((), device=scene.latent.device)
        self._changes.append(relative_l1(now, before)[0] if known else nothing)  # type: ignore[arg-type]
        self._last_signal = None if now is None else now.clone()

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one sample's latent as the transformer sees it."""
        return self._latent_shape

    def recording(self) -> Recording:
        """The run that has ended, as tables on the host; frees every tensor."""
        if self._recording is None:
            self._recording = self._tables()
            for kept in (self._latents, self._outputs, self._changes, self._targets):
                kept.clear()
            self._last_signal = None
        return self._recording

    def _tables(self) -> Recording:
        sigmas = tuple(sigma for sigma in self._sigmas if sigma is not None)
        return Recording(
            timesteps=tuple(self._timesteps),
            sigmas=sigmas if len(sigmas) == len(self._timesteps) else None,
            latent_rms=_pairwise(self._latents, rms),
            latent_l1=_pairwise(self._latents, mean_abs),
            output_l1=_pairwise(self._outputs, mean_abs),
            output_norm=to_host([mean_abs(output)[0] for output in self._outputs]),
            signal_change=to_host(self._changes),
            products={target: changes.products() for target, changes in self._targets.items()},
            norms={target: to_host(changes.norms) for target, changes in self._targets.items()},
            handovers=tuple(i for i, (a, b) in enumerate(pairwise(self._transformers), 1) if a != b),
        )


class _Changes:
    """Inner products of one value's changes from step to step."""

    def __init__(self) -> None:
        self.norms: list[torch.Tensor] = []
        self._newest: torch.Tensor | None = None
        self._window: deque[torch.Tensor] = deque()
        self._rows: list[torch.Tensor] = []

    def add(self, value: torch.Tensor) -> None:
        if len(self._window) == SPAN:
            # Before the next one is made: at the size of a large model they are most of the memory in use.
            self._window.popleft()
        self._window.append(torch.zeros_like(value) if self._newest is None else value - self._newest)
        self._newest = value.clone() if self._newest is None else self._newest.copy_(value)
        self.norms.append(_dot(value, value))
        self._rows.append(torch.stack([_dot(self._window[-1], other) for other in self._window]))

    def products(self) -> Array:
        table = np.full((len(self._rows),) * 2, np.nan)
        for i, row in enumerate(self._rows):
            within = slice(i + 1 - len(row), i + 1)
            table[i, within] = table[within, i] = row.cpu().numpy()
        return table


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    # In float64 throughout: a small miss is the difference of large products. In pieces:
    # a large model's residual would take gigabytes in float64.
    a, b = a.flatten(), b.flatten()
    pieces = [slice(start, start + PIECE) for start in range(0, len(a), PIECE)]
    return torch.stack([torch.dot(a[piece].double(), b[piece].double()) for piece in pieces]).sum()


def _pairwise(tensors: Sequence[torch.Tensor], size: Callable[[torch.Tensor], torch.Tensor]) -> Array:
    stacked = torch.cat(list(tensors))
    return to_host([size(stacked - one) for one in tensors])


def to_host(values: Sequence[torch.Tensor]) -> Array:
    """Equally shaped tensors as one float64 array, in one transfer."""
    return np.asarray(torch.stack([value.detach() for value in values]).double().cpu())
