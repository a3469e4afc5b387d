"""What is added to a latent in training, and what the network has to predict."""

from __future__ import annotations

from typing import Any

import torch


class Flow:
    """Straight lines to noise, `x = (1 - s) x0 + s n`, the network predicts `n - x0`, the timestep is 1000 s.

    Noise levels are logit-normal, a little to the noisy side, with one in ten uniform: the ends matter too.
    """

    def levels(self, count: int) -> torch.Tensor:
        """[count] values of s, spread evenly over their distribution."""
        even = (torch.arange(count) + torch.rand(count)) / count
        normal = torch.special.ndtri(even.clamp(1e-4, 1 - 1e-4)) + 0.3
        return torch.where(torch.rand(count) < 0.1, torch.rand(count), torch.sigmoid(normal))

    def timesteps(self, levels: torch.Tensor) -> torch.Tensor:
        """What the network is told, on 0..1000."""
        return 1000 * levels

    def mix(
        self, clean: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Noisy latents, and the prediction that would be right."""
        s = levels.view(-1, *(1,) * (clean.ndim - 1))
        return (1 - s) * clean + s * noise, noise - clean


class Velocity:
    """`x = sqrt(a) x0 + sqrt(1 - a) n` on a discrete schedule, predicted is `sqrt(a) n - sqrt(1 - a) x0`.

    The schedule is the scheduler's own table, so training and sampling cannot disagree.
    """

    def __init__(self, scheduler: Any) -> None:
        self.alphas = scheduler.alphas_cumprod.float()

    def levels(self, count: int) -> torch.Tensor:
        """[count] timesteps, integers spread evenly over the schedule."""
        even = (torch.arange(count) + torch.rand(count)) / count
        return (even * len(self.alphas)).long().clamp(max=len(self.alphas) - 1)

    def timesteps(self, levels: torch.Tensor) -> torch.Tensor:
        return levels

    def mix(
        self, clean: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Noisy latents, and the prediction that would be right."""
        alpha = self.alphas.to(levels.device)[levels].view(-1, *(1,) * (clean.ndim - 1))
        signal, spread = alpha.sqrt(), (1 - alpha).sqrt()
        return signal * clean + spread * noise, signal * noise - spread * clean
