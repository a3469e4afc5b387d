"""A run owns its state: whatever happens to it, the model is as it was and the next run is a clean one."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
from diffusers import FirstBlockCacheConfig
from pipelines import Tiny

from sencache.engine.attach import attach
from sencache.engine.trace import Record
from sencache.errors import SencacheError
from sencache.interleave import Stepwise, round_robin
from sencache.lanes import Finished, Stepped, lane, shallow_pipeline
from sencache.policies import Fixed, Full, Policy, SenCache

CPU = torch.device("cpu")
METHODS = ("sencache", "magcache", "teacache", "easycache", "control")
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "same": {name: {} for name in pipelines.ALL},
    "steps": {name: {"steps": 9} for name in pipelines.ALL},
    "unguided": {name: {"guidance_scale": 1.0} for name in pipelines.ALL},
    "prompts": {name: {"batch": 2} for name in pipelines.ALL},
    "shape": {
        "wan": {"num_frames": 5},
        "cogvideox": {"height": 32},
        "ltx": {"width": 96},
    },
}


def policy_of(name: str, method: str) -> Policy:
    """Every caching method, extrapolating, so that the cache holds as much as it ever does."""
    return replace(pipelines.lively(name)[method], forecast="linear")


@cache
def in_a_new_pipeline(name: str, method: str, change: str) -> tuple[torch.Tensor, list[Record]]:
    tiny = pipelines.ALL[name]()
    with attach(tiny.pipe, policy_of(name, method)) as trace:
        return tiny(**CHANGES[change][name]), trace.records


# --- What may be found of an attachment -----------------------------------------------------------


def contents(module: torch.nn.Module) -> list[Any]:
    """Every attribute of every module below, the entries of dictionaries one by one: objects, not their
    values.
    """
    found: list[Any] = []
    for path, child in module.named_modules():
        for name, value in child.__dict__.items():
            found.append((path, name, value))
            if isinstance(value, dict):
                found += [(path, name, key, entry) for key, entry in value.items()]
    return found


@contextmanager
def untouched(tiny: Tiny) -> Iterator[Callable[[], None]]:
    """The transformer and the pipeline at the end hold the very objects that they held at the start."""
    transformer = tiny.pipe.transformer
    kept, keys, shell = contents(transformer), list(transformer.state_dict()), dict(tiny.pipe.__dict__)

    def check() -> None:
        now = contents(transformer)
        assert len(now) == len(kept)
        assert all(a[-1] is b[-1] and a[:-1] == b[:-1] for a, b in zip(now, kept, strict=True))
        assert list(transformer.state_dict()) == keys
        assert "cache_context" not in transformer.__dict__ and "forward" not in transformer.__dict__
        components = [key for key in shell if not key.startswith("_")]
        assert all(tiny.pipe.__dict__[key] is shell[key] for key in components)

    yield check
    check()


# --- Accidents ------------------------------------------------------------------------------------


class Mishap(Exception):
    """What goes wrong in these tests."""


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


@pytest.mark.parametrize(
    ("method", "accident"),
    [
        *((method, fail_in_callback) for method in METHODS),
        *(("control", accident) for accident in ACCIDENTS[1:]),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_after_an_accident_the_next_run_is_a_clean_one(
    tiny: Tiny, method: str, accident: Callable[[Tiny], None]
) -> None:
    """Under the same attachment, whatever the next run looks like."""
    tiny()
    with untouched(tiny), attach(tiny.pipe, policy_of(tiny.name, method)) as trace:
        for change, arguments in CHANGES.items():
            with pytest.raises(Mishap):
                accident(tiny)
            latents, records = in_a_new_pipeline(tiny.name, method, change)
            assert torch.equal(tiny(**arguments[tiny.name]), latents), change
            assert trace.records == records, change


@pytest.mark.parametrize("accident", ACCIDENTS, ids=lambda f: f.__name__)
def test_after_an_accident_the_next_attachment_is_a_clean_one(
    tiny: Tiny, accident: Callable[[Tiny], None]
) -> None:
    tiny()
    for change, arguments in CHANGES.items():
        with untouched(tiny), pytest.raises(Mishap), attach(tiny.pipe, policy_of(tiny.name, "sencache")):
            accident(tiny)
        latents, records = in_a_new_pipeline(tiny.name, "easycache", change)
        with attach(tiny.pipe, policy_of(tiny.name, "easycache")) as trace:
            assert torch.equal(tiny(**arguments[tiny.name]), latents), change
        assert trace.records == records, change


def test_a_pipeline_that_no_policy_is_attached_to_any_more_is_plain(tiny: Tiny) -> None:
    plain = tiny()
    with untouched(tiny), attach(tiny.pipe, policy_of(tiny.name, "teacache")):
        tiny()
    assert torch.equal(tiny(), plain)


def test_while_attached_the_weights_keep_their_names(tiny: Tiny) -> None:
    """What one sees of the model in a callback is the model."""
    keys, blocks = list(tiny.pipe.transformer.state_dict()), tiny.blocks
    seen = []

    def callback(*_: Any) -> dict[str, Any]:
        seen.append(list(tiny.pipe.transformer.state_dict()) == keys and tiny.blocks is blocks)
        return {}

    with attach(tiny.pipe, Fixed(interval=3)):
        tiny(callback_on_step_end=callback)
    assert seen == [True] * pipelines.STEPS


def test_hooks_of_others_stay(tiny: Tiny) -> None:
    """Those put on before, and those put on and off under an attachment."""
    calls: list[str] = []
    transformer = tiny.pipe.transformer
    before = transformer.register_forward_hook(lambda *_: calls.append("before"))
    with attach(tiny.pipe, Fixed(interval=3)):
        during = transformer.register_forward_pre_hook(lambda *_: calls.append("during"))
        tiny()
    tiny()
    forwards = pipelines.STEPS * tiny.branches
    assert calls.count("before") == calls.count("during") == 2 * forwards
    before.remove()
    during.remove()
    assert not transformer._forward_hooks and not transformer._forward_pre_hooks


@pytest.mark.parametrize("method", METHODS)
def test_the_same_run_twice(tiny: Tiny, method: str) -> None:
    with attach(tiny.pipe, policy_of(tiny.name, method)) as trace:
        first, records = tiny(), trace.records
        calls, size = trace.transformer_calls, trace.cache_bytes
        second = tiny()
    assert torch.equal(first, second)
    assert trace.records == records and trace.records is not records
    assert (trace.transformer_calls, trace.cache_bytes) == (calls, size)


# --- What is refused ------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "times",
    [
        1,
        3,
    ],
)
def test_the_transformer_alone_after_a_run_is_refused(tiny: Tiny, times: int) -> None:
    """Every time, and the run's trace stays."""
    inputs = last_inputs(tiny)
    with attach(tiny.pipe, Fixed(interval=3)) as trace, torch.no_grad():
        tiny()
        records = trace.records
        for _ in range(times):
            with pytest.raises(SencacheError, match="detach before calling the transformer yourself"):
                tiny.pipe.transformer(**inputs)
            assert trace.records is records and len(records) == pipelines.STEPS
    with torch.no_grad():
        tiny.pipe.transformer(**inputs)


# --- Lanes ----------------------------------------------------------------------------------------


def lane_of(tiny: Tiny, policy: Policy, **changes: Any) -> Stepwise[Stepped | Finished]:
    def generate(pipe: Any, callback: Any) -> np.ndarray[Any, Any]:
        return replace(tiny, pipe=pipe)(callback_on_step_end=callback, **changes).numpy()

    return lane(tiny.pipe, policy, generate, CPU)


def policies_of(name: str) -> dict[str, Policy]:
    return {"none": Full(), **{method: policy_of(name, method) for method in METHODS}}


def test_interleaved_lanes_equal_separate_calls_and_leave_the_model_alone(tiny: Tiny) -> None:
    """Not one object of the shared model is replaced at any moment when a lane is suspended."""
    plain, policies = tiny(), policies_of(tiny.name)
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


@pytest.mark.parametrize("taken", [0, 1, 5, pipelines.STEPS])
def test_a_lane_closed_half_way_leaves_nothing(tiny: Tiny, taken: int) -> None:
    tiny()
    with untouched(tiny):
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
    made: dict[int, tuple[torch.Tensor, list[Record]]] = {}
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


# --- Stepwise -------------------------------------------------------------------------------------


def counting(log: list[str], upto: int = 3) -> Callable[[Callable[[int], None]], None]:
    def function(emit: Callable[[int], None]) -> None:
        log.append("begin")
        try:
            for i in range(upto):
                emit(i)
            log.append("end")
        finally:
            log.append("finally")

    return function


def test_stepwise_gives_the_items_in_order_and_lazily() -> None:
    log: list[str] = []
    stepwise = Stepwise(counting(log))
    assert log == []
    assert next(stepwise) == 0 and log == ["begin"]
    assert list(stepwise) == [1, 2]
    assert log == ["begin", "end", "finally"]
    assert list(stepwise) == []


def test_stepwise_raises_what_its_function_raises() -> None:
    def function(emit: Callable[[int], None]) -> None:
        emit(1)
        raise Mishap("here")

    stepwise = Stepwise(function)
    assert next(stepwise) == 1
    with pytest.raises(Mishap, match="here"):
        next(stepwise)
    with pytest.raises(StopIteration):
        next(stepwise)
    stepwise.close()


@pytest.mark.parametrize(("taken", "log"), [(0, []), (1, ["begin", "finally"]), (9, None)])
def test_closing_runs_finally(taken: int, log: list[str] | None) -> None:
    happened: list[str] = []
    stepwise = Stepwise(counting(happened))
    for _ in zip(range(taken), stepwise, strict=False):
        pass
    stepwise.close()
    stepwise.close()
    assert happened == (["begin", "end", "finally"] if log is None else log)
    assert next(stepwise, None) is None


def test_an_error_while_closing_is_raised() -> None:
    def function(emit: Callable[[int], None]) -> None:
        try:
            emit(1)
        finally:
            raise Mishap

    stepwise = Stepwise(function)
    next(stepwise)
    with pytest.raises(Mishap):
        stepwise.close()


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("ending", ["exhausted", "closed", "raised"])
def test_the_consumer_keeps_its_grad_mode(enabled: bool, ending: str) -> None:
    inside: list[bool] = []

    @torch.no_grad()
    def function(emit: Callable[[int], None]) -> None:
        for i in range(3):
            emit(i)
            inside.append(torch.is_grad_enabled())
        if ending == "raised":
            raise Mishap

    stepwise = Stepwise(function)
    with torch.set_grad_enabled(enabled):
        for _ in range(2):
            next(stepwise)
            assert torch.is_grad_enabled() is enabled
        if ending == "closed":
            stepwise.close()
        elif ending == "exhausted":
            list(stepwise)
        else:
            with pytest.raises(Mishap):
                list(stepwise)
        assert torch.is_grad_enabled() is enabled
    assert inside and not any(inside)


def test_a_lane_leaves_the_grad_mode_alone(tiny: Tiny) -> None:
    with torch.enable_grad():
        for item in lane_of(tiny, Full()):
            assert torch.is_grad_enabled()
            if isinstance(item, Stepped):
                assert not item.latent.requires_grad


def test_context_variables_reach_the_lane_and_stay_there() -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    def function(emit: Callable[[str], None]) -> None:
        emit(variable.get())
        variable.set("inner")
        emit(variable.get())

    variable.set("outer")
    stepwise = Stepwise(function)
    variable.set("later")
    assert list(stepwise) == ["outer", "inner"]
    assert variable.get() == "later"


def test_another_thread_is_told_off() -> None:
    stepwise, told = Stepwise(counting([])), []
    next(stepwise)

    def work() -> None:
        for act in (stepwise.__next__, stepwise.close):
            with pytest.raises(RuntimeError, match="another thread"):
                act()
            told.append(act)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(told) == 2
    assert list(stepwise) == [1, 2]


def test_round_robin_takes_turns_and_closes_what_is_left() -> None:
    logs: list[list[str]] = [[], [], []]
    lanes = [Stepwise(counting(log, upto)) for log, upto in zip(logs, (1, 3, 2), strict=True)]
    assert list(round_robin(lanes)) == [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]
    logs = [[], [], []]
    turns = round_robin([Stepwise(counting(log)) for log in logs])
    assert [next(turns)[0] for _ in range(2)] == [0, 1]
    turns.close()
    assert logs == [["begin", "finally"], ["begin", "finally"], []]
