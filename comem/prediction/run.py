"""One call of `comem predict`: a part of the questions, or all; who is last merges the parts and scores."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem.console import print_facts
from comem.prediction.assemble import answer, retrieve

if TYPE_CHECKING:
    from comem.benchmarks import Benchmark
    from comem.modes import Mode
    from comem.runner import Shard
    from comem.types import Example


@dataclass(frozen=True)
class Questions:
    """What is asked: a benchmark's row, the file or folder it was read from, and its examples."""

    benchmark: Benchmark
    data: Path
    examples: list[Example]


def this_part(args: argparse.Namespace) -> Shard:
    """The part of the run that this process takes; its device is set to the GPU of its own."""
    from comem.runner import Processes, Shard

    processes = Processes.of()
    if processes.count > 1:
        import torch

        args.device = processes.device(args.device, torch.cuda.device_count())
    return Shard.parse(args.shard).within(processes)


def answer_part(
    args: argparse.Namespace, questions: Questions, mode: Mode, config: Mapping[str, Any], shard: Shard
) -> None:
    """Find the items and answer, into the run folder."""
    from comem.runner.run_folder import RunFolder

    contexts = None
    sources = {"data": questions.data, "question_types": args.question_types}
    if mode.grounded:
        mine, cache = shard.of(questions.examples), RunFolder(args.output, shard).home / "contexts.jsonl"
        contexts = retrieve(args.index, args.contexts, mine, args.k, args.languages, cache)
        sources |= {"index": args.index, "contexts": args.contexts, "bank": args.bank}
    inputs = {name: Path(path) for name, path in sources.items() if path is not None}
    answer(
        questions.benchmark, questions.examples, mode, contexts, args.output, config, args.batch_size,
        args.strict, shard, inputs,
    )  # fmt: skip


def merge_and_score(args: argparse.Namespace, questions: Questions, shard: Shard) -> None:
    """Put the parts together and score them, if this process is the last one or was asked to."""
    from comem.records import StorageError
    from comem.runner import being_merged, is_complete, merge_shards

    if not args.merge and not is_complete(args.output, questions.examples):
        print_facts([(f"part {shard}", f"done; the last part merges all in {args.output}")])
        return
    try:
        counts = merge_shards(args.output, questions.examples)
    except StorageError as error:
        if not being_merged(error):
            raise
        print_facts([(f"part {shard}", f"done; another process merges all in {args.output}")])
        return
    merged = f"{counts.answered} answered, {counts.failed} failed, {counts.missing} in no part yet"
    print_facts([("merged", merged)])
    score(args, questions)


def score(args: argparse.Namespace, questions: Questions) -> None:
    """Score the run folder and print the score."""
    from comem.evaluation.commands import show
    from comem.evaluation.scorers import SCORERS
    from comem.runner import evaluate

    report = evaluate(questions.benchmark, questions.examples, args.output)
    show(report, SCORERS[questions.benchmark.evaluation])
    print_facts([("run folder", str(args.output))])
