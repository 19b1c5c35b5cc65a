"""What a reader answers, by forward passes alone.

An answer counts as given if every token of it, its end mark included, is the likeliest after those before
it: exactly when greedy decoding would give it, at the price of one pass instead of one a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.ablation_past.questions import RETRIEVALS, USUAL, Case
from comem.backbones.base import GenerationConfig, item_turns
from comem.backbones.hf import HFBackbone
from comem.memory.bank import MemoryBank
from comem.memory.lora import adapters_off
from comem.memory.qformer_encoder import QFormerEncoder
from comem.training.collator import answer_labels
from comem.training.model import answer_logits

BATCH = 100
FEWER, CUT = (1, 2, 4), ("1+0", USUAL)  # embeddings an item, beside all; of which retrievals
#: Without a right item: there the reader should say what it says without any.
WITHOUT = tuple(name for name, (right, _) in RETRIEVALS.items() if not right)
Marks = dict[str, str]


@dataclass(frozen=True)
class Asked:
    """Questions with the answers looked for, as the reader's inputs, `BATCH` of them each."""

    backbone: HFBackbone
    batches: tuple[dict[str, Tensor], ...]

    @torch.no_grad()
    def says(self, prefixes: Sequence[Tensor | None] | None = None) -> str:
        """For each question "1" if the frozen reader gives just its answer, else "0".

        Args:
            prefixes: each one's memory `(m, d)`.
        """
        model, marks = self.backbone.model, ""
        for inputs in self.batches:
            size = len(inputs["input_ids"])
            given = [None] * size if prefixes is None else prefixes[len(marks) : len(marks) + size]
            with adapters_off(model):
                logits, tokens, row = answer_logits(model, inputs, given, self.backbone.placeholder_id)
            newline = torch.cat([row[1:] != row[:-1], row.new_ones(1, dtype=torch.bool)])  # nobody decodes it
            wrong = set(row[(logits.argmax(-1) != tokens) & ~newline].tolist())
            marks += "".join("0" if n in wrong else "1" for n in range(size))
        return marks


def ask(
    backbone: HFBackbone, cases: Sequence[Case], answers: Sequence[str], retrieval: str | None = None
) -> Asked:
    """The questions with these answers; behind the items of a retrieval, as plain RAG has them."""
    process, batches, dialogues = backbone.process, [], []
    for case, answer in zip(cases, answers, strict=True):
        asked = replace(case.example, turns=((case.example.turns[0][0], answer),))
        items = case.items(retrieval) if retrieval else ()
        dialogues.append([*item_turns(backbone.spec.rag, items), *asked.messages()])
    for start in range(0, len(dialogues), BATCH):
        inputs = dict(process(dialogues[start : start + BATCH], add_generation_prompt=False))
        inputs["labels"] = answer_labels(inputs["input_ids"], process.tokenizer)
        batches.append(backbone.place(inputs))
    return Asked(backbone, tuple(batches))


def plain_answers(backbone: HFBackbone, cases: Sequence[Case]) -> list[str]:
    """What the reader says without knowledge."""
    asked = [case.example.messages(last_answer=False) for case in cases]
    short = GenerationConfig(max_new_tokens=24)
    parts = (asked[start : start + BATCH] for start in range(0, len(asked), BATCH))
    return [answer.text for part in parts for answer in backbone.generate(part, config=short)]


def measure_memory(
    encoder: QFormerEncoder, backbone: HFBackbone, cases: Sequence[Case], plain: Sequence[str]
) -> dict[str, Marks]:
    """Right answers, and the plain reader's own, from memory: by retrieval, or retrieval/embeddings."""
    items = {item.id: item for case in cases for name in RETRIEVALS for item in case.items(name)}
    bank = encoder.encode(list(items.values()), batch_size=64).to(dtype=backbone.dtype)
    asked = ask(backbone, cases, _right(cases))
    right = {name: asked.says(_prefixes(bank, cases, name)) for name in RETRIEVALS}
    right |= {f"{name}/{n}": asked.says(_prefixes(bank, cases, name, n)) for name in CUT for n in FEWER}
    asked = ask(backbone, cases, plain)
    return {
        "right": right,
        "plain": {name: asked.says(_prefixes(bank, cases, name)) for name in WITHOUT},
    }


def measure_rag(backbone: HFBackbone, cases: Sequence[Case], plain: Sequence[str]) -> dict[str, Marks]:
    """The same from the items themselves; "none" is the reader without knowledge."""
    answers = {"right": (_right(cases), RETRIEVALS), "plain": (plain, WITHOUT)}
    return {
        kind: {"none": ask(backbone, cases, looked_for).says()}
        | {name: ask(backbone, cases, looked_for, name).says() for name in names}
        for kind, (looked_for, names) in answers.items()
    }


def _right(cases: Sequence[Case]) -> list[str]:
    return [case.example.turns[0][1] for case in cases]


def _prefixes(
    bank: MemoryBank, cases: Sequence[Case], retrieval: str, count: int | None = None
) -> list[Tensor | None]:
    return [bank.of(case.items(retrieval)).prefix(count) for case in cases]
