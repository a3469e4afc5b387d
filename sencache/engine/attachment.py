"""One pipeline under one policy: which generation is under way."""

from __future__ import annotations

from typing import Any

import torch

from sencache.architectures.base import Architecture
from sencache.engine.run import Observer, Run
from sencache.engine.scheduler import SchedulerWatch
from sencache.forecasts import FORECASTS
from sencache.policies.base import Policy
from sencache.repair import SamplerStep
from sencache.trace import Trace


class Attachment:
    """Follows the generations of `pipe` under `policy`; shared by the pipeline's transformers."""

    def __init__(self, pipe: Any, policy: Policy, trace: Trace, observer: Observer | None) -> None:
        self.pipe, self.policy, self.trace, self.observer = pipe, policy, trace, observer
        self.run: Run | None = None
        self.called = self.doubled = False
        self.scheduler = SchedulerWatch()

    def follow(self) -> None:
        """Watch the scheduler that the pipeline has now."""
        self.scheduler.follow(self.pipe, self._take)

    def current_run(self, architecture: Architecture, latent: torch.Tensor, timestep: torch.Tensor) -> Run:
        """The run in progress. Every pipeline call lays out its timesteps anew: another tensor is another
        run.
        """
        if self.run is None or self.pipe.scheduler.timesteps is not self.scheduler.timesteps:
            self.called = True
            self.drop()
            if not self.scheduler.goes_on:
                self.trace.clear()
            self.follow()
            schedule, first = self.scheduler.begin(timestep)
            self._check_profile(architecture, schedule.timesteps, latent)
            # The batch is doubled, or not, for a whole run, whatever happens to the scale during it.
            scale = getattr(self.pipe, "guidance_scale", 1.0)
            self.doubled = architecture.doubles_batch and scale > 1
            self.run = Run(self.policy, schedule, first, self.trace, self.observer)
        return self.run

    def _check_profile(
        self, architecture: Architecture, timesteps: tuple[float, ...], latent: torch.Tensor
    ) -> None:
        self.policy.require(architecture.name)
        profile = self.policy.profile
        if profile is not None:
            profile.require(architecture.name)
            found = profile.differences(timesteps, latent[0].numel())
            if FORECASTS[self.policy.forecast].fits:
                found += profile.forecast_notes(timesteps)
            self.trace.notes += [note for note in found if note not in self.trace.notes]

    def branches(self, architecture: Architecture) -> int:
        """How many calls this step is going to make: as many as the one before, unless the pipeline says that
        guidance begins or ends.
        """
        assert self.run is not None
        guided = getattr(self.pipe, "do_classifier_free_guidance", None)
        if architecture.doubles_batch or guided is None:
            return self.run.branches_before
        return 2 if guided else 1

    def _take(self, call: SamplerStep, place: int | None) -> Any:
        return call.take() if self.run is None else self.run.take(call, place)

    def drop(self) -> None:
        """Give up the run in progress: the next call starts another, whatever its timesteps."""
        if self.run is not None:
            self.run.release()
        self.run = None

    def leave(self) -> None:
        """Give the pipeline back."""
        self.drop()
        self.scheduler.leave()
