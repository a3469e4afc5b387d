"""Several diffusers calls advancing step by step in turn, in one thread, or in several side by side.

A pipeline owns its loop and only offers a callback. `Stepwise` turns such a call into an iterator: the call
runs in a greenlet, stops inside its callback, and goes on at the next `next()`. All of it stays in one
thread, so there is nothing to lock, and the CPU's thread pool is not set up once per lane. The thread that
takes the first item must take them all.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
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
        self._consumer: greenlet.greenlet | None = None
        self._thread: int | None = None
        self._call = greenlet.greenlet(partial(function, self._emit))
        self._call.gr_context = contextvars.copy_context()

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


def round_robin(lanes: Sequence[Stepwise[Item]]) -> Generator[tuple[int, Item], None, None]:
    """(index of the lane, item) in turn until every lane has ended; closing the iterator closes the lanes."""
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


# Opens an iterator, and ends it.
Group = Callable[[], AbstractContextManager[Iterable[Item]]]

# Items that a group may be ahead of whoever reads them.
AHEAD = 4
POLL_SECONDS = 0.05
THREAD_NAME = "comparison"


@dataclass(frozen=True)
class _Ended:
    """One group has ended, by `error` if there is one."""

    error: BaseException | None = None


def in_threads(
    groups: Sequence[Group[Item]], ahead: int = AHEAD, beat: float | None = None, joins: bool = True
) -> Generator[Item | None, None, None]:
    """The items of several iterators as they come, each opened, advanced and ended in one thread of its own,
    which carries the caller's context; they may be read from any.

    A group is at most `ahead` items before the reader, with 0 as far as it gets. None comes whenever `beat`
    seconds pass without an item, so that the caller can be closed at such a time. What an iterator raises is
    raised here. Closing ends all of them after the item that each is working on; with `joins` it waits for
    that, which whoever holds the device must and a web server's worker must not.
    """
    items: queue.Queue[Item | _Ended] = queue.Queue(ahead * len(groups))
    stop, alive = threading.Event(), len(groups)
    threads = []
    for group in groups:
        work = partial(contextvars.copy_context().run, _advance, group, items, stop)
        threads.append(threading.Thread(target=work, name=THREAD_NAME, daemon=True))
        threads[-1].start()
    try:
        while alive:
            try:
                item = items.get(timeout=beat)
            except queue.Empty:
                yield None
                continue
            if not isinstance(item, _Ended):
                yield item
                continue
            alive -= 1
            if item.error is not None:
                raise item.error
    finally:
        stop.set()
        for thread in threads if joins else ():
            thread.join()


def _advance(group: Group[Item], items: queue.Queue[Item | _Ended], stop: threading.Event) -> None:
    """Hand over the items of `group` and then how it ended, until nobody reads any more."""

    def put(item: Item | _Ended) -> bool:
        while not stop.is_set():
            try:
                items.put(item, timeout=POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    ended = _Ended()
    try:
        # Whatever the group began lives in this thread, and must end in it.
        with group() as opened:
            for item in opened:
                if not put(item):
                    break
    except BaseException as error:
        ended = _Ended(error)
    put(ended)
