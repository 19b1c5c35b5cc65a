"""Work done before it is needed: images opened, prompts processed, while the model is busy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Generic, TypeVar

from comem.io.images import opened
from comem.types import Example, ImageRef, RetrievedContext

T = TypeVar("T")
U = TypeVar("U")
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Contexts = list[RetrievedContext | None]


class Ahead(Generic[K, V]):
    """`work(key)`, from the shelf where it has been made ahead, else made now.

    Args:
        work: a function of its key alone.
        kept: results that nobody has taken; the oldest go.
    """

    def __init__(self, work: Callable[[K], V], kept: int = 4) -> None:
        self._work, self._kept = work, kept
        self._shelf: dict[K, V] = {}
        self._lock = threading.Lock()

    def make(self, key: K) -> None:
        """Do the work now, in the calling thread, for a `take` to come.

        An error is left to `take`, where it belongs to a question.
        """
        try:
            made = self._work(key)
        except (OSError, ValueError):
            return
        with self._lock:
            self._shelf[key] = made
            while len(self._shelf) > self._kept:
                del self._shelf[next(iter(self._shelf))]

    def take(self, key: K) -> V:
        """The result, which then belongs to the caller."""
        with self._lock:
            if key in self._shelf:
                return self._shelf.pop(key)
        return self._work(key)


@contextmanager
def one_ahead(work: Callable[[T], U], items: Iterable[T]) -> Iterator[Iterator[tuple[T, U]]]:
    """Pairs of item and `work(item)`, in order; the next item's work goes on in a thread meanwhile.

    An error of `work` comes out with its own item. On leaving, work that has not begun is dropped.
    """
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead")

    def pairs() -> Iterator[tuple[T, U]]:
        before: tuple[T, Future[U]] | None = None
        for item in items:
            started = item, pool.submit(work, item)
            if before is not None:
                yield before[0], before[1].result()
            before = started
        if before is not None:
            yield before[0], before[1].result()

    try:
        yield pairs()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def open_images(
    examples: Sequence[Example], contexts: Sequence[RetrievedContext | None], items: bool
) -> tuple[list[Example], Contexts]:
    """The same examples and contexts, their images opened, each once.

    An image that cannot be opened stays as it is: whoever needs it gets the error then.

    Args:
        examples: the questions.
        contexts: per question its items, or None.
        items: whether the items' images are needed too.
    """
    known: dict[ImageRef, ImageRef] = {}

    def ready(ref: ImageRef | None) -> ImageRef | None:
        if ref is None:
            return None
        if ref not in known:
            known[ref] = opened(ref)
        return known[ref]

    questions = [replace(example, image=ready(example.image)) for example in examples]
    if not items:
        return questions, list(contexts)
    return questions, [
        None
        if context is None
        else replace(context, items=tuple(replace(item, image=ready(item.image)) for item in context.items))
        for context in contexts
    ]
