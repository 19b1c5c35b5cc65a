"""What the lossy forms of a memory bank cost: answers that change, and how far the logits move.

    python benchmarks/bank_forms.py --encoder toy [--model toy] [--items 1000] [--output FILE.json]

Builds the embedded world, encodes all its items once in full precision, writes the bank in every form, and
answers the same questions from each. For every form: bytes an item; the share of answers that are, letter by
letter, those of full precision; accuracy; and, with full precision's answer put in the model's mouth, the
mean Kullback-Leibler divergence of the next-token distributions (nats), their largest logit difference, and
how often the most likely token stays the same. pq and prq are trained on the items of another world.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

FORMS = ("fp32", "bf16", "fp16", "int8", "pq", "prq")


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory(prefix="comem-forms-") as folder:
        rows = measure(Path(folder), args)
    print(f"{'form':6}{'bytes':>9}{'same answer':>13}{'accuracy':>10}{'KL':>11}{'max logit':>11}{'top-1':>8}")
    for row in rows:
        print(
            f"{row['form']:6}{row['bytes_per_item']:9,}{row['same_answer']:13.3f}{row['accuracy']:10.3f}"
            f"{row['kl']:11.2e}{row['max_logit_difference']:11.3f}{row['same_top_token']:8.3f}"
        )
    if args.output:
        from comem.io.files import write_json
        from comem.io.run_folder import run_manifest

        settings = {name: str(value) for name, value in vars(args).items() if name != "output"}
        result = {"benchmark": "bank_forms", "settings": settings, "results": rows}
        write_json(args.output, result | {"manifest": run_manifest({"seed": args.seed})})


def _arguments() -> argparse.Namespace:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--encoder", required=True, help='encoder folder, or "toy"')
    parser.add_argument("--model", default="toy", help="the reader (%(default)s)")
    parser.add_argument("--items", type=int, default=1000, help="of the world (%(default)s)")
    parser.add_argument("--questions", type=int, default=200, help="(%(default)s)")
    parser.add_argument("-k", type=int, default=1, help="items a question (%(default)s)")
    parser.add_argument("--seed", type=int, default=100, help="the world's; 0 was trained on (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser.parse_args()


def measure(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a form."""
    from functools import partial

    from comem.backbones.hf import load_backbone
    from comem.bank.build import build_store
    from comem.bank.serve import open_bank
    from comem.bank.upkeep import export_store, merge_stores
    from comem.benchmarks import BENCHMARKS
    from comem.memory.encoder import load_encoder
    from comem.modes.comem import ComemMode

    backbone = load_backbone(args.model)
    encoder = load_encoder(args.encoder, backbone)
    base, examples, contexts = _world(folder, args.seed, args)
    build_store(encoder, base.items(range(len(base))), folder / "fp32", "fp32", args.batch_size)
    other, *_ = _world(folder / "other", args.seed + 1, args)
    build_store(encoder, other.items(range(len(other))), folder / "train", "fp32", args.batch_size)
    benchmark, rows, full = BENCHMARKS["toy"], [], None
    for form in FORMS:
        if form != "fp32":
            export_store(folder / "train", folder / form, form, ids=[]).close()  # trained, and empty
            merge_stores([folder / "fp32"], folder / form).close()
        memories = open_bank(folder / form, encoder)
        mode = ComemMode(backbone, ask=partial(benchmark.ask, style=benchmark.style), bank=memories)
        answers = _answers(mode, examples, contexts, args.batch_size)
        logits = [
            _logits(mode, example, context, answer)
            for example, context, answer in zip(examples, contexts, full[0] if full else answers, strict=True)
        ]
        if full is None:
            full = answers, logits
        assert memories.counts.encoder_calls == 0
        rows.append(
            {"form": form, "bytes_per_item": memories.store.info.stride, **_compare(full, answers, logits)}
        )
        rows[-1]["accuracy"] = _accuracy(examples, answers)
        print(form, rows[-1], file=sys.stderr, flush=True)
    return rows


def _world(folder: Path, seed: int, args: argparse.Namespace) -> tuple[Any, list[Any], list[Any]]:
    """The knowledge base, the questions, and for each question its items."""
    from comem.benchmarks import BENCHMARKS
    from comem.retrieval.index import IndexSettings, build_index
    from comem.retrieval.retriever import RetrieverSettings, open_retriever
    from comem.toy.dataset import DataSettings
    from comem.toy.dataset import build as build_world

    sizes = {"size": args.items, "train_questions": 2, "test_questions": args.questions}
    build_world(DataSettings(folder / "data", seed=seed, **sizes))
    corpus = (str(folder / "data" / "wit.tsv.gz"),)
    build_index(IndexSettings(corpus=corpus, output=folder / "index", embedder="toy"))
    examples = list(BENCHMARKS["toy"].load(folder / "data" / "test.jsonl"))[: args.questions]
    retriever = open_retriever(RetrieverSettings(index=folder / "index"))
    return retriever.base, examples, list(retriever.retrieve(examples, args.k).values())


def _answers(mode: Any, examples: list[Any], contexts: list[Any], batch: int) -> list[str]:
    found = []
    for start in range(0, len(examples), batch):
        part = slice(start, start + batch)
        found += [answer.text for answer in mode.answer_batch(examples[part], contexts[part])]
    return found


def _logits(mode: Any, example: Any, context: Any, answer: str) -> Any:
    """float32 `(t, v)`: the logits from which the tokens of `answer` (and its end) would be drawn."""
    import torch

    from comem.memory.injection import PREFIX
    from comem.memory.lora import adapters_off
    from comem.modes.base import item_lists
    from comem.types import Message

    backbone = mode.backbone
    question = mode.question_turn(example, bool(context.items))
    (prefix,) = mode.memories(item_lists([example], [context]))
    asked = backbone.process([[question]], add_generation_prompt=True)["input_ids"].shape[1]
    whole = backbone.process([[question, Message("assistant", (answer,))]], add_generation_prompt=False)
    whole = {name: value.to(backbone.device) for name, value in whole.items()}
    memory = None if prefix is None else prefix.to(backbone.device, backbone.dtype)
    with (
        torch.no_grad(),
        adapters_off(backbone.model),
        PREFIX.attach(backbone.model, whole, [memory]) as inputs,
    ):
        logits = backbone.model(**inputs).logits[0].float()
    shift = 0 if memory is None else len(memory)
    return logits[shift + asked - 1 : -1].cpu()


def _compare(full: tuple[list[str], list[Any]], answers: list[str], logits: list[Any]) -> dict[str, float]:
    import torch

    divergence, largest, same = [], 0.0, []
    for reference, found in zip(full[1], logits, strict=True):
        first, second = torch.log_softmax(reference, -1), torch.log_softmax(found, -1)
        divergence.append((first.exp() * (first - second)).sum(-1))
        largest = max(largest, float((reference - found).abs().max()))
        same.append((reference.argmax(-1) == found.argmax(-1)).float())
    agreement = [a == b for a, b in zip(full[0], answers, strict=True)]
    return {
        "same_answer": sum(agreement) / len(agreement), "kl": float(torch.cat(divergence).mean()),
        "max_logit_difference": largest, "same_top_token": float(torch.cat(same).mean()),
    }  # fmt: skip


def _accuracy(examples: list[Any], answers: list[str]) -> float:
    """Share of answers that are, without regard to case, one of the accepted strings."""
    right = [
        answer.strip().lower() in {accepted.strip().lower() for accepted in example.answers}
        for example, answer in zip(examples, answers, strict=True)
    ]
    return sum(right) / len(right)


if __name__ == "__main__":
    main()
