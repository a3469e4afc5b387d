"""Groups side by side: each in its order and in one thread, none far ahead, all ended together."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field

import pytest

from sencache.comparison.stepping import AHEAD, in_threads


@dataclass
class Told:
    """What a group noticed of its own life."""

    threads: set[int] = field(default_factory=set)
    made: int = 0
    ended: bool = False


def numbers(told: Told, upto: int | None = None) -> Generator[tuple[int, int], None, None]:
    try:
        for number in itertools.count() if upto is None else range(upto):
            told.threads.add(threading.get_ident())
            told.made += 1
            yield id(told), number
    finally:
        told.threads.add(threading.get_ident())
        told.ended = True


def test_every_item_arrives_in_its_groups_order() -> None:
    groups = [Told(), Told(), Told()]
    merged = list(
        in_threads([lambda g=g, n=n: closing(numbers(g, n)) for g, n in zip(groups, (5, 0, 40), strict=True)])
    )
    for group, count in zip(groups, (5, 0, 40), strict=True):
        assert [number for who, number in merged if who == id(group)] == list(range(count))
        assert len(group.threads) == 1 and threading.get_ident() not in group.threads


def test_nobody_runs_far_ahead_of_the_reader_and_closing_ends_all() -> None:
    groups = [Told(), Told()]
    merged = in_threads([lambda g=g: closing(numbers(g)) for g in groups])
    for _ in range(3):
        next(merged)
    time.sleep(0.2)
    assert sum(group.made for group in groups) <= 3 + (AHEAD + 1) * 2
    merged.close()
    assert all(group.ended and len(group.threads) == 1 for group in groups)


def test_an_error_ends_the_other_groups_first() -> None:
    other = Told()

    def failing() -> Generator[tuple[int, int], None, None]:
        yield 0, 0
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(in_threads([lambda: closing(failing()), lambda: closing(numbers(other))]))
    assert other.ended
