"""Several diffusers calls advancing step by step in turn.

A pipeline owns its loop and only offers a callback. `Stepwise` turns such a call into an iterator: the call
runs in a greenlet, stops inside its callback, and goes on at the next `next()`. All of it stays in one
thread, so there is nothing to lock, and the CPU's thread pool is not set up once per lane. The thread that
takes the first item must take them all.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import greenlet
import torch

Item = TypeVar("Item")


class Stepwise(Generic[Item]):
    """The items that `function(emit)` emits, one per `next()`.

    What the function raises, `next()` raises. `close()` ends the function where it stands, running its
    `finally` clauses.
    """

    def __init__(self, function: Callable[[Callable[[Item], None]], None]) -> None:
        self._function = function
        self._consumer: greenlet.greenlet | None = None
        self._thread: int | None = None
        self._call = greenlet.greenlet(self._run)
        self._call.gr_context = contextvars.copy_context()

    def _run(self) -> None:
        self._function(self._emit)

    def _emit(self, item: Item) -> None:
        assert self._consumer is not None
        self._consumer.switch(item)

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self._call.dead:
            raise StopIteration
        self._enter()
        # The grad mode belongs to the thread: a pipeline that stops within no_grad must not leave it to the
        # consumer.
        with torch.no_grad():
            item: Item = self._call.switch()
        if self._call.dead:
            raise StopIteration
        return item

    def _enter(self) -> None:
        if self._thread not in (None, threading.get_ident()):
            raise RuntimeError(
                "a lane was advanced from another thread; take all its items in the thread of the first"
            )
        self._thread = threading.get_ident()
        self._consumer = self._call.parent = greenlet.getcurrent()

    def close(self) -> None:
        """End the function; safe to call at any time, also before the first item and after the last."""
        if not self._call.dead:
            self._enter()
            with torch.no_grad():
                self._call.throw(greenlet.GreenletExit)


def round_robin(lanes: Sequence[Stepwise[Item]]) -> Iterator[tuple[int, Item]]:
    """(index of the lane, item) in turn until every lane has ended; the lanes are closed when the iterator
    is.
    """
    alive = list(range(len(lanes)))
    try:
        while alive:
            for index in tuple(alive):
                try:
                    yield index, next(lanes[index])
                except StopIteration:
                    alive.remove(index)
    finally:
        for lane in lanes:
            lane.close()
