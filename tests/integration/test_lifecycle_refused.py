"""What an attachment refuses, and that its refusal leaves everything as it was."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pipelines
import pytest
import torch
from diffusers import FirstBlockCacheConfig
from lifecycle import Mishap, in_a_new_pipeline, policy_of
from pipelines import Tiny

from sencache.engine.attach import attach
from sencache.errors import SencacheError
from sencache.policies import Fixed, Full, SenCache


def test_a_second_attachment_is_refused_and_the_first_goes_on(tiny: Tiny) -> None:
    latents, records = in_a_new_pipeline(tiny.name, "sencache", "same")
    with attach(tiny.pipe, policy_of(tiny.name, "sencache")) as trace:
        with (
            pytest.raises(SencacheError, match="attached to this transformer already"),
            attach(tiny.pipe, Full()),
        ):
            pass
        assert torch.equal(tiny(), latents)
    assert trace.records == records


def test_a_second_attachment_to_one_of_two_transformers_leaves_both_free() -> None:
    tiny, other = pipelines.wan(two=True), pipelines.wan()
    other.pipe.transformer = tiny.pipe.transformer_2
    with attach(other.pipe, Full()):
        other()
        with pytest.raises(SencacheError, match="already"), attach(tiny.pipe, Full()):
            pass
        assert not tiny.pipe.transformer._forward_hooks
    with attach(tiny.pipe, Full()) as trace:
        tiny()
    assert trace.nfe == pipelines.STEPS


def test_a_cache_of_diffusers_is_refused(tiny: Tiny) -> None:
    transformer = tiny.pipe.transformer
    transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(SencacheError, match="disable_cache"), attach(tiny.pipe, Full()):
        pass
    transformer.disable_cache()
    with attach(tiny.pipe, Full()):
        latents = tiny()
    assert torch.equal(latents, tiny())


def test_a_pipeline_without_a_transformer_is_refused_before_it_runs() -> None:
    refused = pytest.raises(SencacheError, match="a SimpleNamespace has no transformer to attach to; use a")
    with refused, attach(SimpleNamespace(scheduler=None), Full()):
        pytest.fail("the block was entered")


def test_an_attachment_that_nothing_ran_under_says_so(tiny: Tiny) -> None:
    with pytest.raises(SencacheError, match="never called"), attach(tiny.pipe, Full()):
        pass
    other = pipelines.ALL[tiny.name]()
    with pytest.raises(SencacheError, match="never called"), attach(tiny.pipe, Full()):
        other()


def test_the_users_own_error_is_not_covered_up(tiny: Tiny) -> None:
    with pytest.raises(Mishap), attach(tiny.pipe, Full()):
        raise Mishap


def test_a_profile_of_another_architecture_is_refused_at_the_first_call(tiny: Tiny) -> None:
    other = {"wan": "ltx", "ltx": "cogvideox", "cogvideox": "wan"}[tiny.name]
    policy = SenCache(pipelines.profile(other))
    with attach(tiny.pipe, policy):
        for _ in range(2):
            with pytest.raises(SencacheError, match=f"cannot serve a {tiny.name} model"):
                tiny()


def last_inputs(tiny: Tiny) -> dict[str, Any]:
    """What a pipeline hands to its transformer."""
    seen: dict[str, Any] = {}
    handle = tiny.pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    tiny()
    handle.remove()
    return seen


def test_the_transformer_alone_after_a_run_is_refused(tiny: Tiny) -> None:
    """Every time, and the run's trace stays."""
    inputs = last_inputs(tiny)
    with attach(tiny.pipe, Fixed(interval=3)) as trace, torch.no_grad():
        tiny()
        records = trace.records
        for _ in range(2):
            with pytest.raises(SencacheError, match="detach before calling the transformer yourself"):
                tiny.pipe.transformer(**inputs)
            assert trace.records is records and len(records) == pipelines.STEPS
    with torch.no_grad():
        tiny.pipe.transformer(**inputs)
