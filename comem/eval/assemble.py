"""From names and folders to the parts of a run: encoder, contexts, answers and score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem.io.console import bar

if TYPE_CHECKING:
    from comem.backbones.base import Backbone
    from comem.backbones.hf import HFBackbone
    from comem.benchmarks import Benchmark
    from comem.eval.plan import Shard
    from comem.memory.encoder import MemoryEncoder
    from comem.modes import Mode
    from comem.retrieval.retriever import Retriever
    from comem.types import Example, Report, RetrievedContext

_BATCH = 64  # questions in one search


def lay_out(backbone: HFBackbone, encoder: MemoryEncoder | None, layout: str) -> Backbone:
    """The backbone, or one whose questions are laid out as in the authors' code for text-only readers.

    Raises:
        ValueError: an unknown layout, or one of theirs without an encoder.
    """
    from comem.compat.question_layout import AuthorsTextReader, check_layout

    if (name := check_layout(layout)) == "comem":
        return backbone
    if encoder is None:
        raise ValueError(
            f"question layout {layout!r} reads the question with the encoder: give --encoder DIR"
        )
    return AuthorsTextReader(backbone, encoder, name)


def retrieve(
    index: Path | None, contexts: Path | None, examples: Sequence[Example], k: int,
    languages: Sequence[str] | None = None, cache: Path | None = None,
) -> dict[str, RetrievedContext]:  # fmt: skip
    """The items of each question by its id: from a file of results, else searched for in the index.

    What was searched for is kept in `cache`, so that an interrupted run searches for nothing twice.

    Raises:
        ValueError: no index, k below 1, or results of another index.
    """
    from comem.retrieval.retriever import RETRIEVERS, retrieve_to_file

    if index is None:
        raise ValueError("this mode needs knowledge: give --index DIR (comem index build makes one)")
    if k < 1:
        raise ValueError(f"-k {k}: give at least 1 item a question")
    if contexts:
        retriever = RETRIEVERS["precomputed"](index, contexts)
    else:
        retriever = RETRIEVERS["faiss"](index, languages=languages)
        if cache is not None:
            with bar("retrieving", len(examples), " questions") as progress:
                retrieve_to_file(retriever, _counted(examples, progress.update), k, cache, batch_size=_BATCH)
            retriever = RETRIEVERS["precomputed"](index, cache)
    return _retrieved(retriever, examples, k)


def _counted(examples: Sequence[Example], count: Callable[[int], object]) -> Iterator[Example]:
    for example in examples:
        yield example
        count(1)


def _retrieved(retriever: Retriever, examples: Sequence[Example], k: int) -> dict[str, RetrievedContext]:
    found: dict[str, RetrievedContext] = {}
    for start in range(0, len(examples), _BATCH):
        contexts = retriever.retrieve(examples[start : start + _BATCH], k)
        found |= {context.example_id: context for context in contexts}
    return found


def answer_and_score(
    benchmark: Benchmark, examples: Sequence[Example], mode: Mode,
    contexts: Mapping[str, RetrievedContext] | None, folder: str | Path, config: Mapping[str, Any],
    batch_size: int = 8, strict: bool = False,
) -> Report:  # fmt: skip
    """Answer into a run folder, with a progress bar, and score it (see `comem.eval`)."""
    from comem.eval.scoring import evaluate

    answer(benchmark, examples, mode, contexts, folder, config, batch_size, strict)
    return evaluate(benchmark, examples, folder)


def answer(
    benchmark: Benchmark, examples: Sequence[Example], mode: Mode,
    contexts: Mapping[str, RetrievedContext] | None, folder: str | Path, config: Mapping[str, Any],
    batch_size: int = 8, strict: bool = False, shard: Shard | None = None,
    inputs: Mapping[str, Path] | None = None,
) -> None:  # fmt: skip
    """Answer into a run folder, or one part of it, with a progress bar."""
    from comem.eval.answering import predict

    part = f", {shard}" if shard is not None and shard.count > 1 else ""
    with bar(f"answering ({mode.name}{part})", len(examples), " questions") as shown:

        def progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        predict(
            benchmark, examples, mode, contexts, folder,
            batch_size=batch_size, config=config, strict=strict, progress=progress, shard=shard,
            inputs=inputs,
        )  # fmt: skip
