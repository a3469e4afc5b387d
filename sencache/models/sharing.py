"""A still is encoded once for all lanes.

diffusers takes prompts that are encoded already, but no stills: every call runs the still through the image
encoder and, as the first of as many frames as the video has, through the VAE. On a lane's own copy of the
pipeline these two methods answer with what the first lane got from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

ENCODERS = ("encode_image", "prepare_latents")


class Encoded(dict[str, torch.Tensor]):
    """Prompt embeddings as keyword arguments of a pipeline, with what its calls made of a still so far."""

    def __init__(self, embeddings: dict[str, torch.Tensor]) -> None:
        super().__init__(embeddings)
        self.made: dict[tuple[Any, ...], tuple[Any, torch.Tensor | None]] = {}


@contextmanager
def one_encoding(pipe: Any, encoded: dict[str, torch.Tensor], key: tuple[Any, ...]) -> Iterator[None]:
    """Inside the block `pipe` encodes nothing that a call with the same `key` and embeddings has encoded."""
    names = [name for name in ENCODERS if isinstance(encoded, Encoded) and hasattr(pipe, name)]
    for name in names:
        pipe.__dict__[name] = _remembering(getattr(pipe, name), encoded, (name, *key))
    try:
        yield
    finally:
        for name in names:
            del pipe.__dict__[name]


def _remembering(own: Callable[..., Any], encoded: Any, key: tuple[Any, ...]) -> Callable[..., Any]:
    def answer(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        generator = next((value for value in given if isinstance(value, torch.Generator)), None)
        if key not in encoded.made:
            value = own(*args, **kwargs)
            encoded.made[key] = _copied(value), generator.get_state() if generator else None
            return value
        value, state = encoded.made[key]
        # Samplers may draw on from where the noise left off.
        if generator is not None:
            generator.set_state(state)
        return _copied(value)

    return answer


def _copied(value: Any) -> Any:
    """The tensor, or the tuple of tensors, in memory of its own."""
    return value.clone() if isinstance(value, torch.Tensor) else tuple(each.clone() for each in value)
