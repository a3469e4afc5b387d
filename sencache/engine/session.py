"""One attachment: a pipeline, a policy, and the run in progress. Shared by the pipeline's transformers."""

from __future__ import annotations

from typing import Any

import torch

from sencache.engine.architectures import Architecture
from sencache.engine.run import Observer, Run
from sencache.engine.unrounded import Unrounded
from sencache.policies.base import Policy, Schedule
from sencache.trace import Trace


class Session:
    """Follows the generations of `pipe` under `policy`."""

    def __init__(self, pipe: Any, policy: Policy, trace: Trace, observer: Observer | None) -> None:
        self.pipe, self.policy, self.trace, self.observer = pipe, policy, trace, observer
        self.run: Run | None = None
        self.called = self.doubled = False
        self.unrounded = Unrounded()
        self._timesteps: torch.Tensor | None = None

    def current_run(self, architecture: Architecture, latent: torch.Tensor) -> Run:
        """The run in progress. Every pipeline call lays out its timesteps anew: another tensor is another
        run.
        """
        timesteps = self.pipe.scheduler.timesteps
        if self.run is None or timesteps is not self._timesteps:
            self.called, self._timesteps = True, timesteps
            self.trace.clear()
            schedule = _schedule(self.pipe)
            self._check_profile(architecture, schedule, latent)
            # The batch is doubled, or not, for a whole run, whatever happens to the scale during it.
            self.doubled = len(architecture.branches) == 1 and self.guided()
            self.run = Run(self.policy, schedule, self.trace, self.observer)
            self.unrounded.follow(self.pipe.scheduler)
        return self.run

    def _check_profile(self, architecture: Architecture, schedule: Schedule, latent: torch.Tensor) -> None:
        self.policy.require(architecture.name)
        profile = getattr(self.policy, "profile", None)
        if profile is not None:
            profile.require(architecture.name)
            self.trace.notes += profile.differences(schedule.timesteps, latent[0].numel())

    def guided(self) -> bool:
        """Whether the pipeline evaluates both guidance branches at this step."""
        return bool(getattr(self.pipe, "guidance_scale", 2.0) > 1)

    def drop(self) -> None:
        """Give up the run in progress: the next call starts another, whatever its timesteps."""
        if self.run is not None:
            self.run.release()
        self.run = None
        self.unrounded.leave()


def _schedule(pipe: Any) -> Schedule:
    timesteps = pipe.scheduler.timesteps.tolist()
    # Video-to-video starts part of the way down the schedule.
    total = getattr(pipe, "num_timesteps", None) or len(timesteps)
    skipped = len(timesteps) - total
    sigmas = getattr(pipe.scheduler, "sigmas", None)
    if sigmas is None or len(sigmas) < len(timesteps):
        return Schedule(tuple(timesteps[skipped:]))
    return Schedule(
        tuple(timesteps[skipped:]), tuple(torch.as_tensor(sigmas).tolist()[skipped : len(timesteps)])
    )
