"""Images decoded by threads before they are asked for.

PIL decodes JPEG and PNG without holding Python's global lock, so that threads are enough: nothing is copied between
processes, and every worker sees the one source.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, TimeoutError
from contextlib import suppress
from itertools import count
from queue import PriorityQueue
from threading import Thread, current_thread
from typing import NamedTuple

import numpy as np

from holdfast.data.source import Batch, Concurrent, Source
from holdfast.foundation.errors import BadFile

WORKERS = 8
"""Threads at most; a process has no more than its share of the cores."""

SMALL = 64 * 64
"""Images of up to so many pixels are decoded faster a batch at a time than one by one by threads."""

WINDOW, IMAGES = 32 * 2**20, 256
"""How far ahead is decoded: so many bytes of pixels, and so many images, at most."""

PATIENCE = 120.0
"""Seconds that decoding one image may take."""


def workers_for(source: Source) -> int:
    """How many threads pay: none where pixels are in memory, or images small; else one for each core of this process."""
    if not isinstance(source, Concurrent) or not source.concurrent or source.shape[1] * source.shape[2] <= SMALL:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


class _Task(NamedTuple):
    """An image to decode. Smaller is sooner: what somebody waits for before what is only expected, then by number."""

    rank: int
    number: int
    id: int
    batch: Future[Batch]


class Ahead:
    """The samples of a source, decoded in the order in which they are expected to be asked for.

    What is asked for against that order comes all the same, only later. A context manager: at its end, whatever ends it,
    nothing more is decoded.

    Args:
        source: where the samples come from.
        workers: how many threads; those of `workers_for` unless given. Without any, the source is asked directly.
        patience: seconds that one image may take, `PATIENCE` unless given; not watched without workers.
    """

    def __init__(self, source: Source, *, workers: int | None = None, patience: float | None = None) -> None:
        self.source = source
        self.workers = workers_for(source) if workers is None else workers
        self.patience = PATIENCE if patience is None else patience
        self.most = min(IMAGES, max(2 * self.workers, WINDOW // int(np.prod(source.shape))))
        """How many samples are decoded ahead, at most."""
        self._window = self.most
        self._order: Iterator[int] = iter(())
        self._coming: deque[int] = deque()
        self._times: Counter[int] = Counter()  # of each id in _coming
        self._tasks: dict[int, _Task] = {}  # one for each id in _coming
        self._numbers = count()
        self._queue: PriorityQueue[_Task] = PriorityQueue()
        self._busy: dict[Thread, tuple[float, _Task]] = {}  # since when, and with what
        self._given_up: dict[int, _Task] = {}  # so that one who asks again need not wait again
        self._threads: list[Thread] = []

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *raised: object) -> None:
        self.expect(())
        leaving, self._threads = len(self._threads), []
        for _ in range(leaving):
            self._queue.put(_Task(-1, next(self._numbers), -1, Future()))

    def expect(self, order: Iterable[int], *, most: int | None = None) -> None:
        """From now on the samples are asked for in this order, some left out perhaps.

        ``order`` is read as far as is decoded, ``most`` samples ahead unless those are too many; not at all without workers.
        """
        self._window = self.most if most is None else min(self.most, most)
        self._order = iter(order if self.workers else ())
        self._drop(len(self._coming), keep=())
        self._fill()

    def take(self, ids: np.ndarray | Sequence[int]) -> Batch:
        """The samples of these ids, in the order given.

        Raises:
            BadFile: an image was not decoded in time; and what the source raises, of the first of ``ids`` that fails.
        """
        if not self.workers or not len(ids):
            return self.source.take(ids)
        wanted = [int(each) for each in ids]
        tasks = [self._given_up.get(each) or self._tasks.get(each) or self._submit(each, rank=0) for each in wanted]
        for each in wanted:
            if self._times[each]:
                self._drop(self._coming.index(each) + 1, keep=wanted)
        self._fill()
        found = [self._result(task) for task in tasks]
        return Batch(*(np.concatenate(column) for column in zip(*found)))

    def _fill(self) -> None:
        while len(self._coming) < self._window:
            if (each := next(self._order, None)) is None:
                return
            each = int(each)
            self._coming.append(each)
            self._times[each] += 1
            if each not in self._tasks:
                self._tasks[each] = self._submit(each, rank=1)

    def _drop(self, places: int, *, keep: Sequence[int]) -> None:
        """Forgets the first so many of what is expected."""
        for _ in range(places):
            each = self._coming.popleft()
            self._times[each] -= 1
            if not self._times[each]:
                del self._times[each]
                task = self._tasks.pop(each)
                if each not in keep:
                    task.batch.cancel()

    def _submit(self, sample: int, *, rank: int) -> _Task:
        while len(self._threads) < self.workers:
            self._hire()
        task = _Task(rank, next(self._numbers), sample, Future())
        self._queue.put(task)
        return task

    def _hire(self) -> None:
        # A daemon, because a thread that hangs would keep the program from ending.
        thread = Thread(target=self._work, name="holdfast decoder", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        me = current_thread()
        while me in self._threads:
            task = self._queue.get()
            if task.rank < 0 or not task.batch.set_running_or_notify_cancel():
                continue
            self._busy[me] = time.monotonic(), task
            with suppress(InvalidStateError):  # it took too long, and was given up
                try:
                    task.batch.set_result(self.source.take([task.id]))
                except BaseException as error:  # whatever it is, the one who asks is told
                    task.batch.set_exception(error)
            self._busy.pop(me, None)

    def _result(self, task: _Task) -> Batch:
        while True:
            try:
                return task.batch.result(timeout=min(1.0, self.patience))
            except TimeoutError:
                if task.batch.done():
                    raise  # the source's own
                self._give_up()

    def _give_up(self) -> None:
        """Lets go of threads that hang: their samples fail, and others work in their places."""
        for thread, (since, task) in list(self._busy.items()):
            if time.monotonic() - since > self.patience and thread in self._threads:
                self._threads.remove(thread)
                self._hire()
                error = BadFile(
                    f"sample {task.id} of {self.source.name} was not decoded within {self.patience:g} seconds",
                    hint="does the disk or the network answer? What is finished is kept: run the same command again",
                )
                with suppress(InvalidStateError):  # it has just come
                    task.batch.set_exception(error)
                    self._given_up[task.id] = task
