"""Answer questions in a mode, into a run folder: batches, what fails, and going on after an interruption."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem.eval.run_folder import (
    ERRORS,
    PREDICTIONS,
    SHARDS,
    Failures,
    RunFolder,
    Shard,
    merge_shards,
    open_run,
    row_of,
)
from comem.io.console import Advance, Progress, quiet
from comem.io.files import JsonlAppender, sweep
from comem.io.images import ImageError, one_ahead, open_images, usable
from comem.types import Answer, Example, RetrievedContext

if TYPE_CHECKING:
    from comem.benchmarks import Benchmark
    from comem.modes import Mode

log = logging.getLogger(__name__)

#: After so many failures and not one answer, the cause is not in the examples. An image that is there but
#: cannot be used is its own example's fault, and does not count.
_HOPELESS = 10

Contexts = Mapping[str, RetrievedContext]


@dataclass(frozen=True)
class Run:
    """What a run folder holds after a call of `answer`, and how the call ended.

    Attributes:
        total: questions in all, or in this part.
        resumed: those that were answered before.
        predicted: those answered now.
        failed: those that failed now.
        unanswered: those in the folder that failed, now or before.
        answers: all answers of the folder, by example id.
    """

    total: int
    resumed: int
    predicted: int
    failed: int
    unanswered: int = 0
    answers: Mapping[str, Answer] = field(default_factory=dict, repr=False)


def answer(  # noqa: PLR0913 (each one optional)
    benchmark: Benchmark,
    examples: Sequence[Example],
    mode: Mode,
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
    progress: Progress = quiet,
) -> Run:
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
        progress: how far it is.

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
        sweep(folder.home)
        answers, failures = folder.answers(), Failures(folder.home / ERRORS)
        record = open_run(folder, resolved, inputs or {}, resume, answers)
        found = contexts or {}
        length = (lambda example: _length(example, found)) if sort else None
        batches = plan_batches(chosen, answers.keys(), failures.rows, batch_size, length)
        resumed = len(chosen) - sum(len(batch.wanted) for batch in batches)
        part = f", {shard}" if shard is not None and shard.count > 1 else ""
        session = _Session(mode, found, file, failures, strict, answers, resumed)
        try:
            with progress(
                f"answering ({mode.name}{part})", len(chosen), done=resumed, unit="questions"
            ) as advance:
                session.work(batches, len(chosen), advance)
        except KeyboardInterrupt:
            at = resumed + session.predicted
            log.warning("stopped after %d of %d; run again to go on", at, len(chosen))
            raise
        finally:
            counts = {"total": len(chosen), "resumed": resumed}
            counts |= {"predicted": session.predicted, "failed": session.failed}
            record.close(counts)
        failures.settle(answers)
    return Run(**counts, unanswered=len(failures.rows), answers=answers)


def _length(example: Example, contexts: Contexts) -> int:
    """About how long the prompt will be, in characters."""
    context = contexts.get(example.id)
    return len(example.question) + sum(len(item.text) for item in (context.items if context else ()))


@dataclass
class _Session:
    """One call of `answer`: the batches, and what came of them."""

    mode: Mode
    contexts: Contexts
    file: JsonlAppender
    failures: Failures
    strict: bool
    answers: dict[str, Answer]
    resumed: int
    predicted: int = 0
    failed: int = 0
    shared: int = 0  # failures whose cause may lie outside their examples
    left_out: dict[str, str] = field(default_factory=dict)

    def work(self, batches: Sequence[Batch], total: int, advance: Advance) -> None:
        """Answer batch after batch; the next one's images are opened and its prompts made meanwhile."""
        with one_ahead(self._opened, batches) as pairs:
            for batch, (examples, contexts) in pairs:
                before = self.predicted + self.failed
                self._answer(examples, contexts, batch.wanted)
                advance(self.predicted + self.failed - before)
        if self.left_out:
            name, why = next(iter(self.left_out.items()))
            log.warning(
                "%d items have images that cannot be used; their questions were answered without them. The "
                "first is %s: %s", len(self.left_out), name, why,
            )  # fmt: skip
        if self.failed and not self.predicted + self.resumed:
            raise ValueError(
                f"none of the {total} examples could be answered; the reasons: {self.failures.path}"
            )

    def _opened(self, batch: Batch) -> tuple[list[Example], list[RetrievedContext | None]]:
        contexts = [self.contexts.get(example.id) for example in batch.examples]
        items = self.mode.opens_item_images
        examples, contexts = open_images(batch.examples, contexts, items)
        if items and not self.strict:
            contexts = [usable(context, self.left_out) for context in contexts]
        self.mode.ahead(examples, contexts)
        return examples, contexts

    def _answer(
        self, batch: Sequence[Example], contexts: Sequence[RetrievedContext | None], wanted: frozenset[str]
    ) -> None:
        """Answer a batch; when it fails, one by one, so that only the culprit is missing."""
        try:
            answers = self.mode.answer_batch(batch, contexts)
        except ValueError as error:  # an image that does not open, an item that cannot be used
            if self.strict:
                raise
            if len(batch) == 1:
                self._record_failure(batch[0], error)
                return
            for example, context in zip(batch, contexts, strict=True):
                if example.id in wanted:
                    self._answer([example], [context], wanted)
            return
        for example, context, said in zip(batch, contexts, answers, strict=True):
            if example.id in wanted:
                self._write(example, context, said)

    def _write(self, example: Example, context: RetrievedContext | None, said: Answer) -> None:
        items = () if context is None else tuple(item.id for item in context.items)
        seconds = round(float(said.seconds), 6)
        said = replace(said, example_id=example.id, knowledge_ids=items, seconds=seconds)
        self.file.write(row_of(said))
        self.answers[example.id] = said
        self.predicted += 1

    def _record_failure(self, example: Example, error: ValueError) -> None:
        self.failed += 1
        log.warning("%s is not answered: %s", example.id, error)
        self.failures.add(example.id, error)
        self.shared += not isinstance(error, ImageError) or isinstance(error.__cause__, FileNotFoundError)
        if self.shared >= _HOPELESS and not self.predicted + self.resumed:
            raise ValueError(f"the first {self.failed} examples failed, the last with: {error}") from error


@dataclass(frozen=True)
class Batch:
    """Examples that are answered together; only those in `wanted` are still to be written."""

    examples: tuple[Example, ...]
    wanted: frozenset[str]


def distinct(examples: Sequence[Example]) -> list[Example]:
    """The examples, each id once.

    Raises:
        ValueError: an id comes twice.
    """
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise ValueError(f"example {example.id!r} comes twice; every prediction belongs to one id")
        seen.add(example.id)
    return list(examples)


def plan_batches(
    examples: Sequence[Example],
    done: Set[str],
    failed: Collection[str],
    size: int,
    length: Callable[[Example], int] | None = None,
) -> list[Batch]:
    """The batches that are left.

    An answer may depend, in its last digits or through sampling, on the batch that it is made in. So that
    a run which was killed equals an undisturbed one, the batches are those of all examples, and the one
    that the kill has cut is answered again as a whole. Where several are cut, the examples, the parts or
    the batch size were others before, and only what is missing is batched.

    Args:
        examples: all examples of the part.
        done: ids with an answer.
        failed: ids that could not be answered before; they are tried again, each alone, as they were.
        size: examples a batch.
        length: batches hold examples of like length, which wastes less padding; None keeps the order.
    """
    ordered = sorted(examples, key=length) if length else list(examples)
    again = {example.id for example in ordered if example.id in failed and example.id not in done}
    settled = done | again
    whole = [tuple(ordered[start : start + size]) for start in range(0, len(ordered), size)]
    cut = [batch for batch in whole if 0 < sum(example.id in settled for example in batch) < len(batch)]
    if len(cut) > 1:
        missing = [example for example in ordered if example.id not in settled]
        whole = [tuple(missing[start : start + size]) for start in range(0, len(missing), size)]
    batches = [Batch(batch, frozenset(example.id for example in batch) - settled) for batch in whole]
    alone = [Batch((example,), frozenset({example.id})) for example in ordered if example.id in again]
    return [batch for batch in batches if batch.wanted] + alone
