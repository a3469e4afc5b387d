"""Latents at the scheduler's precision.

Pipelines keep float32 latents and round them to the transformer's half precision for every call. Distances
between two rounded latents are too long where the sampler takes small steps: 1.9 times at 0.001 RMS in
bfloat16. So the latent that the scheduler returned is used wherever it is the one that was rounded.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch


def _nothing() -> None:
    """To undo, where nothing was done."""


class Unrounded:
    """Follows a scheduler's steps; holds no tensor alive."""

    def __init__(self) -> None:
        self._undo: Callable[[], object] = _nothing
        self._latest: weakref.ref[torch.Tensor] | None = None

    def follow(self, scheduler: Any) -> None:
        """Watch `scheduler` from now on, and no other."""
        self.leave()
        step, own = scheduler.step, scheduler.__dict__

        @functools.wraps(step)
        def watched(*args: Any, **kwargs: Any) -> Any:
            stepped = step(*args, **kwargs)
            self._latest = weakref.ref(stepped[0])
            return stepped

        before = {"step": own["step"]} if "step" in own else {}
        own["step"] = watched

        def undo() -> None:
            # Whoever put another one in its place meanwhile keeps it.
            if own.get("step") is watched:
                del own["step"]
                own.update(before)

        self._undo = undo

    def leave(self) -> None:
        """Give the scheduler its own method back."""
        self._undo()
        self._undo, self._latest = _nothing, None

    def of(self, seen: torch.Tensor) -> torch.Tensor:
        """`seen` before it was rounded, if the last step's result is that; decided on the device.

        The first latent of a run is known only as rounded: no step made it.
        """
        latest = self._latest() if self._latest is not None else None
        if latest is None or latest.dtype == seen.dtype or latest.shape != seen.shape:
            return seen
        rounded_to_it = torch.eq(latest.to(seen.dtype), seen).all()
        return torch.where(rounded_to_it, latest, seen.to(latest.dtype))
