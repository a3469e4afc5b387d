"""What is measured along a run: how much the network changes with its latent and with its timestep.

Both alphas are per element: RMS change of the network per RMS change of the latent, and per unit of t on
0..1000 (SenCache, arXiv 2602.24208, section 4).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from sencache.calibration.clips import Noising
from sencache.calibration.recording import Array, Recorder, full_watch_list, to_host
from sencache.engine.step import Evaluated, StepState
from sencache.errors import SencacheError
from sencache.measures import relative_l1, rms
from sencache.policies.senses import ForecastError
from sencache.policies.steps import Step
from sencache.repair import SamplerStep

Measured = Literal["output", "residual"]


class Survey(Recorder):
    """A recorder that also measures what a profile holds of one plain run; `signal` as there.

    The sensitivities of `target`, where one is given, take one extra evaluation per step: every step after
    the first evaluates the network once more, at the new latent and the old timestep: `g = f(x_{k+1}, t_k)`.
    It splits the change of the network in two: `alpha_x(t_k) = |g - f_k| / |x_{k+1} - x_k|` and
    `alpha_t(t_k) = |f_{k+1} - g| / |t_{k+1} - t_k|`.
    """

    def __init__(self, signal: str | None, target: Measured | None) -> None:
        super().__init__(signal, full_watch_list() | {(ForecastError, "prediction")})
        self.target, self.evaluations = target, 0
        self._alphas: list[torch.Tensor] = []
        self._magnitudes: list[torch.Tensor] = []
        self._before: tuple[float, torch.Tensor, Evaluated] | None = None

    def observe(self, state: StepState) -> None:
        super().observe(state)
        now = prompt_evaluation(state)
        if self._before is not None:
            timestep, latent, before = self._before
            ratio = token_ratio(now.residual, before.residual)
            self._magnitudes.append(torch.stack([ratio, relative_l1(now.output, before.output)[0]]))
            if self.target is not None:
                assert state.rerun is not None
                crossed = state.rerun(timestep).of(state.conditional)
                self.evaluations += 1
                along_x = change(self.target, crossed, before) / size(state.latent - latent)
                along_t = change(self.target, now, crossed) / distance(timestep, state.step.timestep)
                self._alphas.append(torch.stack([along_x, along_t]))
        self._before = state.step.timestep, state.latent.clone(), now

    def alphas(self) -> Array:
        """[N-1, 2]: alpha_x and alpha_t at every step but the last, which leads nowhere; 0 without target."""
        return to_host(self._alphas) if self._alphas else np.zeros((len(self._magnitudes), 2))

    def magnitudes(self) -> Array:
        """[N-1, 2], into every step but the first: mean over tokens of the residual's norm over its norm one
        step earlier (arXiv 2506.09045), and relative L1 change of the output.
        """
        return to_host(self._magnitudes)


class Noised:
    """Sensitivities at noised latents of a real clip, as the SenCache paper measures them.

    Every step begins at `x = add_noise(x_0, t_k)`, whatever the sampler made of the step before. Two more
    evaluations: `alpha_x(t_k) = |f(x', t_k) - f(x, t_k)| / |x' - x|` with x' one plain solver step from x,
    and `alpha_t(t_k) = |f(x, t_{k+1}) - f(x, t_k)| / |t_{k+1} - t_k|`.
    """

    signal: str | None = None

    def __init__(self, target: Measured, noising: Noising) -> None:
        self.target, self.noising, self.evaluations = target, noising, 0
        self._alphas: list[torch.Tensor] = []

    def observe(self, state: StepState) -> None:
        step = state.step
        if step.index + 1 == step.total:
            return
        assert state.rerun is not None
        now, x = prompt_evaluation(state), state.latent
        following = self.noising.timestep(step.index + 1)
        moved = self.noising.advance(x, now.output, step.index)
        at_moved = state.rerun(step.timestep, moved).of(state.conditional)
        later = state.rerun(following).of(state.conditional)
        self.evaluations += 2
        along_x = change(self.target, at_moved, now) / size(moved - x)
        along_t = change(self.target, later, now) / distance(step.timestep, following)
        self._alphas.append(torch.stack([along_x, along_t]))

    def note_prediction(self, step: Step, call: SamplerStep) -> None:
        """Of no use: the latent is not the sampler's own."""

    def alphas(self) -> Array:
        """[N-1, 2]: alpha_x and alpha_t at every step but the last, which leads nowhere."""
        return to_host(self._alphas)


def prompt_evaluation(state: StepState) -> Evaluated:
    """What the step's own forward gave for the prompt."""
    assert state.residual is not None and state.output is not None
    return Evaluated(state.residual, state.output).of(state.conditional)


def size(difference: torch.Tensor) -> torch.Tensor:
    return rms(difference)[0].clamp_min(1e-12)


def change(target: Measured, now: Evaluated, before: Evaluated) -> torch.Tensor:
    """RMS difference of the target, 0-d."""
    return rms(getattr(now, target) - getattr(before, target))[0]


def distance(timestep: float, following: float) -> float:
    """|t' - t|; raises SencacheError where the scheduler stands still."""
    if timestep == following:
        raise SencacheError(
            f"calibration needs distinct timesteps, and the scheduler repeats {timestep:g}; "
            "use a scheduler that visits each once"
        )
    return abs(timestep - following)


def token_ratio(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """[1, tokens, width] twice -> 0-d."""
    sizes = [torch.linalg.vector_norm(residual, dim=-1, dtype=torch.float32) for residual in (now, before)]
    ratio: torch.Tensor = (sizes[0] / sizes[1].clamp_min(1e-8)).mean()
    return ratio
