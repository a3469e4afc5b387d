"""What an attachment cannot serve is refused; offloaded models are served."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import accelerate
import diffusers.hooks
import numpy as np
import pipelines
import pytest
import torch
from diffusers.hooks import apply_group_offloading, group_offloading
from diffusers.hooks.group_offloading import GroupOffloadingConfig, GroupOffloadingType
from measuring import under
from pipelines import STEPS, Tiny

from sencache.architectures import architecture_of
from sencache.comparison.lanes import Finished, lane, shallow_pipeline
from sencache.comparison.stepping import round_robin
from sencache.engine.attach import attach
from sencache.errors import SencacheError
from sencache.models.loading import bring_blocks_one_by_one
from sencache.policies import Fixed, Full, SenCache

CPU = torch.device("cpu")


class Unheard(torch.nn.Linear):
    """A transformer of which no one has told the engine."""


def test_an_unknown_transformer_is_refused_with_the_known_ones() -> None:
    pipe = SimpleNamespace(transformer=Unheard(2, 2), scheduler=None)
    with pytest.raises(SencacheError) as refused, attach(pipe, Full()):
        pass
    for name in ("Unheard", "WanTransformer3DModel", "CogVideoXTransformer3DModel"):
        assert name in str(refused.value)


def test_a_subclass_of_a_known_transformer_is_known() -> None:
    tiny = pipelines.wan()
    transformer, plain = tiny.pipe.transformer, tiny()
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


# accelerate cannot offload CogVideoX's transformer, with or without a cache.
@pytest.mark.parametrize(
    ("name", "offload"),
    [
        *(("wan", offload) for offload in (offload_blocks, offload_leaves, offload_by_accelerate)),
        *(("cogvideox", offload_leaves), ("ltx", offload_blocks)),
    ],
)
def test_an_offloaded_model_takes_an_attachment_in_place(name: str, offload: Any) -> None:
    """Twice under one attachment, and plain afterwards: no hook of theirs or ours gets lost."""
    tiny = pipelines.ALL[name]()
    policy = pipelines.lively(name)["sencache"]
    plain, (latents, expected) = tiny(), under(tiny, policy)
    offload(tiny.pipe.transformer)
    with attach(tiny.pipe, policy) as trace:
        for _ in range(2):
            assert torch.equal(tiny(), latents)
            assert trace.records == expected.records
            assert trace.transformer_calls == expected.transformer_calls
    assert torch.equal(tiny(), plain)


def generator(tiny: Tiny) -> Any:
    """A lane's call of the pipeline."""
    return lambda pipe, callback: replace(tiny, pipe=pipe)(callback_on_step_end=callback).numpy()


@pytest.mark.parametrize(
    ("name", "offload"), [("wan", offload_blocks), ("cogvideox", offload_leaves), ("ltx", offload_blocks)]
)
def test_a_model_under_group_offloading_takes_lanes(name: str, offload: Any) -> None:
    tiny, policy = pipelines.ALL[name](), pipelines.lively(name)["sencache"]
    latents, _ = under(tiny, policy)
    offload(tiny.pipe.transformer)
    *_, done = lane(tiny.pipe, policy, generator(tiny), CPU)
    assert isinstance(done, Finished) and np.array_equal(done.frames, latents.numpy())


def test_a_model_under_accelerate_takes_no_lane() -> None:
    """Its `forward` would run the original's."""
    tiny = pipelines.wan()
    offload_by_accelerate(tiny.pipe.transformer)
    with pytest.raises(SencacheError, match=r"offloading hook.*use group offloading, or attach"):
        shallow_pipeline(tiny.pipe)
    with pytest.raises(SencacheError, match="offloading hook"):
        list(lane(tiny.pipe, Fixed(interval=3), generator(tiny), CPU))


# ---- blocks streamed from pinned memory, on a device and a stream that are made up


class Stream:
    """What is copied on it holds no numbers until it is waited for."""

    def __init__(self) -> None:
        self.under_way: list[tuple[torch.Tensor, torch.Tensor]] = []

    def synchronize(self) -> None:
        for there, here in self.under_way:
            there.copy_(here)
        self.under_way.clear()


class Backend(SimpleNamespace):
    """Of a device with one stream that computes, and computes at once."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(stream=nullcontext, current_stream=lambda: SimpleNamespace(synchronize=lambda: None))


class Place:
    """Of one block's weights: in RAM or on the device, as two devices that are both a CPU cannot tell."""

    def __init__(self, group: Any, log: list[tuple[str, int]], index: int) -> None:
        self.on_host, self._note = True, lambda what: log.append((what, index))
        self._onload, self._offload = group.onload_, group.offload_
        group.onload_, group.offload_, group.offload_device = self.onload, self.offload, self

    def __eq__(self, device: object) -> bool:
        return self.on_host

    def onload(self) -> None:
        self._note("onto")
        self.on_host = False
        self._onload()

    def offload(self) -> None:
        self._note("off")
        self.on_host = True
        self._offload()


@pytest.fixture
def stream_blocks(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[tuple[str, int]]]:
    """Blocks moved in ahead by diffusers' own hooks; what is done to which block is returned."""

    def transfer(self: Any, tensor: torch.Tensor, source: torch.Tensor, _: Any) -> None:
        tensor.data = torch.full_like(source, torch.nan)
        self.stream.under_way.append((tensor.data, source))

    def apply(module: torch.nn.Module, *, use_stream: bool, **options: Any) -> None:
        assert use_stream and options["low_cpu_mem_usage"]
        fixed = {"offload_type": GroupOffloadingType.BLOCK_LEVEL, "non_blocking": False}
        config = GroupOffloadingConfig(**{**options, **fixed}, stream=Stream(), record_stream=False)  # type: ignore[arg-type]
        group_offloading._apply_group_offloading(module, config)

    def stream(transformer: Any) -> list[tuple[str, int]]:
        log: list[tuple[str, int]] = []
        bring_blocks_one_by_one(transformer, CPU, ahead=True)
        blocks = transformer.get_submodule(architecture_of(transformer).blocks[0])
        for index, block in enumerate(blocks):
            Place(block._diffusers_hook.get_hook("group_offloading").group, log, index)
        return log

    monkeypatch.setattr(diffusers.hooks, "apply_group_offloading", apply)
    monkeypatch.setattr(group_offloading, "TorchDeviceBackend", Backend)
    monkeypatch.setattr(group_offloading.ModuleGroup, "_transfer_tensor_to_device", transfer)
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda _: True)
    return stream


def test_streamed_blocks_are_there_in_time_and_two_at_most(tiny: Tiny, stream_blocks: Any) -> None:
    """Under lanes that compute and reuse at different steps, each with the latents of a run of its own."""
    chosen = [Full(), Fixed(interval=3), pipelines.lively(tiny.name)["sencache"]]
    expected = [under(tiny, policy)[0].numpy() for policy in chosen]
    log = stream_blocks(tiny.pipe.transformer)
    lanes = round_robin([lane(tiny.pipe, policy, generator(tiny), CPU) for policy in chosen])
    done = {index: item for index, item in lanes if isinstance(item, Finished)}
    assert all(np.array_equal(done[index].frames, latents) for index, latents in enumerate(expected))
    there: set[int] = set()
    for what, block in log:
        (there.add if what == "onto" else there.remove)(block)
        assert len(there) <= 2
    computed = sum(item.trace.transformer_calls for item in done.values())
    assert not there and log.count(("onto", 1)) == computed


def test_a_policy_made_for_something_else_is_refused() -> None:
    bare = pipelines.profile("wan").model_copy(update={"sensitivity": None})
    with pytest.raises(SencacheError, match="holds no sensitivities"):
        under(pipelines.wan(), SenCache(bare))
    with pytest.raises(SencacheError, match="step 12"):
        under(pipelines.wan(), Fixed(steps=(0, 12)))
