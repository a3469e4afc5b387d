"""How much the network changes with its latent and with its timestep, measured while a pipeline runs.

Both alphas are per element: RMS change of the network per RMS change of the latent, and per unit of t on
0..1000 (SenCache, arXiv 2602.24208, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from sencache.calibration.noising import Noising
from sencache.calibration.recording import Array, to_host
from sencache.engine.run import Observer
from sencache.engine.step import Evaluated, StepState
from sencache.errors import SencacheError
from sencache.measures import relative_l1, rms

Measured = Literal["output", "residual"]


class Together:
    """Several observers of one run. Only one of them may want to see a signal of the network."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = observers
        self.signal = next((observer.signal for observer in observers if observer.signal), None)

    def observe(self, scene: StepState) -> None:
        """Each in turn."""
        for observer in self.observers:
            observer.observe(scene)


class Trajectory:
    """Sensitivities along the pipeline's own run, at one extra evaluation per step.

    Every step after the first evaluates the network once more, at the new latent and the old timestep:
    `g = f(x_{k+1}, t_k)`. It splits the change of the network in two: `alpha_x(t_k) = |g - f_k| / |x_{k+1} -
    x_k|` and `alpha_t(t_k) = |f_{k+1} - g| / |t_{k+1} - t_k|`. The run itself stays a plain one.
    """

    signal: str | None = None
    evaluations = 0

    def __init__(self, target: Measured) -> None:
        self.target = target
        self._alphas: list[torch.Tensor] = []
        self._before: tuple[float, torch.Tensor, Evaluated] | None = None

    def observe(self, scene: StepState) -> None:
        """Compare the step with the one before."""
        assert scene.rerun is not None
        now = evaluated(scene)
        if self._before is not None:
            timestep, latent, before = self._before
            crossed = scene.rerun(timestep).of(scene.conditional)
            self.evaluations += 1
            along_x = change(self.target, crossed, before) / rms(scene.latent - latent)[0].clamp_min(1e-12)
            along_t = change(self.target, now, crossed) / distance(timestep, scene.step.timestep)
            self._alphas.append(torch.stack([along_x, along_t]))
        self._before = scene.step.timestep, scene.latent.clone(), now

    def alphas(self) -> Array:
        """[steps - 1, 2]: alpha_x and alpha_t at every step but the last, which leads nowhere."""
        return to_host(self._alphas)


class Noised:
    """Sensitivities at noised latents of a real clip, as the SenCache paper measures them.

    At every step the run stands at `x = noised(x_0, t_k)`, whatever the sampler made of the step before. Two
    more evaluations: `alpha_x(t_k) = |f(x', t_k) - f(x, t_k)| / |x' - x|` with x' one plain solver step from
    x, and `alpha_t(t_k) = |f(x, t_{k+1}) - f(x, t_k)| / |t_{k+1} - t_k|`. `advance(x, output, k)` is that
    solver step.
    """

    signal: str | None = None
    evaluations = 0

    def __init__(self, target: Measured, noising: Noising) -> None:
        self.target, self.noising = target, noising
        self._alphas: list[torch.Tensor] = []

    def observe(self, scene: StepState) -> None:
        """Measure the step, if another one follows."""
        step = scene.step
        if step.index + 1 == step.total:
            return
        assert scene.rerun is not None
        now, x, following = evaluated(scene), scene.latent, self.noising.timestep(step.index + 1)
        moved = self.noising.advance(x, now.output, step.index)
        at_moved = scene.rerun(step.timestep, moved).of(scene.conditional)
        later = scene.rerun(following).of(scene.conditional)
        self.evaluations += 2
        along_x = change(self.target, at_moved, now) / rms(moved - x)[0].clamp_min(1e-12)
        along_t = change(self.target, later, now) / distance(step.timestep, following)
        self._alphas.append(torch.stack([along_x, along_t]))

    def alphas(self) -> Array:
        """[steps - 1, 2]: alpha_x and alpha_t at every step but the last, which leads nowhere."""
        return to_host(self._alphas)


class Magnitudes:
    """What MagCache's ratios and TeaCache's polynomial are made of: changes from step to step."""

    signal: str | None = None

    def __init__(self) -> None:
        self._rows: list[torch.Tensor] = []
        self._before: Evaluated | None = None

    def observe(self, scene: StepState) -> None:
        """Compare the step with the one before."""
        now = evaluated(scene)
        if self._before is not None:
            changed = relative_l1(now.output, self._before.output)[0]
            self._rows.append(torch.stack([_token_ratio(now.residual, self._before.residual), changed]))
        self._before = now

    def table(self) -> Array:
        """[steps - 1, 2], into every step but the first: mean over tokens of the residual's norm over its
        norm one step earlier (arXiv 2506.09045), and relative L1 change of the output.
        """
        return to_host(self._rows)


def evaluated(scene: StepState) -> Evaluated:
    """What the step's own forward gave for the prompt; raises SencacheError for a batch of several videos."""
    assert scene.residual is not None and scene.output is not None
    if len(scene.latent) != 1:
        raise SencacheError(
            f"only one video at a time can be calibrated on, not {len(scene.latent)}; make them one by one"
        )
    return Evaluated(scene.residual, scene.output).of(scene.conditional)


def change(target: Measured, now: Evaluated, before: Evaluated) -> torch.Tensor:
    """RMS difference of the target, 0-d."""
    pair = (now.output, before.output) if target == "output" else (now.residual, before.residual)
    return rms(pair[0] - pair[1])[0]


def distance(timestep: float, following: float) -> float:
    """|t' - t|; raises SencacheError where the scheduler stands still."""
    if timestep == following:
        raise SencacheError(
            f"calibration needs distinct timesteps, and the scheduler repeats {timestep:g}; "
            "use a scheduler that visits each once"
        )
    return abs(timestep - following)


def _token_ratio(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """[1, tokens, width] twice -> 0-d."""
    sizes = [torch.linalg.vector_norm(residual, dim=-1, dtype=torch.float32) for residual in (now, before)]
    ratio: torch.Tensor = (sizes[0] / sizes[1].clamp_min(1e-8)).mean()
    return ratio
