"""What the pipeline's scheduler tells: the schedule, the end of a step, and latents at its own precision."""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch

from sencache.policies.base import Schedule
from sencache.repair import SamplerStep

Method = Callable[..., Any]


class Watched:
    """Stands before one method of one scheduler: whoever calls it calls `instead(method, args, kwargs)`.

    Set on the instance; a copy of the scheduler gets its own method back.
    """

    def __init__(self, scheduler: Any, name: str, instead: Method) -> None:
        functools.update_wrapper(self, getattr(scheduler, name))
        self._method, self._owner = getattr(scheduler, name), scheduler.__dict__
        self.name, self._instead = name, instead
        self._before = {name: self._owner[name]} if name in self._owner else {}
        self._owner[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._instead(self._method, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self._method, memo)

    def leave(self) -> None:
        """Do nothing more; whoever put another method in this one's place meanwhile keeps it."""
        self._instead = lambda method, args, kwargs: method(*args, **kwargs)
        if self._owner.get(self.name) is self:
            del self._owner[self.name]
            self._owner.update(self._before)


class SchedulerWatch:
    """Follows the steps of one scheduler after another; holds no tensor alive but the timesteps."""

    def __init__(self) -> None:
        self._watched: list[Watched] = []
        self._latest: weakref.ref[torch.Tensor] | None = None
        self.timesteps: torch.Tensor | None = None
        self.pipe: Any = None
        self.goes_on = False

    def follow(self, pipe: Any, take: Callable[[SamplerStep, int | None], Any]) -> None:
        """Watch the scheduler that `pipe` has now, and no other. `take(call, place)` takes every step in its
        stead, with the place of its timestep in the schedule where that is known.
        """
        own = pipe.scheduler.__dict__
        if self._watched and all(own.get(one.name) is one for one in self._watched):
            self._latest = None
            return
        self.leave()

        def step(method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            call = SamplerStep(pipe.scheduler, method, args, kwargs)
            result = take(call, self.place(*args, *kwargs.values()))
            self._latest = weakref.ref(result[0])
            return result

        self.pipe = pipe
        instead = {"step": step, "set_timesteps": self._lay_out}
        self._watched = [
            Watched(pipe.scheduler, name, other)
            for name, other in instead.items()
            if hasattr(pipe.scheduler, name)
        ]

    def leave(self) -> None:
        """Give the scheduler its own methods back."""
        while self._watched:
            self._watched.pop().leave()
        self._latest = None

    def _lay_out(self, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Pipelines forget their timestep when they are called. One that still has it lays out the timesteps
        # again within a call, as for the next window of a long video.
        self.goes_on = getattr(self.pipe, "_current_timestep", None) is not None
        return method(*args, **kwargs)

    def begin(self, given: torch.Tensor) -> tuple[Schedule, int]:
        """The schedule of a run whose first call got the timestep `given`, and how many steps the pipeline
        left out before it, as video-to-video does.
        """
        scheduler, self.timesteps = self.pipe.scheduler, self.pipe.scheduler.timesteps
        first = self.current(given)
        if first is None:
            # Read in one transfer. Tokens of an image are held at timestep 0.
            *timesteps, t = torch.cat([self.timesteps, given.amax().to(self.timesteps).view(1)]).tolist()
            first = min(range(len(timesteps)), key=lambda i: abs(timesteps[i] - t))
        else:
            timesteps = self.timesteps.tolist()
        sigmas = getattr(scheduler, "sigmas", None)
        if sigmas is None or len(sigmas) < len(timesteps):
            return Schedule(tuple(timesteps[first:])), first
        shown = torch.as_tensor(sigmas).tolist()[first : len(timesteps)]
        return Schedule(tuple(timesteps[first:]), tuple(shown)), first

    def current(self, given: torch.Tensor) -> int | None:
        """The place in the schedule of the timestep that the transformer got, if the host knows it."""
        return self.place(given, getattr(self.pipe, "_current_timestep", None))

    def place(self, *candidates: Any) -> int | None:
        """Which of the schedule's timesteps the first of `candidates` is that is one of them in memory:
        pipelines hand on views. Reading values would wait for the device.
        """
        schedule = self.timesteps
        if schedule is None:
            return None
        memory = schedule.untyped_storage().data_ptr()
        for t in candidates:
            single = torch.is_tensor(t) and (t.numel() == 1 or not any(t.stride()))
            if single and t.untyped_storage().data_ptr() == memory:
                return int(t.storage_offset() - schedule.storage_offset()) // schedule.stride(0)
        return None

    def undo_rounding(self, seen: torch.Tensor) -> torch.Tensor:
        """`seen` as the scheduler returned it, if that is what was rounded; decided on the device.

        Pipelines keep float32 latents and round them to the transformer's half precision for every call.
        Distances between two rounded latents are too long where the sampler takes small steps: 1.9 times at
        0.001 RMS in bfloat16. The first latent of a run is known only as rounded: no step made it.
        """
        latest = self._latest() if self._latest is not None else None
        if latest is None or latest.dtype == seen.dtype or latest.shape != seen.shape:
            return seen
        rounded_to_it = torch.eq(latest.to(seen.dtype), seen).all()
        return torch.where(rounded_to_it, latest, seen.to(latest.dtype))
