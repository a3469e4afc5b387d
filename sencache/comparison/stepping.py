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


def round_robin(lanes: Sequence[Stepwise[Item]]) -> Generator[tuple[int, Item], None, None]:
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


# Opens an iterator, and ends it.
Group = Callable[[], AbstractContextManager[Iterable[Item]]]

# Items that a group may be ahead of whoever reads them.
AHEAD = 4
POLL_SECONDS = 0.05
THREAD_NAME = "comparison"


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
    stop = threading.Event()
    threads = [_thread(group, items, stop) for group in groups]
    try:
        alive = len(threads)
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


@dataclass(frozen=True)
class _Ended:
    """One group has ended, by `error` if there is one."""

    error: BaseException | None


def _thread(group: Group[Item], items: queue.Queue[Item | _Ended], stop: threading.Event) -> threading.Thread:
    context = contextvars.copy_context()
    work = (_advance, group, items, stop)
    thread = threading.Thread(target=context.run, args=work, name=THREAD_NAME, daemon=True)
    thread.start()
    return thread


def _advance(group: Group[Item], items: queue.Queue[Item | _Ended], stop: threading.Event) -> None:
    error: BaseException | None = None
    try:
        # Whatever the group began lives in this thread, and must end in it.
        with group() as made:
            for item in made:
                if not _put(items, item, stop):
                    break
    except BaseException as raised:
        error = raised
    _put(items, _Ended(error), stop)


def _put(items: queue.Queue[Item | _Ended], item: Item | _Ended, stop: threading.Event) -> bool:
    """Whether `item` was handed over; not once nobody reads any more."""
    while not stop.is_set():
        try:
            items.put(item, timeout=POLL_SECONDS)
            return True
        except queue.Full:
            continue
    return False
