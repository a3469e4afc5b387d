"""Attaching a policy to a pipeline, and leaving no trace of it afterwards.

A torch pre-hook puts a stand-in where the block list is for the length of one forward, a forward hook (called
also when the forward raises) puts the list back and keeps or replaces the output. Two methods of the
scheduler are covered on the instance, and uncovered when the block ends: `step` ends a step of the run, and
its result is the latent before it is rounded; `set_timesteps` tells the windows of one long video from
separate calls.
No `forward` is replaced and no class is touched, so hooks of accelerate and compiled blocks stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from sencache.architectures import known_transformers
from sencache.engine.attachment import Attachment
from sencache.engine.hooks import TransformerHooks
from sencache.engine.run import Observer
from sencache.errors import SencacheError
from sencache.policies.base import Policy
from sencache.trace import Trace


@contextmanager
def attach(pipe: Any, policy: Policy, *, observer: Observer | None = None) -> Iterator[Trace]:
    """Run `pipe` under `policy` inside the `with` block; yields the trace of its newest generation.

    `pipe` is a diffusers pipeline with a transformer of a known architecture. Inside the block call it as
    usual, as often as you like: every call starts afresh. Raises SencacheError when the pipeline, the policy
    or the profile cannot be used, when another cache is active, or when the block ends without the
    transformer ever having been called.
    """
    if not isinstance(policy, Policy):
        raise SencacheError(
            f"{policy!r} is not a policy; pass an object of a class in sencache.policies with its settings, "
            "such as sencache.Full()"
        )
    attachment = Attachment(pipe, policy, Trace(), observer)
    with ExitStack() as hooked:
        for module in _transformers(pipe):
            hooked.enter_context(TransformerHooks(module, attachment).install())
        hooked.callback(attachment.leave)
        attachment.follow()
        yield attachment.trace
    if not attachment.called:
        raise SencacheError(
            "the attached transformer was never called, so nothing was cached; "
            "call the pipeline inside the with block"
        )


def _transformers(pipe: Any) -> list[torch.nn.Module]:
    parts = (getattr(pipe, name, None) for name in ("transformer", "transformer_2"))
    found = [part for part in parts if part is not None]
    if not found:
        raise SencacheError(
            f"a {type(pipe).__name__} has no transformer to attach to; "
            f"use a pipeline with one of {known_transformers()}"
        )
    if any(hasattr(part, "_orig_mod") for part in found):
        raise SencacheError(
            "the pipeline's transformer was replaced by torch.compile(…), which hides its blocks; keep the "
            "transformer and compile its blocks instead: pipe.transformer.compile_repeated_blocks()"
        )
    return found
