"""`comem predict`: a benchmark's questions, a mode, a backbone, a retriever; answers and their score."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from comem.console import print_facts
from comem.prediction.assemble import lay_out, open_encoder
from comem.prediction.options import add_predict_arguments
from comem.prediction.run import Questions, answer_part, merge_and_score, score, this_part

if TYPE_CHECKING:
    from comem.backbones.base import GenerationConfig
    from comem.benchmarks import Benchmark
    from comem.modes import Mode
    from comem.types import Example


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
            benchmark.require_pictures(examples)
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
    from comem.benchmarks.prompts import PROMPTS
    from comem.engine.engine import accelerated
    from comem.memory.store.serve import open_memories
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
