"""A function that emits becomes an iterator: lazy, closed in time, in one thread, with its own state."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

import pytest
import torch
from lifecycle import Mishap, counting, lane_of
from pipelines import Tiny

from sencache.comparison.lanes import Stepped
from sencache.comparison.stepping import Stepwise, round_robin
from sencache.policies import Full


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


@pytest.mark.parametrize(
    ("enabled", "ending"), [(True, "exhausted"), (False, "exhausted"), (True, "closed"), (True, "raised")]
)
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
