"""`comem data synthesise`: the options of `comem predict` in the mode rag, and what is kept of it."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from comem.console import print_facts
from comem.prediction.options import ALIASES, GROUPS

#: Options of `comem predict` that plain RAG on a sample of the questions has no use for.
_NOT_ASKED = (
    "--mode", "--encoder", "--bank", "--item-order", "--kv-layers", "--kv-fraction", "--limit", "--shard",
    "--merge",
)  # fmt: skip
_FIXED = {
    "mode": "rag", "encoder": None, "bank": None, "item_order": "retrieval", "kv_layers": (),
    "kv_fraction": 1.0, "limit": None, "shard": "1/1", "merge": False,
}  # fmt: skip


def add_synthesise_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem data synthesise`."""
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for name, settings in options.items():
            if name not in _NOT_ASKED:
                group.add_argument(name, *ALIASES.get(name, ()), **settings)
    parser.set_defaults(**_FIXED)
    group = parser.add_argument_group("synthesis (--seed draws the candidates, too)")
    group.add_argument("--candidates", type=int, metavar="N", help="questions to try (default: all)")
    group.add_argument("--target", type=int, metavar="N", help="at most so many records (default: all right)")
    group.add_argument("--min-score", type=float, default=1.0, metavar="X", help="to be right (%(default)s)")
    group.add_argument("--min-items", type=int, metavar="N", help="items a record needs (default: -k)")


def run_synthesise(args: argparse.Namespace) -> int:
    """Draw, retrieve, answer, keep what is right; run again, it goes on."""
    from comem.benchmarks import BENCHMARKS
    from comem.data.files import MANIFEST, TRAIN
    from comem.data.synthesis import RUN, Rules, candidates, keep_right
    from comem.prediction.assemble import retrieve
    from comem.prediction.commands import generation_config, open_mode
    from comem.prediction.run import Questions, answer_part, this_part

    benchmark, output = BENCHMARKS[args.benchmark], args.output
    items = args.k if args.min_items is None else args.min_items
    rules = Rules(args.min_score, items, args.target, args.seed)
    data = args.data if args.data is not None else benchmark.fetch(args.split)
    loaded = benchmark.load(
        data, image_folder=args.images, split=args.split, question_types=args.question_types
    )
    examples = candidates(list(loaded), args.candidates, args.seed)
    if not examples:
        raise ValueError(
            f"{data} holds no question" + (f" of the split {args.split!r}" if args.split else "")
        )
    if (part := this_part(args)).count > 1:
        raise ValueError("synthesise runs in one process, not under accelerate launch")
    mode, config = open_mode(args, benchmark)
    if mode.backbone.spec.sees_images:
        benchmark.require_pictures(examples)
    args.output = output / RUN
    config |= {"candidates": args.candidates, "seed": args.seed}
    answer_part(args, Questions(benchmark, data, examples), mode, config, part)
    found = args.contexts or args.output / "contexts.jsonl"
    contexts = retrieve(args.index, found, examples, args.k)
    about = {
        "config": config, "decoding": asdict(generation_config(args)),
        "prompt": {"style": config["prompt"], "first": benchmark.ask(examples[0], True, config["prompt"])},
    }  # fmt: skip
    manifest = keep_right(benchmark, examples, contexts, output, rules, about)
    print_facts(
        [
            ("candidates", f"{manifest['candidates']:,}"), ("kept", f"{manifest['kept']:,}"),
            *((f"dropped: {reason}", f"{count:,}") for reason, count in manifest["dropped"].items()),
            ("records", str(output / TRAIN)), ("manifest", str(output / MANIFEST)),
        ]
    )  # fmt: skip
    return 0
