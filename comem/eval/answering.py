"""Answer a benchmark's questions in a mode, into a run folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from comem.benchmarks import Benchmark
from comem.eval.plan import Batch, Shard, distinct, plan_batches
from comem.eval.run_folder import ERRORS, PREDICTIONS, SHARDS, Failures, RunFolder, open_run
from comem.eval.shards import merge_shards
from comem.io.jsonl import JsonlAppender
from comem.io.prefetch import one_ahead, open_pictures
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
    """What the runner needs of a mode (see `comem.modes.base.Mode`).

    A mode whose `opens_item_pictures` is true gets the pictures of items opened ahead.
    """

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
    inputs: Mapping[str, Path] | None = None,
    shard: Shard | None = None,
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
        inputs: files and folders that the examples and contexts come from; their checksums are noted.
        shard: answer only this part, into `shards/` of the run folder (see `merge_shards`).
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
    folder = RunFolder(Path(run_folder), shard or Shard())
    every = distinct(examples)[: limit if limit is None else max(0, limit)]
    chosen = folder.shard.of(every)
    resolved = {"benchmark": benchmark.name, "mode": mode.name, **(config or {})}
    if folder.home == folder.path and (folder.path / SHARDS).is_dir():
        merge_shards(folder.path, every)
    with JsonlAppender(folder.home / PREDICTIONS) as file:
        folder.sweep()
        record = open_run(folder, resolved, inputs, resume)
        done, failures = folder.answered(), Failures(folder.home / ERRORS)
        length = (lambda example: _length(example, contexts)) if sort else None
        batches = plan_batches(chosen, done, failures.rows, batch_size, length)
        resumed = len(chosen) - sum(len(batch.wanted) for batch in batches)
        session = _Session(mode, contexts or {}, file, failures, strict, resumed)
        try:
            session.work(batches, len(chosen), progress)
        except KeyboardInterrupt:
            at = resumed + session.predicted
            log.warning("stopped after %d of %d; run again to go on", at, len(chosen))
            raise
        finally:
            counts = RunCounts(len(chosen), resumed, session.predicted, session.failed)
            record.close(vars(counts))
        failures.settle(folder.answered())
    return counts


def _length(example: Example, contexts: Contexts | None) -> int:
    """About how long the prompt will be, in characters."""
    context = (contexts or {}).get(example.id)
    return len(example.question) + sum(len(item.text) for item in (context.items if context else ()))


class _Session:
    """One call of `predict`: the batches, and what came of them."""

    def __init__(
        self, mode: ModeLike, contexts: Contexts, file: JsonlAppender, failures: Failures, strict: bool,
        resumed: int,
    ) -> None:  # fmt: skip
        self.mode, self.contexts, self.file = mode, contexts, file
        self.failures, self.strict, self.resumed = failures, strict, resumed
        self.item_pictures = bool(getattr(mode, "opens_item_pictures", False))
        self.predicted = self.failed = 0

    def work(self, batches: Sequence[Batch], total: int, progress: Progress | None) -> None:
        """Answer batch after batch; the next one's pictures are opened and its prompts made meanwhile."""
        tell = progress or (lambda done, total: None)
        tell(self.resumed, total)
        with one_ahead(self._opened, batches) as pairs:
            for batch, (examples, contexts) in pairs:
                self._answer(examples, contexts, batch.wanted)
                tell(self.resumed + self.predicted + self.failed, total)
        if self.failed and not self.predicted + self.resumed:
            raise ValueError(
                f"none of the {total} examples could be answered; the reasons: {self.failures.path}"
            )

    def _opened(self, batch: Batch) -> tuple[list[Example], list[RetrievedContext | None]]:
        contexts = [self.contexts.get(example.id) for example in batch.examples]
        examples, contexts = open_pictures(batch.examples, contexts, self.item_pictures)
        if (ahead := getattr(self.mode, "ahead", None)) is not None:
            ahead(examples, contexts)
        return examples, contexts

    def _answer(
        self, batch: Sequence[Example], contexts: Sequence[RetrievedContext | None], wanted: frozenset[str]
    ) -> None:
        """Answer a batch; when it fails, one by one, so that only the culprit is missing."""
        try:
            answers = self.mode.answer_batch(batch, contexts)
        except ValueError as error:  # a picture that does not open, an item that cannot be used
            if self.strict:
                raise
            if len(batch) == 1:
                self._record_failure(batch[0], error)
                return
            for example, context in zip(batch, contexts, strict=True):
                if example.id in wanted:
                    self._answer([example], [context], wanted)
            return
        for example, context, answer in zip(batch, contexts, answers, strict=True):
            if example.id in wanted:
                self.file.write(_row(example, context, answer))
                self.predicted += 1

    def _record_failure(self, example: Example, error: ValueError) -> None:
        self.failed += 1
        log.warning("%s is not answered: %s", example.id, error)
        self.failures.add(example.id, error)
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
