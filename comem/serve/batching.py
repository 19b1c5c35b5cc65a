"""Questions of many clients to one model: whoever waits is answered together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from comem.store.memory import Memory
from comem.store.shapes import Ask, MemoryAnswer


class BusyError(Exception):
    """Too many questions wait, or the server is going down."""


@dataclass
class _Waiting:
    ask: Ask
    answer: Future[MemoryAnswer] = field(default_factory=Future)


class Batcher:
    """A thread that answers what waits, in batches of questions that are decoded alike.

    The first that waits decides the kind of batch, so nobody is passed over for ever. There is no pause to
    wait for more: while one batch is answered the next one gathers.

    Args:
        memory: what is asked.
        size: questions at most in a batch.
        limit: questions at most that wait.
        seen: is told the size and the seconds of each batch.
    """

    def __init__(
        self, memory: Memory, size: int, limit: int, seen: Callable[[int, float], object] | None = None
    ) -> None:
        self._memory, self._size, self._limit, self._seen = memory, size, limit, seen
        self._waiting: deque[_Waiting] = deque()
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, ask: Ask) -> Future[MemoryAnswer]:
        """Put a question into the queue.

        Raises:
            BusyError: the queue is full or closed.
        """
        waiting = _Waiting(ask)
        with self._changed:
            if self._closed:
                raise BusyError("the server is going down; ask again in a moment")
            if len(self._waiting) >= self._limit:
                raise BusyError(f"{self._limit} questions are waiting already; ask again in a moment")
            self._waiting.append(waiting)
            self._changed.notify()
        return waiting.answer

    def close(self) -> None:
        """Answer what waits, take nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            start = time.perf_counter()
            self._answer(batch)
            if self._seen is not None:
                self._seen(len(batch), time.perf_counter() - start)

    def _next(self) -> list[_Waiting] | None:
        """What is answered together now; None when all is done."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            batch = [self._waiting.popleft()]
            kind = batch[0].ask.batch
            rest: deque[_Waiting] = deque()
            while self._waiting and len(batch) < self._size:
                each = self._waiting.popleft()
                (batch if each.ask.batch == kind else rest).append(each)
            self._waiting.extendleft(reversed(rest))
        return [each for each in batch if not self._left(each)]

    @staticmethod
    def _left(each: _Waiting) -> bool:
        """Whether the client went while the question waited."""
        if each.ask.cancelled is not None and each.ask.cancelled():
            each.answer.set_result(MemoryAnswer("", mode=each.ask.mode, ending="cancelled"))
            return True
        return False

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        """Answer a batch; where that fails as a whole each alone, so that errors find their own."""
        if not batch:
            return
        try:
            answers = self._memory.ask_many([each.ask for each in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for each in batch:
                self._answer([each])
            return
        for each, answer in zip(batch, answers, strict=True):
            each.answer.set_result(answer)
