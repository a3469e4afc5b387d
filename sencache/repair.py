"""What a computed step tells about the reused ones before it: going over them again.

Between two computed steps b < c, the steps b+1 … c-1 were forecast from the past. At c the truth is known on
both sides, so they can be interpolated. A sampler's step is elementwise arithmetic: taking it again costs no
evaluation. This is the predict-evaluate-correct scheme of multistep solvers, on the sampler's own grid.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from sencache.errors import SencacheError
from sencache.forecasts import Forecast, Place, weigh
from sencache.measures import rms
from sencache.registry import Registry

if TYPE_CHECKING:
    import torch


NAMES = ("model_output", "timestep", "sample")
# What CogVideoX's DPM sampler returns beside the latent, and gets back at its next step.
CARRIED = "old_pred_original_sample"


@dataclass(frozen=True)
class SamplerStep:
    """One call of `scheduler.step(model_output, timestep, sample, ...)`, not yet made."""

    scheduler: Any
    method: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @cached_property
    def given(self) -> dict[str, Any]:
        """The arguments by the names that the scheduler has for them."""
        given = {**dict(zip(_parameters(self.method), self.args, strict=False)), **self.kwargs}
        if not {"model_output", "sample"} <= given.keys():
            raise SencacheError(
                f"{type(self.scheduler).__name__} takes its steps in a way of its own; set repair=none and "
                "another target than the prediction, or use another sampler"
            )
        return given

    @property
    def prediction(self) -> torch.Tensor:
        """The guided prediction, [B, ...]."""
        value: torch.Tensor = self.given["model_output"]
        return value

    @property
    def latent(self) -> torch.Tensor:
        """The latent before the step, [B, ...]."""
        value: torch.Tensor = self.given["sample"]
        return value

    def using(self, **tensors: Any) -> SamplerStep:
        """The same step with another `model_output` or `sample`."""
        return SamplerStep(self.scheduler, self.method, (), {**self.given, **tensors})

    def take(self) -> Any:
        """Make the call; returns what the scheduler returns, the next latent first."""
        return self.method(*self.args, **self.kwargs)


class Repair(ABC):
    """What is done at a computed step about the reused ones before it; an instance serves one run.

    `closes`: whether the last step has to be computed, for the reused ones before it to be repaired.
    """

    name: ClassVar[str]
    closes: ClassVar[bool] = False

    def __init__(self, forecast: Forecast) -> None:
        self.forecast = forecast

    def take_reused(self, step: Place, call: SamplerStep) -> Any:
        """Take a reused step."""
        return call.take()

    @abstractmethod
    def take_computed(self, step: Place, call: SamplerStep) -> tuple[Any, torch.Tensor | None]:
        """Take a computed step; returns its result and by how much (RMS, 0-d) the latent before it moved, if
        it did.
        """

    def forget(self) -> None:
        """What was computed before is another network's: nothing is interpolated with it."""

    def tensors(self) -> Iterable[torch.Tensor]:
        """What is kept from step to step."""
        return ()

    @property
    def grows(self) -> bool:
        """Whether some of that is going to be dropped at the next computed step."""
        return False


REPAIRS: Registry[type[Repair]] = Registry("repair")


def enter_repair(cls: type[Repair]) -> type[Repair]:
    """Make `cls` a repair that every method can be set to."""
    REPAIRS.enter(cls.name, cls)
    return cls


@enter_repair
class NoRepair(Repair):
    """Reused steps stay as they were taken."""

    name = "none"

    def take_computed(self, step: Place, call: SamplerStep) -> tuple[Any, torch.Tensor | None]:
        return call.take(), None


@dataclass(frozen=True)
class _Reused:
    """A reused step, to be taken again. Where the pipeline had written into the latent before it, `written`
    marks the elements and `latent` holds them. `noise`: the state that its generators were in.
    """

    step: Place
    call: SamplerStep
    dtype: torch.dtype
    written: torch.Tensor | None
    latent: torch.Tensor | None
    noise: list[torch.Tensor]

    def before(self, latent: torch.Tensor) -> torch.Tensor:
        """The replayed `latent` as the pipeline would have handed it to this step."""
        latent = latent.to(self.dtype)
        if self.written is None or self.latent is None:
            return latent
        return self.latent.where(self.written, latent)


@enter_repair
class Replay(Repair):
    """The sampler goes back to the last computed step b and over the reused ones again, with predictions
    interpolated between those at b and c; then it takes step c from there.

    `pending` are the reused steps since b. What a pipeline itself writes into the latent between two steps
    stays as it was written, so conditioning on an image needs nothing of its own; all else is elementwise.
    Nothing is read from the device. Noise that a step draws from the pipeline's generator is drawn again; a
    sampler that takes it from elsewhere is refused.
    """

    name = "replay"
    closes = True

    def __init__(self, forecast: Forecast) -> None:
        super().__init__(forecast)
        self._nodes: deque[tuple[Place, torch.Tensor]] = deque(maxlen=forecast.earlier)
        self.pending: list[_Reused] = []
        self._state: dict[str, Any] = {}
        self._start: tuple[torch.Tensor, ...] = ()
        self._latest: torch.Tensor | None = None
        self._version = 0

    def forget(self) -> None:
        self._nodes.clear()
        self.pending.clear()

    def take_reused(self, step: Place, call: SamplerStep) -> Any:
        self.pending.append(self._note(step, call))
        return self._take_step(call)

    def take_computed(self, step: Place, call: SamplerStep) -> tuple[Any, torch.Tensor | None]:
        correction = None
        if self.pending and self._nodes:
            found, last = call.latent, self._note(step, call)
            replayed = self._replay(step, call)
            call = call.using(sample=last.before(replayed[0]), **_carry(call, replayed))
            correction = rms((call.latent - found).float().unsqueeze(0))[0]
        result = self._take_step(call)
        self.pending.clear()
        self._nodes.append((step, call.prediction))
        self._state, self._start = _state(call.scheduler), result[: 2 if CARRIED in call.given else 1]
        return result, correction

    def _take_step(self, call: SamplerStep) -> Any:
        shared = _shared_generators(call.latent.device) if self._latest is None else []
        before = [generator.get_state() for generator in shared]
        result = call.take()
        if any(not generator.get_state().equal(was) for generator, was in zip(shared, before, strict=True)):
            raise SencacheError(
                f"{type(call.scheduler).__name__} draws noise in its steps that cannot be drawn again; "
                "give the pipeline a generator, use a deterministic sampler, or repair=none"
            )
        self._latest = result[0]
        self._version = _version(result[0])
        return result

    def _note(self, step: Place, call: SamplerStep) -> _Reused:
        latent, latest = call.latent, self._latest
        assert latest is not None
        if latest.shape != latent.shape or _version(latest) != self._version:
            raise SencacheError(
                f"the pipeline changes the latent before step {step.index} in a way that cannot be repeated; "
                "use repair=none"
            )
        bare = call.using(**dict.fromkeys({"model_output", "sample", CARRIED} & call.given.keys()))
        noise = [generator.get_state() for generator in _own_generators(call)]
        if latent.data_ptr() == latest.data_ptr() and latent.dtype == latest.dtype:
            return _Reused(step, bare, latent.dtype, None, None, noise)
        return _Reused(step, bare, latent.dtype, latest.to(latent.dtype) != latent, latent, noise)

    def _replay(self, step: Place, call: SamplerStep) -> tuple[torch.Tensor, ...]:
        nodes = [*self._nodes, (step, call.prediction)]
        places, values = [place for place, _ in nodes], [value for _, value in nodes]
        vars(call.scheduler).update(_state_copy(self._state))
        result = self._start
        for one in self.pending:
            prediction = weigh(values, self.forecast.between(places, one.step))
            again = {"model_output": prediction, "sample": one.before(result[0])}
            for generator, state in zip(_own_generators(call), one.noise, strict=True):
                generator.set_state(state)
            result = one.call.using(**again, **_carry(one.call, result)).take()
        return result

    def tensors(self) -> Iterable[torch.Tensor]:
        yield from (value for _, value in self._nodes)
        yield from (one.latent for one in self.pending if one.latent is not None)
        yield from (one.written for one in self.pending if one.written is not None)
        yield from self._start
        held = [value if isinstance(value, list) else [value] for value in self._state.values()]
        shape = self._start[0].shape if self._start else None
        yield from (one for some in held for one in some if getattr(one, "shape", None) == shape)

    @property
    def grows(self) -> bool:
        return any(one.latent is not None for one in self.pending)


def _state(scheduler: Any) -> dict[str, Any]:
    """What a scheduler knows of the run, but for its methods that are watched: histories are lists that are
    changed in place.
    """
    return _state_copy({name: value for name, value in vars(scheduler).items() if not callable(value)})


def _state_copy(state: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, list) else value for name, value in state.items()}


def _version(latent: torch.Tensor) -> int:
    """Counts changes in place, where they are counted."""
    return 0 if latent.is_inference() else latent._version


def _parameters(method: Callable[..., Any]) -> Sequence[str]:
    """Names of a step's arguments; what wraps one need not say how its own are called."""
    own = _parameters_of(getattr(method, "__func__", method))
    return own if "model_output" in own else NAMES


@cache
def _parameters_of(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def _carry(call: SamplerStep, result: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
    """What the pipeline hands from one step to the next beside the latent."""
    return {CARRIED: result[1]} if CARRIED in call.given else {}


def _own_generators(call: SamplerStep) -> list[torch.Generator]:
    """Those that the pipeline gave its sampler."""
    given = call.given.get("generator")
    return given if isinstance(given, list) else [given] if given is not None else []


def _shared_generators(device: torch.device) -> list[torch.Generator]:
    """Those that anybody may draw from meanwhile."""
    import torch

    index = device.index or 0
    own = torch.cuda.default_generators[index : index + 1] if device.type == "cuda" else ()
    return [torch.default_generator, *own]
