"""Plain runs on record, and what a policy would have decided along them.

A recording keeps the tensors that the engine's sensors look at. `simulate` plays them to a policy through
the very sensors and rules of a live run, at no network evaluation: the way to find the setting that meets a
budget.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from sencache.engine.cache import cached_value
from sencache.engine.run import Run
from sencache.engine.sensors import Scene
from sencache.engine.trace import Trace
from sencache.policies.base import Policy, Schedule


@dataclass
class Recording:
    """First call of every step of one plain run: tensors batch first, one list entry per step."""

    timesteps: list[float] = field(default_factory=list)
    sigmas: list[float | None] = field(default_factory=list)
    latents: list[torch.Tensor] = field(default_factory=list)
    signals: list[torch.Tensor | None] = field(default_factory=list)
    residuals: list[torch.Tensor] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)

    @property
    def schedule(self) -> Schedule:
        """The steps of the recorded run."""
        sigmas = [sigma for sigma in self.sigmas if sigma is not None]
        return Schedule(tuple(self.timesteps), tuple(sigmas) if len(sigmas) == len(self.timesteps) else None)


class Recorder:
    """An observer that fills a recording; `signal` names what TeaCache looks at, None where no policy needs
    it.
    """

    def __init__(self, signal: str | None) -> None:
        self.signal = signal
        self.recording = Recording()

    def observe(self, scene: Scene) -> None:
        """Keep what the step shows of the prompt's own samples."""
        assert scene.residual is not None and scene.output is not None
        record, prompt = self.recording, scene.conditional
        record.timesteps.append(scene.step.timestep)
        record.sigmas.append(scene.step.sigma)
        record.latents.append(scene.latent.clone())
        record.signals.append(None if scene.signal is None else scene.signal[prompt].clone())
        record.residuals.append(scene.residual[prompt].clone())
        record.outputs.append(scene.output[prompt].clone())


def simulate(policy: Policy, recording: Recording) -> Trace:
    """The trace that `policy` would have left, had each reuse been exact."""
    trace = Trace()
    run = Run(policy, recording.schedule, trace, None)
    for index in range(len(recording.timesteps)):
        _play(run, recording, index)
    return trace


def _play(run: Run, recording: Recording, index: int) -> None:
    turn = run.enter("recorded", index)
    scene = Scene(turn.step, recording.latents[index], slice(None), signal=recording.signals[index])
    run.decide(turn, scene, lambda: True)
    if turn.reuse:
        return
    scene.residual, scene.output = recording.residuals[index], recording.outputs[index]
    scene.history = run.history(0, "recorded")
    scene.value = cached_value(run.policy.target, scene.latent, scene.residual, scene.output)
    run.computed(scene)
    if scene.value is not None:
        scene.history.put(turn.step.timestep, scene.value)
