"""Lanes, interleaved, closed or failing, do what separate calls do and leave the model alone."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
from lifecycle import CHANGES, METHODS, in_a_new_pipeline, lane_of, policy_of, untouched
from pipelines import Tiny

from sencache.comparison.lanes import Finished, Stepped, shallow_pipeline
from sencache.comparison.stepping import round_robin
from sencache.engine.attach import attach
from sencache.errors import SencacheError
from sencache.policies import Fixed, Full
from sencache.trace import StepRecord


def test_interleaved_lanes_equal_separate_calls_and_leave_the_model_alone(tiny: Tiny) -> None:
    """Not one object of the shared model is replaced at any moment when a lane is suspended."""
    plain = tiny()
    policies = {"none": Full(), **{method: policy_of(tiny.name, method) for method in METHODS}}
    lanes = [lane_of(tiny, policy) for policy in policies.values()]
    steps: list[list[Stepped]] = [[] for _ in lanes]
    done: dict[int, Finished] = {}
    with untouched(tiny) as check:
        for index, item in round_robin(lanes):
            check()
            if isinstance(item, Stepped):
                steps[index].append(item)
            else:
                done[index] = item
            if index == 1 and len(steps[1]) == 7:
                assert torch.equal(tiny(), plain)
    for index, (method, policy) in enumerate(policies.items()):
        with attach(tiny.pipe, policy) as trace:
            latents = tiny()
        assert np.array_equal(done[index].frames, latents.numpy()), method
        assert torch.equal(steps[index][-1].latent, latents), method
        assert done[index].trace.records == trace.records, method
        timeless = [step.record.model_copy(update={"seconds": None}) for step in steps[index]]
        assert timeless == trace.records, method
        assert all(step.record.seconds is not None and step.record.seconds > 0 for step in steps[index])


def test_lanes_of_different_length_and_guidance(tiny: Tiny) -> None:
    changes: list[dict[str, Any]] = [{"steps": 4}, {"guidance_scale": 1.0}, {"steps": 15}]
    lanes = [lane_of(tiny, Fixed(interval=2), **change) for change in changes]
    done = {index: item for index, item in round_robin(lanes) if isinstance(item, Finished)}
    assert list(done) == [0, 1, 2]
    for index, change in enumerate(changes):
        with attach(tiny.pipe, Fixed(interval=2)):
            assert np.array_equal(done[index].frames, tiny(**change).numpy())


def test_a_lane_closed_half_way_leaves_nothing(tiny: Tiny) -> None:
    tiny()
    with untouched(tiny):
        for taken in (0, 1, 5, pipelines.STEPS):
            half = lane_of(tiny, policy_of(tiny.name, "sencache"))
            for _ in range(taken):
                next(half)
            half.close()
            half.close()
            with pytest.raises(StopIteration):
                next(half)
    for change, arguments in CHANGES.items():
        latents, records = in_a_new_pipeline(tiny.name, "control", change)
        with attach(tiny.pipe, policy_of(tiny.name, "control")) as trace:
            assert torch.equal(tiny(**arguments[tiny.name]), latents)
        assert trace.records == records


def test_one_lane_that_fails_ends_the_others(tiny: Tiny) -> None:
    tiny()
    with untouched(tiny):
        good = lane_of(tiny, policy_of(tiny.name, "sencache"))
        # A list of steps that the run does not have, seen only when the run begins.
        bad = lane_of(tiny, Fixed(steps=(0, 50)))
        with pytest.raises(SencacheError, match="step 50"):
            list(round_robin([good, bad]))
        assert next(good, None) is None


def test_two_threads_each_with_its_own_copy(tiny: Tiny) -> None:
    policies = [policy_of(tiny.name, method) for method in ("sencache", "easycache")]
    made: dict[int, tuple[torch.Tensor, list[StepRecord]]] = {}
    together = threading.Barrier(2)

    def work(index: int) -> None:
        mine = replace(tiny, pipe=shallow_pipeline(tiny.pipe))

        def callback(*_: Any) -> dict[str, Any]:
            together.wait(timeout=60)
            return {}

        with attach(mine.pipe, policies[index]) as trace:
            made[index] = mine(callback_on_step_end=callback), trace.records

    tiny()
    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    with untouched(tiny):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, policy in enumerate(policies):
        with attach(tiny.pipe, policy) as trace:
            latents = tiny()
        assert torch.equal(made[index][0], latents)
        assert made[index][1] == trace.records


def test_copies_share_every_weight_and_no_place_for_hooks(tiny: Tiny) -> None:
    module = tiny.pipe.transformer
    shell = shallow_pipeline(tiny.pipe)
    assert shell.transformer is not module and type(shell.transformer) is type(module)
    assert [id(p) for p in shell.transformer.parameters()] == [id(p) for p in module.parameters()]
    assert shell.scheduler is not tiny.pipe.scheduler
    with untouched(tiny):
        shell.transformer.register_forward_hook(lambda *_: None)
        shell.transformer._modules.pop(pipelines.BLOCKS[tiny.name])
        shell.scheduler.set_timesteps(3)
