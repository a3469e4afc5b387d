"""Sizes of tensors, batch first: one number a sample, in float32."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def rms(x: Tensor) -> Tensor:
    """Root mean square of every sample, accumulated in float32: [B, ...] -> [B]."""
    import torch

    flat = x.flatten(1)
    norm: Tensor = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float32)
    return norm.div_(math.sqrt(flat.shape[1]))


def mean_abs(x: Tensor) -> Tensor:
    """Mean absolute value of every sample in float32: [B, ...] -> [B]."""
    import torch

    return x.flatten(1).abs().mean(dim=1, dtype=torch.float32)


def relative_l1(now: Tensor, before: Tensor) -> Tensor:
    """mean|now - before| / mean|before| of every sample: [B, ...] -> [B]."""
    return mean_abs(now - before) / mean_abs(before)
