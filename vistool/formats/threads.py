"""Run work in threads: on several items at once, or ahead of a consumer."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

PATIENCE = 10.0  # seconds to wait for a thread to stop


def in_threads(work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Apply `work` to the items on all cores and yield the results in order.

    Memory holds a few results per core. An exception of `work` is raised in place of its result.
    """
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def prefetch(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Iterate over `items` in a separate thread, at most `depth` items ahead of the consumer.

    Exceptions of `items` are raised here. Closing this generator stops the thread and closes
    `items`. A consumer that may stop early should close it (`contextlib.closing`). A thread that
    does not stop within PATIENCE continues until the process ends.
    """
    waiting: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def produce() -> None:
        try:
            iterator = iter(items)
            try:
                for item in iterator:
                    waiting.put((item,))
                    if stop.is_set():
                        break
            finally:
                if isinstance(iterator, Generator):
                    iterator.close()
            waiting.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer
            waiting.put(error)

    # daemon: a failed consumer whose traceback is kept alive must not delay the end of the program
    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    try:
        thread.start()
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        stop.set()
        given_up = time.monotonic() + PATIENCE
        # It may wait for room in the queue more than once, or for an item that never arrives.
        while thread.is_alive() and time.monotonic() < given_up:
            with contextlib.suppress(queue.Empty):
                waiting.get_nowait()
            thread.join(0.01)
