"""A run owns its state: whatever happens to it, the model is as it was and the next run is a clean one."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pipelines
import pytest
import torch
from lifecycle import CHANGES, METHODS, Mishap, in_a_new_pipeline, policy_of, untouched
from pipelines import Tiny

from sencache.engine.attach import attach
from sencache.policies import Fixed


def fail_in_callback(tiny: Tiny) -> None:
    def callback(pipe: Any, step: int, *_: Any) -> dict[str, Any]:
        if step == 5:
            raise Mishap
        return {}

    tiny(callback_on_step_end=callback)


def fail_in_block(tiny: Tiny) -> None:
    """In the middle of the second computed step; on Wan in its unconditional call."""
    calls = []

    def hook(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 2 * tiny.branches:
            raise Mishap

    handle = tiny.blocks[1].register_forward_pre_hook(hook)
    try:
        tiny()
    finally:
        handle.remove()


def fail_in_scheduler(tiny: Tiny) -> None:
    plain, calls = tiny.pipe.scheduler.step, []

    def step(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise Mishap
        return plain(*args, **kwargs)

    tiny.pipe.scheduler.step = step
    try:
        tiny()
    finally:
        del tiny.pipe.scheduler.step


def interrupt(tiny: Tiny) -> None:
    """As a stop button does: the call returns, but most of its steps never happen."""

    def callback(pipe: Any, step: int, *_: Any) -> dict[str, Any]:
        pipe._interrupt = step >= 5
        return {}

    tiny(callback_on_step_end=callback)
    raise Mishap


ACCIDENTS = (fail_in_callback, fail_in_block, fail_in_scheduler, interrupt)


def test_after_an_accident_the_next_run_is_a_clean_one(tiny: Tiny) -> None:
    """Under the same attachment, whatever the next run looks like; each architecture pairs methods with other
    accidents.
    """
    tiny()
    accidents = cycle(ACCIDENTS)
    for _ in range(list(pipelines.ALL).index(tiny.name)):
        next(accidents)
    for method in METHODS:
        accident = next(accidents)
        with untouched(tiny), attach(tiny.pipe, policy_of(tiny.name, method)) as trace:
            for change in ("same", "shape"):
                with pytest.raises(Mishap):
                    accident(tiny)
                latents, records = in_a_new_pipeline(tiny.name, method, change)
                assert torch.equal(tiny(**CHANGES[change][tiny.name]), latents), (method, accident, change)
                assert trace.records == records, (method, accident, change)


def test_after_an_accident_the_next_attachment_is_a_clean_one(tiny: Tiny) -> None:
    tiny()
    for (change, arguments), accident in zip(CHANGES.items(), cycle(ACCIDENTS), strict=False):
        with untouched(tiny), pytest.raises(Mishap), attach(tiny.pipe, policy_of(tiny.name, "sencache")):
            accident(tiny)
        latents, records = in_a_new_pipeline(tiny.name, "easycache", change)
        with attach(tiny.pipe, policy_of(tiny.name, "easycache")) as trace:
            assert torch.equal(tiny(**arguments[tiny.name]), latents), (change, accident)
        assert trace.records == records, (change, accident)


def test_hooks_of_others_and_the_weights_names_stay(tiny: Tiny) -> None:
    """Hooks put on before, and those put on under an attachment; what one sees of the model in a callback is
    the model.
    """
    calls: list[str] = []
    seen: list[bool] = []
    transformer, blocks = tiny.pipe.transformer, tiny.blocks
    keys = list(transformer.state_dict())

    def callback(*_: Any) -> dict[str, Any]:
        seen.append(list(transformer.state_dict()) == keys and tiny.blocks is blocks)
        return {}

    before = transformer.register_forward_hook(lambda *_: calls.append("before"))
    with attach(tiny.pipe, Fixed(interval=3)):
        during = transformer.register_forward_pre_hook(lambda *_: calls.append("during"))
        tiny(callback_on_step_end=callback)
    assert seen == [True] * pipelines.STEPS
    tiny()
    forwards = pipelines.STEPS * tiny.branches
    assert calls.count("before") == calls.count("during") == 2 * forwards
    before.remove()
    during.remove()
    assert not transformer._forward_hooks and not transformer._forward_pre_hooks


def test_the_same_run_twice_and_then_a_plain_one(tiny: Tiny) -> None:
    plain = tiny()
    for method in METHODS:
        with untouched(tiny), attach(tiny.pipe, policy_of(tiny.name, method)) as trace:
            first, records = tiny(), trace.records
            calls, size = trace.transformer_calls, trace.cache_bytes
            assert torch.equal(tiny(), first), method
        assert trace.records == records and trace.records is not records
        assert (trace.transformer_calls, trace.cache_bytes) == (calls, size)
    assert torch.equal(tiny(), plain)
