"""What an attachment cannot serve is refused; offloaded models are served."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import accelerate
import numpy as np
import pipelines
import pytest
import torch
from diffusers.hooks import apply_group_offloading
from measuring import under
from pipelines import STEPS, Tiny

from sencache.engine.attach import attach
from sencache.errors import SencacheError
from sencache.lanes import Finished, lane, shallow_pipeline
from sencache.policies import Fixed, Full, SenCache

CPU = torch.device("cpu")


class Unheard(torch.nn.Linear):
    """A transformer of which no one has told the engine."""


def test_an_unknown_transformer_is_refused_with_the_known_ones() -> None:
    pipe = SimpleNamespace(transformer=Unheard(2, 2), scheduler=None)
    with pytest.raises(SencacheError) as refused, attach(pipe, Full()):
        pass
    for name in (
        "Unheard",
        "WanTransformer3DModel",
        "CogVideoXTransformer3DModel",
        "LTXVideoTransformer3DModel",
    ):
        assert name in str(refused.value)


def test_a_subclass_of_a_known_transformer_is_known(tiny: Tiny) -> None:
    transformer = tiny.pipe.transformer
    plain = tiny()
    transformer.__class__ = type("Derived", (type(transformer),), {})
    latents, trace = under(tiny, pipelines.exact(tiny.name)["sencache"])
    assert torch.equal(latents, plain) and trace.nfe == STEPS


def test_a_signal_that_the_architecture_has_not() -> None:
    profile = pipelines.profile("wan")
    fit = profile.teacache_fit().model_copy(update={"signal": "modulated_input"})
    policy = replace(
        pipelines.lively("wan")["teacache"], profile=profile.model_copy(update={"teacache": fit})
    )
    with (
        pytest.raises(SencacheError, match=r"no signal 'modulated_input'.*time_projection"),
        attach(pipelines.wan().pipe, policy),
    ):
        pass


def offload_blocks(transformer: torch.nn.Module) -> None:
    apply_group_offloading(
        transformer,
        onload_device=CPU,
        offload_device=CPU,
        offload_type="block_level",
        num_blocks_per_group=1,
    )


def offload_leaves(transformer: torch.nn.Module) -> None:
    apply_group_offloading(transformer, onload_device=CPU, offload_device=CPU, offload_type="leaf_level")


def offload_by_accelerate(transformer: torch.nn.Module) -> None:
    accelerate.cpu_offload(transformer, execution_device="cpu")


@pytest.mark.parametrize("offload", [offload_blocks, offload_leaves, offload_by_accelerate])
def test_an_offloaded_model_takes_an_attachment_in_place(tiny: Tiny, offload: Any) -> None:
    """Twice under one attachment, and plain afterwards: no hook of theirs or ours gets lost."""
    if tiny.name == "cogvideox" and offload is offload_by_accelerate:
        pytest.skip("accelerate cannot offload this transformer, with or without a cache")
    policy = pipelines.lively(tiny.name)["sencache"]
    plain, (latents, expected) = tiny(), under(tiny, policy)
    offload(tiny.pipe.transformer)
    with attach(tiny.pipe, policy) as trace:
        for _ in range(2):
            assert torch.equal(tiny(), latents)
            assert trace.records == expected.records
            assert trace.transformer_calls == expected.transformer_calls
    assert torch.equal(tiny(), plain)


@pytest.mark.parametrize("offload", [offload_blocks, offload_leaves, offload_by_accelerate])
def test_an_offloaded_model_takes_lanes_or_refuses_them(tiny: Tiny, offload: Any) -> None:
    """Group offloading serves the copy as well; accelerate's `forward` would run the original's."""
    policy = pipelines.lively(tiny.name)["sencache"]
    latents, _ = under(tiny, policy)
    offload(tiny.pipe.transformer)

    def generate(pipe: Any, callback: Any) -> np.ndarray[Any, Any]:
        return replace(tiny, pipe=pipe)(callback_on_step_end=callback).numpy()

    if offload is offload_by_accelerate and "forward" in tiny.pipe.transformer.__dict__:
        with pytest.raises(SencacheError, match=r"offloading hook.*use group offloading, or attach"):
            shallow_pipeline(tiny.pipe)
        with pytest.raises(SencacheError, match="offloading hook"):
            list(lane(tiny.pipe, policy, generate, CPU))
    elif offload is not offload_by_accelerate:
        *_, done = lane(tiny.pipe, policy, generate, CPU)
        assert isinstance(done, Finished) and np.array_equal(done.frames, latents.numpy())


def test_a_profile_that_lacks_what_the_method_needs(tiny: Tiny) -> None:
    bare = pipelines.profile(tiny.name).model_copy(update={"sensitivity": None})
    with pytest.raises(SencacheError, match="holds no sensitivities"):
        under(tiny, SenCache(bare))


def test_a_list_of_steps_made_for_a_longer_run(tiny: Tiny) -> None:
    with pytest.raises(SencacheError, match="step 12"):
        under(tiny, Fixed(steps=(0, 12)))
