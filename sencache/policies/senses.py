"""What rules look at: how a number is measured live, kept of a full run, and read from what was kept.

A sense follows the first call of every step. Nothing is brought to the host until a rule asks, and then
everything in one transfer, so a scored step costs one synchronisation and any other step none. Batches are
decided on their worst sample.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from sencache.errors import SencacheError
from sencache.forecasts import NEWEST, Forecast
from sencache.measures import mean_abs, relative_l1, rms
from sencache.policies.steps import Schedule, Signals, Step
from sencache.policies.tables import (
    Distances,
    InnerProducts,
    Products,
    Sizes,
    StepChanges,
    Table,
    squared_norm,
)
from sencache.policies.targets import TARGETS

if TYPE_CHECKING:
    from torch import Tensor


class Seen(Protocol):
    """The first call of a step as a sense sees it; tensors are batch first.

    `conditional` selects the samples of the prompt itself where guidance doubles the batch, `latent` is
    reduced to them. `signal` is the tensor that the policy named, `head` what the first block added to the
    hidden states. The rest is there once the step is computed: the block stack's `residual`, the network's
    `output`, the `value` that is going to be kept and the `history` of those before it.
    """

    step: Step
    latent: Tensor
    conditional: slice
    signal: Tensor | None
    head: Tensor | None
    residual: Tensor | None
    output: Tensor | None
    value: Tensor | None
    history: Any


class Recorded(Protocol):
    """A full run as its tables tell it."""

    @property
    def tables(self) -> Mapping[str, Any]:
        """[N] or [N, N] arrays, by the names that senses give them."""

    @property
    def schedule(self) -> Schedule:
        """Its steps."""

    @property
    def handovers(self) -> Sequence[int]:
        """The steps at which another transformer took over."""


@dataclass(frozen=True)
class Choice:
    """What a policy reuses, and how in the run at hand."""

    target: str
    forecast: Forecast


class Sense(ABC):
    """One kind of measurement; an instance serves one run.

    `words`: what people call each signal. `first_block`: whether the first block must have run before the
    decision.
    """

    words: ClassVar[Mapping[str, str]]
    first_block: ClassVar[bool] = False

    def arrive(self, seen: Seen) -> None:
        """Every step, before the decision."""

    @abstractmethod
    def values(self) -> dict[str, Tensor]:
        """The signals at this step as 0-d tensors."""

    def note_computed(self, seen: Seen) -> None:
        """Every computed step, once its first call has returned and before its value is cached."""

    def note_prediction(self, step: Step, prediction: Tensor, history: Any) -> None:
        """Every computed step, where the guided prediction, [B, ...], is reused; before it is cached."""

    def tensors(self) -> Iterable[Tensor | None]:
        """What is kept from step to step."""
        return ()

    @classmethod
    @abstractmethod
    def tables(cls, target: str) -> Mapping[str, Table]:
        """What a full run must be recorded in, for policies that reuse `target`."""

    @classmethod
    @abstractmethod
    def read(cls, run: Recorded, choice: Choice, step: int, computed: Sequence[int]) -> Signals:
        """The signals at `step` of the recorded run, the steps in `computed` having been computed."""

    @classmethod
    def liveliest(cls, profile: Any) -> Signals:
        """The largest signals that a run can show; under them no sound setting reuses every step. 1 unless
        said otherwise: a change, or an error, by the full size of what changes.
        """
        return dict.fromkeys(cls.words, 1.0)


class LatentDistance(Sense):
    """`dx_rms`: RMS distance of the latent to that of the last computed step, per element of one sample."""

    words: ClassVar[Mapping[str, str]] = {"dx_rms": "distance of the latent"}

    def __init__(self) -> None:
        self._now: Tensor | None = None
        self._reference: Tensor | None = None

    def arrive(self, seen: Seen) -> None:
        self._now = seen.latent

    def values(self) -> dict[str, Tensor]:
        assert self._now is not None and self._reference is not None
        return {"dx_rms": rms(self._now - self._reference).amax()}

    def note_computed(self, seen: Seen) -> None:
        self._reference = kept(self._reference, seen.latent)

    def tensors(self) -> Iterable[Tensor | None]:
        return (self._reference,)

    @classmethod
    def tables(cls, target: str) -> Mapping[str, Table]:
        return {"latent_rms": Distances(_latent, rms)}

    @classmethod
    def read(cls, run: Recorded, choice: Choice, step: int, computed: Sequence[int]) -> Signals:
        return {"dx_rms": float(run.tables["latent_rms"][step, computed[-1]])}

    @classmethod
    def liveliest(cls, profile: Any) -> Signals:
        # Latents have an RMS of about 1, so none is 10 away from another.
        return {"dx_rms": 10.0}


class StepChange(Sense):
    """Relative L1 change, from every step to the next, of what `look` shows: mean|s_i - s_{i-1}| /
    mean|s_{i-1}|. `words` has its one signal, `table` the name of what is recorded of it.
    """

    table: ClassVar[str]

    def __init__(self) -> None:
        self._before: Tensor | None = None
        self._change: Tensor | None = None

    @staticmethod
    @abstractmethod
    def look(seen: Seen) -> Tensor | None:
        """What changes."""

    def arrive(self, seen: Seen) -> None:
        now = self.look(seen)
        if now is None:
            raise SencacheError(
                f"there is no {', '.join(self.words.values())} to see in this model and its scheduler; "
                "choose another method"
            )
        if self._before is not None:
            self._change = relative_l1(now, self._before).amax()
        self._before = now

    def values(self) -> dict[str, Tensor]:
        assert self._change is not None
        return dict.fromkeys(self.words, self._change)

    def tensors(self) -> Iterable[Tensor | None]:
        return (self._before,)

    @classmethod
    def tables(cls, target: str) -> Mapping[str, Table]:
        return {cls.table: StepChanges(lambda seen: _of_prompt(cls.look(seen), seen))}

    @classmethod
    def read(cls, run: Recorded, choice: Choice, step: int, computed: Sequence[int]) -> Signals:
        return dict.fromkeys(cls.words, float(run.tables[cls.table][step]))


class SignalChange(StepChange):
    """`relative_l1`: that of the policy's signal."""

    words: ClassVar[Mapping[str, str]] = {"relative_l1": "change of the embedding"}
    table = "signal_change"

    @staticmethod
    def look(seen: Seen) -> Tensor | None:
        return seen.signal

    @classmethod
    def liveliest(cls, profile: Any) -> Signals:
        fit = profile.teacache if profile else None
        return {"relative_l1": fit.liveliest() if fit else 1.0}


class OutputRate(Sense):
    """EasyCache's three: `input_change` to the previous step, `output_norm` of the last computed step and the
    `rate` of output change per input change between the last two; all mean absolute values, of the sample
    with the largest product."""

    words: ClassVar[Mapping[str, str]] = {
        "input_change": "change of the latent",
        "output_norm": "size of the output",
        "rate": "learnt rate",
    }

    def __init__(self) -> None:
        self._before: Tensor | None = None
        self._change: Tensor | None = None
        self._latent: Tensor | None = None
        self._output: Tensor | None = None
        self._rate: Tensor | None = None

    def arrive(self, seen: Seen) -> None:
        if self._before is not None:
            self._change = mean_abs(seen.latent - self._before)
        self._before = kept(self._before, seen.latent)

    def values(self) -> dict[str, Tensor]:
        assert self._change is not None and self._output is not None and self._rate is not None
        norm = mean_abs(self._output)
        worst = (self._rate * self._change / norm).argmax()
        found = {"input_change": self._change, "output_norm": norm, "rate": self._rate}
        # An index in brackets would be brought to the host, and the device waited for.
        return {name: value.index_select(0, worst).squeeze(0) for name, value in found.items()}

    def note_computed(self, seen: Seen) -> None:
        assert seen.output is not None
        output = seen.output[seen.conditional]
        if self._output is not None and self._latent is not None:
            self._rate = mean_abs(output - self._output) / mean_abs(seen.latent - self._latent)
        self._output, self._latent = output, kept(self._latent, seen.latent)

    def tensors(self) -> Iterable[Tensor | None]:
        return (self._before, self._latent, self._output)

    @classmethod
    def tables(cls, target: str) -> Mapping[str, Table]:
        return {
            "latent_l1": Distances(_latent, mean_abs),
            "output_l1": Distances(_output, mean_abs),
            "output_norm": Sizes(_output, mean_abs),
        }

    @classmethod
    def read(cls, run: Recorded, choice: Choice, step: int, computed: Sequence[int]) -> Signals:
        (before, last), tables = computed[-2:], run.tables
        return {
            "input_change": float(tables["latent_l1"][step, step - 1]),
            "output_norm": float(tables["output_norm"][last]),
            "rate": float(tables["output_l1"][last, before] / tables["latent_l1"][last, before]),
        }


class ForecastError(Sense):
    """`forecast_error`: |v - v_hat| / |v| of the last computed step against the forecast that reuse would
    have made of it. Where one of three forecasts serves, `miss_1` to `miss_3` are the same of each, and
    `choice`, from 0, tells which missed least of late.
    """

    words: ClassVar[Mapping[str, str]] = {
        "forecast_error": "error of the last forecast",
        "choice": "forecast in use",
        **{f"miss_{k}": f"error of forecast {k}" for k in (1, 2, 3)},
    }

    def __init__(self) -> None:
        self._error: Tensor | None = None
        self._history: Any = None

    def values(self) -> dict[str, Tensor]:
        if self._error is not None:
            return {"forecast_error": self._error}
        misses = {f"miss_{k}": miss for k, miss in enumerate(self._history.misses.unbind(), 1)}
        return {"choice": self._history.choice.to(misses["miss_1"].dtype), **misses}

    def note_computed(self, seen: Seen) -> None:
        if seen.value is not None:
            self._measure(seen.step, seen.value, seen.history, seen.conditional)

    def note_prediction(self, step: Step, prediction: Tensor, history: Any) -> None:
        self._measure(step, prediction, history, slice(None))

    def _measure(self, step: Step, value: Tensor, history: Any, conditional: slice) -> None:
        if history.several:
            self._history = history
        elif history.complete:
            missed = value - history.forecast(step)
            self._error = (rms(missed[conditional]) / rms(value[conditional])).amax()

    @classmethod
    def tables(cls, target: str) -> Mapping[str, Table]:
        if TARGETS[target].guided:
            return {"predictions": InnerProducts()}

        def value(seen: Seen) -> Tensor:
            residual, head = _of_prompt(seen.residual, seen), _of_prompt(seen.head, seen)
            output = _output(seen)
            assert output is not None
            return TARGETS[target].of_full_run(seen.latent, residual, head, output)

        return {f"products.{target}": Products(value), f"norms.{target}": Sizes(value, squared_norm)}

    @classmethod
    def read(cls, run: Recorded, choice: Choice, step: int, computed: Sequence[int]) -> Signals:
        forecast = choice.forecast
        # What the transformer before has left is no node.
        first = max((place for place in run.handovers if place <= computed[-1]), default=0)
        computed = [index for index in computed if index >= first]
        if not forecast.several:
            return {"forecast_error": _misses(run, choice, computed)[0]}
        average: list[float] = []
        for count in range(3, len(computed) + 1):
            misses = _misses(run, choice, computed[:count])
            logs = [math.log(min(max(miss, 1e-9), 1e9)) for miss in misses]
            average = [a + NEWEST * (b - a) for a, b in zip(average or logs, logs, strict=True)]
        return {
            "choice": float(average.index(min(average))),
            **{f"miss_{k}": m for k, m in enumerate(misses, 1)},
        }


def _misses(run: Recorded, choice: Choice, computed: Sequence[int]) -> list[float]:
    """How far each forecast of the last computed step, from those before it, is from its value."""
    forecast, newest = choice.forecast, computed[-1]
    nodes = computed[-2 - forecast.order : -1]
    places = [forecast.position(run.schedule.step(index)) for index in (*nodes, newest)]
    return [
        _miss(run, choice.target, nodes[-len(weights) :], weights, newest)
        for weights in forecast.choices(places[:-1], places[-1])
    ]


def _miss(run: Recorded, target: str, nodes: Sequence[int], weights: Sequence[float], newest: int) -> float:
    """The miss is a weighted sum of values, or of changes from step to step, so its norm follows from their
    inner products: infinite where they reach too far back to be known.
    """
    if TARGETS[target].guided:
        products, chosen, signed = run.tables["predictions"], [*nodes, newest], [*weights, -1.0]
        missed = float((products[chosen][:, chosen] @ signed) @ signed)
        return math.sqrt(max(missed, 0.0) / float(products[newest, newest]))
    # Every change since the oldest node is missed but for the weights of the nodes that it led to.
    since = range(nodes[0] + 1, newest + 1)
    share = [1.0 - sum(w for w, node in zip(weights, nodes, strict=True) if node >= k) for k in since]
    span = slice(since.start, since.stop)
    missed = float((run.tables[f"products.{target}"][span, span] @ share) @ share)
    if math.isnan(missed):
        return math.inf
    return math.sqrt(max(missed, 0.0) / float(run.tables[f"norms.{target}"][newest]))


def _latent(seen: Seen) -> Tensor | None:
    return seen.latent


def _output(seen: Seen) -> Tensor | None:
    return _of_prompt(seen.output, seen)


def _of_prompt(value: Tensor | None, seen: Seen) -> Tensor | None:
    # The latent is reduced to the prompt already; where guidance doubles the batch the prompt's half is last.
    return None if value is None else value[-len(seen.latent) :]


def kept(buffer: Tensor | None, value: Tensor) -> Tensor:
    """A copy: the pipeline's callback may hand back a latent that it then changes in place. The first latent
    of a run may have another precision than those that the scheduler returns.
    """
    if buffer is None or buffer.dtype != value.dtype:
        return value.clone()
    return buffer.copy_(value)
