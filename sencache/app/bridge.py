"""An iterator that lives in one thread, read from any.

A comparison must be advanced by the thread that began it; a web server advances generators on whichever
worker is free.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")

THREAD_NAME = "comparison"


@dataclass(frozen=True)
class _Last:
    """The iterator has ended, by `error` if there is one."""

    error: BaseException | None = None


class Stopped(Exception):
    """Raised within `make` through `pause` when the reader has gone."""


@dataclass
class Thread(Generic[Item]):
    """The thread's side: the items it has made, and whether anyone still reads them."""

    items: queue.SimpleQueue[Item | _Last]
    stop: threading.Event

    def pause(self, lock: threading.Lock) -> None:
        """Wait for `lock`, but not after the reader has gone; raises Stopped then."""
        while not lock.acquire(timeout=0.05):
            if self.stop.is_set():
                raise Stopped


def in_thread(
    make: Callable[[Thread[Item]], Generator[Item, None, None]], beat: float
) -> Iterator[Item | None]:
    """The items of `make(thread)`, all of it run in one thread that carries the caller's context.

    Yields None whenever `beat` seconds pass without an item, so that the caller can be closed at such a time.
    Closing closes the inner generator right after the item it is working on; what it raises is raised here.
    """
    thread: Thread[Item] = Thread(queue.SimpleQueue(), threading.Event())
    context = contextvars.copy_context()
    work = (_work, make, thread)
    threading.Thread(target=context.run, args=work, name=THREAD_NAME, daemon=True).start()
    try:
        yield from _read(thread.items, beat)
    finally:
        thread.stop.set()


def _read(items: queue.SimpleQueue[Item | _Last], beat: float) -> Iterator[Item | None]:
    while True:
        try:
            item = items.get(timeout=beat)
        except queue.Empty:
            yield None
            continue
        if isinstance(item, _Last):
            if item.error is not None:
                raise item.error
            return
        yield item


def _work(make: Callable[[Thread[Item]], Generator[Item, None, None]], thread: Thread[Item]) -> None:
    error: BaseException | None = None
    generator = make(thread)
    try:
        for item in generator:
            if thread.stop.is_set():
                break
            thread.items.put(item)
    except Stopped:
        pass
    except BaseException as raised:
        error = raised
    finally:
        generator.close()
        thread.items.put(_Last(error))
