"""Attaching a policy to a pipeline, and leaving no trace of it afterwards.

A torch pre-hook puts a stand-in where the block list is for the length of one forward, a forward hook (called
also when the forward raises) puts the list back and keeps or replaces the output. Two methods are covered on
their instances, and uncovered when the block ends: the transformer's `cache_context`, whose argument names
the guidance branch, and the scheduler's `step`, whose result is the latent before it is rounded. No `forward`
is replaced and no class is touched, so hooks of accelerate and compiled blocks stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from sencache.architectures import known_transformers
from sencache.engine.mount import Mount
from sencache.engine.run import Observer
from sencache.engine.session import Session
from sencache.errors import SencacheError
from sencache.policies.base import Policy
from sencache.trace import Trace


@contextmanager
def attach(pipe: Any, policy: Policy, *, observer: Observer | None = None) -> Iterator[Trace]:
    """Run `pipe` under `policy` inside the `with` block; yields the trace of its newest generation.

    `pipe` is a diffusers pipeline with a transformer of a known architecture. Inside the block call it as
    usual, as often as you like: every call starts afresh. Raises SencacheError when the pipeline or the
    profile cannot be used, when another cache is active, or when the block ends without the transformer ever
    having been called.
    """
    trace = Trace()
    with ExitStack() as mounted:
        session = Session(pipe, policy, trace, observer)
        for module in _transformers(pipe):
            mounted.enter_context(_mounted(module, session))
        try:
            yield trace
        finally:
            session.drop()
    if not session.called:
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
    return found


@contextmanager
def _mounted(module: torch.nn.Module, session: Session) -> Iterator[None]:
    _refuse_occupied(module)
    mount = Mount(module, session)
    module.__dict__["cache_context"] = mount.cache_context
    handles = (
        module.register_forward_pre_hook(mount.before, with_kwargs=True),
        module.register_forward_hook(mount.after, with_kwargs=True, always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        module.__dict__.pop("cache_context", None)
        mount.close()


def _refuse_occupied(module: torch.nn.Module) -> None:
    if "cache_context" in module.__dict__:
        raise SencacheError("a policy is attached to this transformer already; leave its with block first")
    if getattr(module, "is_cache_enabled", False):
        raise SencacheError(
            "diffusers' own cache is enabled on this transformer; call its disable_cache() first"
        )
