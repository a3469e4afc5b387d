"""The optimiser of all trainings: orthogonalised updates for matrices and convolutions, Adam for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

# Keller Jordan's Newton-Schulz polynomial (Muon, 2024).
QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is brought near an orthogonal matrix, for weights of two or more dimensions.

    A convolution counts as the matrix [out, everything else]. Updates are scaled to the RMS of Adam's, so
    both take the same learning rate. `torch.optim.Muon` does the same for plain matrices only.
    """

    def __init__(self, params: Iterable[torch.Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(list(params), {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update from the gradients; `closure` is not supported and ignored."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        matrix = gradient.reshape(len(parameter), -1)
        average = state.setdefault("average", torch.zeros_like(matrix))
        average.lerp_(matrix, 1 - group["momentum"])
        update = orthogonal(matrix.lerp(average, group["momentum"]))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        scale = 0.2 * max(update.shape) ** 0.5
        parameter.add_(update.view(parameter.shape), alpha=-group["lr"] * scale)


def orthogonal(matrix: torch.Tensor, iterations: int = 4) -> torch.Tensor:
    """Nearly U V^T of `matrix` = U S V^T, by Newton-Schulz iterations in bfloat16."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide.bfloat16() / (wide.norm() + 1e-7)
    a, b, c = QUINTIC
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: torch.Tensor = x if wide is matrix else x.T
    return result.float()


def optimizers(
    named: Iterable[tuple[str, torch.nn.Parameter]],
    is_matrix: Callable[[str, torch.Tensor], bool],
    decay: float,
) -> list[torch.optim.Optimizer]:
    """Muon for the parameters `is_matrix` picks and AdamW for the others; the loop sets their rates."""
    listed = list(named)
    matrices = [parameter for name, parameter in listed if is_matrix(name, parameter)]
    others = [parameter for name, parameter in listed if not is_matrix(name, parameter)]
    return [
        Muon(matrices, lr=0.0, weight_decay=decay),
        torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
