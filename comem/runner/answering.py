"""Answer a benchmark's questions in a mode, into a run folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from comem.benchmarks import Benchmark
from comem.records import JsonlAppender, done_ids, write_atomic, write_json
from comem.runner.run_folder import ERRORS, PREDICTIONS, RUN, open_run
from comem.types import Example, RetrievedContext

log = logging.getLogger(__name__)

#: After so many failures and not one answer, the cause is not in the examples.
_HOPELESS = 10


class AnswerLike(Protocol):
    """What the runner records of a mode's answer (see `comem.backbones.base.Answer`)."""

    @property
    def text(self) -> str: ...
    @property
    def context_tokens(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def seconds(self) -> float: ...


class ModeLike(Protocol):
    """What the runner needs of a mode (see `comem.modes.base.Mode`)."""

    @property
    def name(self) -> str: ...

    def answer_batch(
        self, examples: Sequence[Example], contexts: Sequence[RetrievedContext | None]
    ) -> Sequence[AnswerLike]: ...


Progress = Callable[[int, int], None]
Contexts = Mapping[str, RetrievedContext]


@dataclass(frozen=True)
class RunCounts:
    """How a call of `predict` ended: questions in all, answered before, answered now, failed now."""

    total: int
    resumed: int
    predicted: int
    failed: int


def predict(
    benchmark: Benchmark,
    examples: Sequence[Example],
    mode: ModeLike,
    contexts: Contexts | None,
    run_folder: str | Path,
    *,
    batch_size: int = 8,
    resume: bool = True,
    limit: int | None = None,
    config: Mapping[str, Any] | None = None,
    strict: bool = False,
    sort: bool = True,
    progress: Progress | None = None,
) -> RunCounts:
    """Answer the examples that the run folder does not hold yet.

    Args:
        benchmark: the row that the examples come from.
        examples: the questions, each id once.
        mode: how they are answered.
        contexts: retrieved items by example id; None, or no entry, for none.
        run_folder: made when missing; must be of the same benchmark, mode and config.
        batch_size: questions in one call of the mode.
        resume: go on in a folder that holds predictions; otherwise such a folder is refused.
        limit: only the first so many examples.
        config: what else decides the answers (backbone, encoder, decoding, k, seed); plain values.
        strict: stop at the first example that fails, instead of recording it.
        sort: batch questions of like length, which wastes less padding.
        progress: called with (done, total) at the start and after every batch.

    Raises:
        ValueError: a folder of another run, an id twice, or no example that can be answered.
        StorageError: no space left, or another process writes there; what is written stays.
        KeyboardInterrupt: as it came; the batch under way is answered again by the next call.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: give at least 1")
    folder, chosen = Path(run_folder), _distinct(examples)[: limit if limit is None else max(0, limit)]
    resolved = {"benchmark": benchmark.name, "mode": mode.name, **(config or {})}
    with JsonlAppender(folder / PREDICTIONS) as file:
        run = open_run(folder, resolved, resume)
        done = done_ids(file.path, "data_id")
        write_atomic(folder / ERRORS, "")  # what failed before is tried again
        pending = [example for example in chosen if example.id not in done]
        if sort:
            pending.sort(key=lambda example: _length(example, contexts))
        resumed = len(chosen) - len(pending)
        session = _Session(mode, contexts or {}, file, folder / ERRORS, strict, resumed)
        try:
            session.work(pending, batch_size, len(chosen), progress)
        except KeyboardInterrupt:
            log.warning(
                "stopped after %d of %d; run again to go on", resumed + session.predicted, len(chosen)
            )
            raise
        finally:
            counts = RunCounts(len(chosen), resumed, session.predicted, session.failed)
            write_json(folder / RUN, {**run, "counts": vars(counts)})
    return counts


def _distinct(examples: Sequence[Example]) -> list[Example]:
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise ValueError(f"example {example.id!r} comes twice; every prediction belongs to one id")
        seen.add(example.id)
    return list(examples)


def _length(example: Example, contexts: Contexts | None) -> int:
    """About how long the prompt will be, in characters."""
    context = (contexts or {}).get(example.id)
    return len(example.question) + sum(len(item.text) for item in (context.items if context else ()))


class _Session:
    """One call of `predict`: the batches, and what came of them."""

    def __init__(
        self,
        mode: ModeLike,
        contexts: Contexts,
        file: JsonlAppender,
        errors: Path,
        strict: bool,
        resumed: int,
    ) -> None:
        self.mode, self.contexts, self.file = mode, contexts, file
        self.errors, self.strict, self.resumed = errors, strict, resumed
        self.predicted = self.failed = 0

    def work(self, pending: Sequence[Example], size: int, total: int, progress: Progress | None) -> None:
        """Answer the pending examples, `size` at a time."""
        tell = progress or (lambda done, total: None)
        tell(self.resumed, total)
        for start in range(0, len(pending), size):
            self._answer(pending[start : start + size])
            tell(self.resumed + self.predicted + self.failed, total)
        if self.failed and not self.predicted + self.resumed:
            raise ValueError(f"none of the {total} examples could be answered; the reasons: {self.errors}")

    def _answer(self, batch: Sequence[Example]) -> None:
        """Answer a batch; when it fails, one by one, so that only the culprit is missing."""
        contexts = [self.contexts.get(example.id) for example in batch]
        try:
            answers = self.mode.answer_batch(batch, contexts)
        except ValueError as error:  # a picture that does not open, an item that cannot be used
            if self.strict:
                raise
            if len(batch) == 1:
                self._record_failure(batch[0], error)
                return
            for example in batch:
                self._answer([example])
            return
        for example, context, answer in zip(batch, contexts, answers, strict=True):
            self.file.write(_row(example, context, answer))
            self.predicted += 1

    def _record_failure(self, example: Example, error: ValueError) -> None:
        self.failed += 1
        log.warning("%s is not answered: %s", example.id, error)
        with JsonlAppender(self.errors) as errors:
            errors.write({"data_id": example.id, "error": str(error), "kind": type(error).__name__})
        if self.failed >= _HOPELESS and not self.predicted + self.resumed:
            raise ValueError(f"the first {self.failed} examples failed, the last with: {error}") from error


def _row(example: Example, context: RetrievedContext | None, answer: AnswerLike) -> dict[str, Any]:
    """A prediction as the official scorers read it, with what it cost."""
    return {
        "data_id": example.id,
        "prediction": answer.text,
        "knowledge_ids": [item.id for item in context.items] if context is not None else [],
        "context_tokens": int(answer.context_tokens),
        "prompt_tokens": int(answer.prompt_tokens),
        "seconds": round(float(answer.seconds), 6),
    }
