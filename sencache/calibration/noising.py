"""The forward process of a sampler's schedule, and one plain solver step backwards."""

from __future__ import annotations

from typing import Any

import torch

from sencache.errors import SencacheError


class Noising:
    """The schedule that `scheduler` has laid out for the run in progress, as signal and noise levels.

    Flow matching schedules mix `(1 - sigma) x_0 + sigma noise` and predict `noise - x_0`, inverted ones
    `sigma x_0 + (1 - sigma) noise` and `x_0 - noise`; the others mix
    `sqrt(a) x_0 + sqrt(1 - a) noise` and predict what `prediction_type` says. Raises SencacheError for a
    scheduler that is neither.
    """

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        config = scheduler.config
        self.flow = not hasattr(scheduler, "alphas_cumprod") or bool(config.get("use_flow_sigmas"))
        self.inverted = bool(config.get("invert_sigmas"))
        self.prediction = "flow_prediction" if self.flow else config.get("prediction_type")
        if self.prediction not in ("flow_prediction", "v_prediction", "epsilon", "sample"):
            raise SencacheError(
                f"{type(scheduler).__name__} predicts {self.prediction!r}, which noised clips cannot be made "
                "for; use --method trajectory"
            )

    def timestep(self, step: int) -> float:
        """Of the step with that index."""
        return float(self.scheduler.timesteps[step])

    def levels(self, step: int) -> tuple[float, float]:
        """(signal, noise) at the step: the latent is `signal x_0 + noise_level noise`."""
        if self.flow:
            sigma = float(self.scheduler.sigmas[step])
            return (sigma, 1 - sigma) if self.inverted else (1 - sigma, sigma)
        kept = float(self.scheduler.alphas_cumprod[int(self.timestep(step))])
        return kept**0.5, (1 - kept) ** 0.5

    def noised(self, clean: torch.Tensor, noise: torch.Tensor, step: int) -> torch.Tensor:
        """The clean latent as it looks at the step."""
        signal, level = self.levels(step)
        return signal * clean + level * noise

    def advance(self, x: torch.Tensor, output: torch.Tensor, step: int) -> torch.Tensor:
        """x at the following step by one deterministic step (Euler, DDIM) along `output`; x keeps its
        dtype.
        """
        here, there = self.levels(step), self.levels(step + 1)
        x, output, dtype = x.float(), output.float(), x.dtype
        if self.flow:
            # Along sigma, which is the noise's share or, inverted, the signal's.
            level = 0 if self.inverted else 1
            return (x + (there[level] - here[level]) * output).to(dtype)
        clean, noise = self._parts(x, output, here)
        return (there[0] * clean + there[1] * noise).to(dtype)

    def _parts(
        self, x: torch.Tensor, output: torch.Tensor, levels: tuple[float, float]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The clean latent and the noise that `output` implies."""
        signal, level = levels
        if self.prediction == "v_prediction":
            return signal * x - level * output, signal * output + level * x
        # At the very start there is no signal, at the very end no noise, to divide by.
        if self.prediction == "epsilon":
            return (x - level * output) / max(signal, 1e-4), output
        return output, (x - signal * output) / max(level, 1e-4)
