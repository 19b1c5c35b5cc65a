"""Answers by generation about entities that neither reader nor memory has seen, with intervals.

`python -m tools.smollm2.measure --model FOLDER --way none rag comem --memory FOLDER --items 1 3`: a line of
JSON for each way and number of items, appended to --output. "none" is the question alone, "rag" the passages
in front of it in the same turn, "comem" their memories in that place. An answer is right if the value stands
in it, the same rule for all.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from comem.backbones.base import GenerationConfig
from comem.backbones.hf import HFBackbone, load_backbone
from comem.benchmarks.scoring import Bootstrap
from comem.io.console import print_line
from comem.memory.encoder import load_encoder
from comem.memory.injection import INJECTIONS
from comem.memory.stretch_encoder import StretchEncoder
from comem.toy.world import Split
from comem.types import KnowledgeItem, Message
from tools.smollm2.prose import ASKED, READ, Entry
from tools.smollm2.towns import QUESTIONS, SYSTEM, near, right, towns

ANSWER = GenerationConfig(max_new_tokens=28)


@dataclass(frozen=True)
class Asked:
    """A question, its items in random order, and how an answer is judged.

    Attributes:
        text: the question.
        kind: which fact it asks for.
        items: the right one among them.
        right: whether an answer says the value.
        near: the same, numbers within ten per cent.
    """

    text: str
    kind: str
    items: tuple[KnowledgeItem, ...]
    right: Callable[[str], bool]
    near: Callable[[str], bool]


def questions(split: Split, skip: int, count: int, items: int) -> list[Asked]:
    """All six facts of so many towns, each town's item among others of the split."""
    every, found = towns(split), []
    for place, town in enumerate(every[skip : skip + count], start=skip):
        rng = random.Random(f"others/{place}")
        chosen = [town, *rng.sample([other for other in every if other is not town], items - 1)]
        rng.shuffle(chosen)
        shown = tuple(KnowledgeItem(one.id, one.passage(), None) for one in chosen)
        for number, fact in enumerate(QUESTIONS):
            text = QUESTIONS[fact][(place + number) % 2].format(name=town.name)
            judges = [lambda said, t=town, f=fact, rule=rule: rule(said, t, f) for rule in (right, near)]
            found.append(Asked(text, fact, shown, *judges))
    return found


def prose_questions(corpus: str, entries: Sequence[Entry], items: int, held: bool = True) -> list[Asked]:
    """Real facts in real words: every question that is measured about the entries of one kind.

    Args:
        corpus: which questions.
        entries: all passages.
        items: of a question, its entity's among others.
        held: about those that no memory was trained on, or about the others.
    """
    found = []
    for entry in (one for one in entries if one.held == held):
        for fact in ASKED[corpus]:
            if fact not in entry.facts:
                continue
            rng = random.Random(f"{entry.name}/{fact}")
            chosen = [entry, *rng.sample([other for other in entries if other is not entry], items - 1)]
            rng.shuffle(chosen)
            shown = tuple(KnowledgeItem(one.name, one.passage(), None) for one in chosen)
            wanted = (entry.facts[fact], *entry.accepted.get(fact, ()))
            judges = [
                lambda said, wanted=wanted: _says(said, wanted),
                lambda said, wanted=wanted: _says(said, wanted) or _within(said, wanted[0]),
            ]
            found.append(Asked(entry.turn(fact, 0)["question"], fact, shown, *judges))
    return found


def _says(said: str, accepted: Sequence[str]) -> bool:
    """Whether an accepted answer stands in it, as whole words; numbers may have commas."""
    plain = f" {_words(said)} "
    return any(f" {_words(answer)} " in plain for answer in accepted)


def _words(text: str) -> str:
    text = re.sub(r"(?<=\d),(?=\d)", "", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(re.findall(r"\w+", text))


def _within(said: str, wanted: str) -> bool:
    """Whether a number in it lies within ten per cent of one that is asked for."""
    if not re.fullmatch(r"\d+(\.\d+)?", wanted):
        return False
    numbers = map(float, re.findall(r"\d+(?:\.\d+)?", said.replace(",", "")))
    return any(abs(number - float(wanted)) <= 0.1 * float(wanted) for number in numbers)


def answers(
    backbone: HFBackbone, asked: Sequence[Asked], way: str, encoder: StretchEncoder | None, batch: int = 16
) -> list[str]:
    """What the reader says.

    Args:
        backbone: the frozen reader.
        asked: the questions.
        way: none, rag or comem.
        encoder: of the memories; only for comem.
        batch: questions at a time.
    """
    injection, bank = None, None
    if encoder is not None and way == "comem":
        injection = INJECTIONS["in_turn"](backbone, encoder)
        bank = encoder.encode(list({item.id: item for one in asked for item in one.items}.values()))
    said: list[str] = []
    for start in range(0, len(asked), batch):
        some = asked[start : start + batch]
        texts = [one.text for one in some]
        if way == "rag":
            texts = ["\n\n".join([*(item.text for item in one.items), one.text]) for one in some]
        chats = [[Message("system", (SYSTEM,)), Message("user", (text,))] for text in texts]
        memories = None
        if bank is not None:
            memories = [bank.select([i.id for i in one.items]).embeddings.flatten(0, 1) for one in some]
        said += [found.text for found in backbone.generate(chats, memories, ANSWER, injection)]
    return said


def summary(asked: Sequence[Asked], said: Sequence[str]) -> dict[str, Any]:
    """Percent right with its interval, within ten per cent, and by fact."""
    good = [float(one.right(text)) for one, text in zip(asked, said, strict=True)]
    close = [float(one.near(text)) for one, text in zip(asked, said, strict=True)]
    drawn = sorted(Bootstrap(2000).means(good).tolist())
    kinds = sorted({one.kind for one in asked})
    by_kind = {k: [g for g, one in zip(good, asked, strict=True) if one.kind == k] for k in kinds}
    return {
        "n": len(good), "right": round(100 * sum(good) / len(good), 1),
        "interval": [round(100 * drawn[round(q * (len(drawn) - 1))], 1) for q in (0.025, 0.975)],
        "within_ten_percent": round(100 * sum(close) / len(close), 1),
        "by_kind": {kind: round(100 * sum(g) / len(g)) for kind, g in by_kind.items()},
    }  # fmt: skip


def main() -> None:
    """Measure, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--memory", help="encoder folder")
    parser.add_argument(
        "--way", nargs="+", default=["none", "rag", "comem"], choices=["none", "rag", "comem"]
    )
    parser.add_argument("--items", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--vectors", type=int, nargs="+", default=[0], help="of an item; 0 as it was trained")
    parser.add_argument("--towns", type=int, default=16, help="six questions each")
    parser.add_argument("--skip", type=int, default=100, help="towns of the split before them")
    parser.add_argument("--split", default="test", choices=["train", "val", "test"])
    parser.add_argument(
        "--flags", type=Path, help="folder of real flags: held-out countries instead of towns"
    )
    parser.add_argument(
        "--elements", type=Path, help="wheel of mendeleev: held-out elements instead of towns"
    )
    parser.add_argument("--output", type=Path, help="JSONL, appended to")
    parser.add_argument("--show", type=int, default=0, help="print so many answers")
    args = parser.parse_args()
    torch.manual_seed(0)
    backbone = load_backbone(args.model, attn="eager")
    encoder: Any = load_encoder(args.memory, backbone) if args.memory and "comem" in args.way else None
    corpus = next((name for name in READ if getattr(args, name)), "")
    entries = READ[corpus](getattr(args, corpus)) if corpus else []
    for items in args.items:
        if corpus:
            asked = prose_questions(corpus, entries, items)
        else:
            asked = questions(args.split, args.skip, args.towns, items)
        for way in args.way:
            for vectors in args.vectors if way == "comem" else [0]:
                if way == "comem" and encoder is None:
                    raise SystemExit("comem needs --memory FOLDER")
                if vectors:
                    encoder.set_vectors(vectors)
                began = time.perf_counter()
                said = answers(backbone, asked, way, encoder)
                about = {
                    "way": way,
                    "items": items,
                    "vectors": encoder.num_vectors if way == "comem" else None,
                }
                where = {"split": args.split, "skip": args.skip}
                row = {**about, **({"source": corpus} if corpus else where), **summary(asked, said)}
                line = json.dumps(row | {"seconds": round(time.perf_counter() - began)})
                print_line(line)
                if args.output:
                    with args.output.open("a", encoding="utf-8") as file:
                        file.write(line + "\n")
                for one, text in list(zip(asked, said, strict=True))[: args.show]:
                    print_line(f"  {'✓' if one.right(text) else '✗'} {one.text} | {text}")


if __name__ == "__main__":
    main()
