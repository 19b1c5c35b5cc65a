"""The options of `comem predict`, as data."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem.eval.assemble import answer, lay_out, retrieve
from comem.io.console import print_facts

if TYPE_CHECKING:
    from comem.backbones.base import GenerationConfig
    from comem.benchmarks import Benchmark
    from comem.eval.plan import Shard
    from comem.modes import Mode
    from comem.types import Example

HELP = """\
examples:
  comem predict --benchmark toy --data data/toy --split test --mode baseline --output runs/baseline
  comem predict --benchmark toy --data data/toy --split test --mode comem --encoder toy \\
      --index data/toy/index -k 3 --output runs/comem
  comem predict --benchmark infoseek --data infoseek_val.jsonl --images oven --mode comem \\
      --model qwen2_5_vl_7b --encoder models/encoder --bank bank.safetensors --index wit-index \\
      --contexts retrieved.jsonl --output runs/infoseek
  comem predict --benchmark flags --data ../shared/data/flags --mode rag comem vlm_as_memory \\
      --index runs/flags/index --bank runs/flags/bank --output runs/flags/answers
Modes: baseline (the question alone), rag (items in the prompt), comem (items as memory),
  vlm_as_memory (keys and values of a few layers of the untrained model).
Run the same command again after an interruption: it goes on where it stopped.
Several GPUs or processes, each with a part of the questions; the last one merges the parts and scores:
  accelerate launch --multi_gpu --num_processes 4 -m comem predict … --output runs/infoseek
  comem predict … --output runs/infoseek --shard 1/4        # on one machine, 2/4 on another, …
  comem predict … --output runs/infoseek --merge            # what there is by now
"""

_QUESTIONS: dict[str, dict[str, Any]] = {
    "--benchmark": {
        "required": True,
        "metavar": "NAME",
        "help": "infoseek, infoseek_es …, okvqa, cvqa, toy …",
    },
    "--data": {"type": Path, "metavar": "PATH", "help": "its file or folder (default: from the hub)"},
    "--images": {"type": Path, "metavar": "DIR", "help": "where its pictures lie"},
    "--split": {"help": "only this split"},
    "--question-types": {"type": Path, "metavar": "FILE", "help": "if the benchmark has such a file"},
    "--prompt": {"metavar": "STYLE", "help": "paper, short, bare … (default: the benchmark's)"},
    "--limit": {"type": int, "metavar": "N", "help": "only the first N questions"},
}
_MODEL: dict[str, dict[str, Any]] = {
    "--mode": {
        "required": True,
        "nargs": "+",
        "metavar": "NAME",
        "help": "baseline, rag, comem, vlm_as_memory; of several, each gets a folder in --output",
    },
    "--model": {"default": "toy", "help": "table row, hub id or folder (%(default)s: the embedded one)"},
    "--encoder": {"metavar": "DIR", "help": 'memory encoder folder, or "toy"; for comem'},
    "--bank": {"type": Path, "metavar": "PATH", "help": "of comem bank build or comem encode; for comem"},
    "--embeddings": {"type": int, "metavar": "N", "help": "of each item, the first N (an elastic memory)"},
    "--item-order": {"default": "retrieval", "metavar": "ORDER", "help": "retrieval (best first), reversed"},
    "--question-layout": {
        "default": "comem",
        "metavar": "NAME",
        "help": "comem; authors_llm, authors_llm_training (text-only readers: docs/receivers.md)",
    },
    "--kv-layers": {"type": int, "nargs": "+", "default": (), "metavar": "L", "help": "for vlm_as_memory"},
    "--kv-fraction": {"type": float, "default": 1.0, "metavar": "X", "help": "… tokens kept (1: all)"},
    "--dtype": {"default": "auto", "help": "auto, float32, bfloat16, float16"},
    "--device": {"help": "cpu, cuda, cuda:1, auto (default: a GPU if there is one)"},
    "--attn": {"help": "sdpa, eager, flash_attention_2 (default: transformers' choice)"},
    "--trust-remote-code": {"action": "store_true", "help": "run code from the model's repository"},
    "--min-pixels": {"type": int, "metavar": "N", "help": "smallest picture, in pixels"},
    "--max-pixels": {"type": int, "metavar": "N", "help": "largest picture, in pixels"},
}
_KNOWLEDGE: dict[str, dict[str, Any]] = {
    "--index": {"type": Path, "metavar": "DIR", "help": "made by comem index build; for rag and comem"},
    "--contexts": {"type": Path, "metavar": "FILE", "help": "made by comem retrieve: nothing is searched"},
    "--languages": {"nargs": "+", "metavar": "CODE", "help": "only items in these; own: in the question's"},
    "-k": {"type": int, "default": 3, "help": "items a question (%(default)s, as the paper)"},
}
_DECODING: dict[str, dict[str, Any]] = {
    "--max-new-tokens": {"type": int, "default": 64, "metavar": "N", "help": "longest answer (%(default)s)"},
    "--temperature": {"type": float, "default": 0.0, "metavar": "X", "help": "0 is greedy (%(default)s)"},
    "--top-p": {"type": float, "default": 1.0, "metavar": "X", "help": "when sampling (%(default)s)"},
    "--repetition-penalty": {"type": float, "default": 1.0, "metavar": "X", "help": "1: none (%(default)s)"},
    "--seed": {"type": int, "default": 0, "metavar": "N", "help": "when sampling (%(default)s)"},
    "--engine": {
        "default": "comem",
        "choices": ("comem", "transformers"),
        "help": "comem: the same greedy answers sooner; transformers: its own generate (%(default)s)",
    },
    "--paper-sampling": {"action": "store_true", "help": "as the paper's inference, instead of the above"},
}
_RUN: dict[str, dict[str, Any]] = {
    "--output": {"required": True, "type": Path, "metavar": "DIR", "help": "the run folder"},
    "--batch-size": {"type": int, "default": 8, "metavar": "N", "help": "questions a batch (%(default)s)"},
    "--shard": {"default": "1/1", "metavar": "I/N", "help": "only part I of N, 1/4 to 4/4 for four"},
    "--merge": {"action": "store_true", "help": "answer nothing: put the parts together, and score"},
    "--strict": {"action": "store_true", "help": "stop at the first question that fails"},
}
GROUPS = {
    "questions": _QUESTIONS, "model": _MODEL, "knowledge": _KNOWLEDGE, "decoding": _DECODING, "run": _RUN,
}  # fmt: skip

#: Other names of options.
ALIASES = {"--model": ("--backbone",)}


def add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem predict`."""
    parser.epilog = HELP
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for name, settings in options.items():
            group.add_argument(name, *ALIASES.get(name, ()), **settings)


@dataclass(frozen=True)
class Questions:
    """What is asked: a benchmark's row, the file or folder it was read from, and its examples."""

    benchmark: Benchmark
    data: Path
    examples: list[Example]


def this_part(args: argparse.Namespace) -> Shard:
    """The part of the run that this process takes; its device is set to the GPU of its own."""
    from comem.eval.plan import Processes, Shard

    processes = Processes.of()
    if processes.count > 1:
        import torch

        args.device = processes.device(args.device, torch.cuda.device_count())
    return Shard.parse(args.shard).within(processes)


def answer_part(
    args: argparse.Namespace, questions: Questions, mode: Mode, config: Mapping[str, Any], shard: Shard
) -> None:
    """Find the items and answer, into the run folder."""
    from comem.eval.run_folder import RunFolder

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
    from comem.eval.shards import being_merged, is_complete, merge_shards
    from comem.io.files import StorageError

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
    from comem.eval.commands import show
    from comem.eval.scoring import evaluate

    report = evaluate(questions.benchmark, questions.examples, args.output)
    show(report, questions.benchmark.headline)
    print_facts([("run folder", str(args.output))])


def run_predict(args: argparse.Namespace) -> int:
    """Answer in one mode, or in several one after the other, each in a folder of its own."""
    from comem.modes import MODES

    for name in args.mode:
        MODES[name]  # a wrong name fails before the first mode has answered
    if len(set(args.mode)) != len(args.mode):
        raise ValueError(f"--mode {' '.join(args.mode)}: give each mode once")
    for name in args.mode:
        output = args.output / name if len(args.mode) > 1 else args.output
        _predict(argparse.Namespace(**vars(args) | {"mode": name, "output": output}))
    return 0


def _predict(args: argparse.Namespace) -> None:
    """Answer, score, print the score."""
    from comem.benchmarks import BENCHMARKS

    benchmark, shard = BENCHMARKS[args.benchmark], this_part(args)
    loaded = benchmark.load(
        args.data, image_folder=args.images, split=args.split, question_types=args.question_types
    )
    examples = list(islice(loaded, args.limit))
    data = args.data if args.data is not None else benchmark.fetch(args.split)
    questions = Questions(benchmark, data, examples)
    if not args.merge:
        mode, config = open_mode(args, benchmark)
        if mode.opens_question_pictures:
            benchmark.require_images(examples)
        answer_part(args, questions, mode, config, shard)
        if (memories := getattr(mode, "bank", None)) is not None:
            print_facts([("memories", memories.describe())])
    if args.merge or shard.count > 1:
        merge_and_score(args, questions, shard)
    else:
        score(args, questions)


def open_mode(args: argparse.Namespace, benchmark: Benchmark) -> tuple[Mode, dict[str, Any]]:
    """The mode on its backbone, and what the run folder records of it; wrong names fail before the work."""
    from comem.backbones.hf import load_backbone
    from comem.bank.cache import open_memories
    from comem.benchmarks.prompts import PROMPTS
    from comem.engine.scheduler import accelerated
    from comem.memory.serialization import open_encoder
    from comem.modes import MODES, KVSettings

    style = args.prompt or benchmark.style
    build, _ = MODES[args.mode], PROMPTS[style]
    generation = generation_config(args)
    kv = KVSettings(layers=tuple(args.kv_layers), fraction=args.kv_fraction)

    def ask(example: Example, grounded: bool) -> str:
        return benchmark.ask(example, grounded, style)

    limits = {"min_pixels": args.min_pixels, "max_pixels": args.max_pixels}
    trusted = {"trust_remote_code": args.trust_remote_code}
    backbone = load_backbone(args.model, args.dtype, args.device, args.attn, **limits, **trusted)
    encoder = open_encoder(args.encoder, backbone) if args.encoder else None
    bank = open_memories(args.bank, encoder) if args.bank else None
    reading = {"item_order": args.item_order, "kv": kv, "embeddings": args.embeddings}
    reader = lay_out(backbone, encoder, args.question_layout)
    mode = build(reader, encoder, bank, prompt=ask, generation=generation, **reading)
    if args.engine == "comem":
        mode = accelerated(mode)

    config = {"model": args.model, "dtype": args.dtype, "prompt": style, "generation": asdict(generation)}
    config |= {"engine": args.engine}
    config |= {**limits, "weights": weights_digest(backbone.model)}
    if mode.grounded:
        made_by = bank.fingerprint if bank is not None else encoder.fingerprint() if encoder else None
        config |= {"k": args.k, "item_order": args.item_order, "encoder": made_by, "index": str(args.index)}
        config |= {"contexts": str(args.contexts) if args.contexts else None, "languages": args.languages}
    if args.question_layout != "comem":
        config |= {"question_layout": args.question_layout}
    if args.embeddings is not None and hasattr(mode, "embeddings"):
        config |= {"embeddings": args.embeddings}
    if (kept := getattr(mode, "kv", None)) is not None:
        config |= {"kv": asdict(kept)}
    return mode, config


def weights_digest(model: Any) -> str | None:
    """Which weights answer, should a hub id or folder get others; None where they are offloaded to disk."""
    from comem.memory.fingerprint import base_digest

    return None if any(weight.is_meta for weight in model.parameters()) else base_digest(model)


def generation_config(args: argparse.Namespace) -> GenerationConfig:
    """How answers are decoded."""
    from comem.backbones.base import PAPER_SAMPLING, GenerationConfig

    if args.paper_sampling:
        return PAPER_SAMPLING
    return GenerationConfig(
        args.max_new_tokens, args.temperature, args.top_p, args.repetition_penalty, args.seed
    )


__all__ = ["add_predict_arguments", "run_predict"]
