"""What a reader answers, by forward passes alone.

An answer counts as given if every token of it, its end mark included, is the likeliest after those before
it: exactly when greedy decoding would give it, at the price of one pass instead of one a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.ablation_past.questions import RETRIEVALS, Case
from comem.backbones.base import GenerationConfig
from comem.backbones.hf import HFBackbone
from comem.backbones.item_turns import item_turns
from comem.memory.bank import MemoryBank
from comem.memory.encoder import MemoryEncoder
from comem.memory.lora import adapters_off
from comem.training.dataset import TrainingExample
from comem.training.labels import answer_labels
from comem.training.model import answer_logits
from comem.types import KnowledgeItem, Message

BATCH = 100
FEWER = (1, 2, 4)  # embeddings an item, beside all
Marks = dict[str, str]


@dataclass(frozen=True)
class Row:
    """A question, the answer looked for, and knowledge: items in the context, or a memory `(m, d)`."""

    example: TrainingExample
    answer: str
    items: tuple[KnowledgeItem, ...] = ()
    prefix: Tensor | None = None

    def messages(self, backbone: HFBackbone) -> list[Message]:
        asked = replace(self.example, turns=((self.example.turns[0][0], self.answer),))
        return [*item_turns(backbone.spec.rag, self.items), *asked.messages()]


def says(backbone: HFBackbone, rows: Sequence[Row]) -> str:
    """For each row "1" if the frozen reader gives just its answer, else "0"."""
    marks = ""
    for part in _batches(rows):
        logits, tokens, row = _logits(backbone, part)
        newline = torch.cat([row[1:] != row[:-1], row.new_ones(1, dtype=torch.bool)])  # nobody decodes it
        wrong = set(row[(logits.argmax(-1) != tokens) & ~newline].tolist())
        marks += "".join("0" if n in wrong else "1" for n in range(len(part)))
    return marks


@torch.no_grad()
def _logits(backbone: HFBackbone, rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor]:
    process, model = backbone.process, backbone.model
    inputs = backbone.place(process([row.messages(backbone) for row in rows], add_generation_prompt=False))
    inputs["labels"] = answer_labels(inputs["input_ids"].cpu(), process.tokenizer).to(backbone.device)
    with adapters_off(model):
        return answer_logits(model, inputs, [row.prefix for row in rows], backbone.placeholder_id)


def _batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


def plain_answers(backbone: HFBackbone, cases: Sequence[Case]) -> list[str]:
    """What the reader says without knowledge."""
    asked = [case.example.messages(last_answer=False) for case in cases]
    short = GenerationConfig(max_new_tokens=24)
    parts = (asked[start : start + BATCH] for start in range(0, len(asked), BATCH))
    return [answer.text for part in parts for answer in backbone.generate(part, config=short)]


def measure_memory(
    backbone: HFBackbone,
    encoder: MemoryEncoder,
    cases: Sequence[Case],
    plain: Sequence[str],
    retrievals: Sequence[str],
) -> dict[str, Marks]:
    """Right answers, and the plain reader's own, from memory: by retrieval, or retrieval/embeddings."""
    items = {item.id: item for case in cases for item in (case.right, *case.wrong)}
    if not any(RETRIEVALS[name][1] for name in retrievals):
        items = {case.right.id: case.right for case in cases}
    bank = encoder.encode(list(items.values()), batch_size=64).to(dtype=backbone.dtype)
    right = {name: says(backbone, _from_bank(bank, cases, _right(cases), name)) for name in retrievals}
    for count in FEWER:
        rows = _from_bank(bank, cases, _right(cases), retrievals[0], count)
        right[f"{retrievals[0]}/{count}"] = says(backbone, rows)
    return {
        "right": right,
        "plain": {name: says(backbone, _from_bank(bank, cases, plain, name)) for name in _wrong(retrievals)},
    }


def measure_rag(
    backbone: HFBackbone, cases: Sequence[Case], plain: Sequence[str], retrievals: Sequence[str]
) -> dict[str, Marks]:
    """The same from the items themselves; "none" is the reader without knowledge."""
    right = {name: says(backbone, _in_context(cases, _right(cases), name)) for name in retrievals}
    agree = {name: says(backbone, _in_context(cases, plain, name)) for name in _wrong(retrievals)}
    for marks, answers in ((right, _right(cases)), (agree, plain)):
        rows = [Row(case.example, answer) for case, answer in zip(cases, answers, strict=True)]
        marks["none"] = says(backbone, rows)
    return {"right": right, "plain": agree}


def _wrong(retrievals: Sequence[str]) -> list[str]:
    """Those without a right item: there the reader should say what it says without any."""
    return [name for name in retrievals if not RETRIEVALS[name][0]]


def _right(cases: Sequence[Case]) -> list[str]:
    return [case.example.turns[0][1] for case in cases]


def _from_bank(
    bank: MemoryBank, cases: Sequence[Case], answers: Sequence[str], retrieval: str, count: int | None = None
) -> list[Row]:
    return [
        Row(case.example, answer, prefix=bank.of(case.items(retrieval)).prefix(count))
        for case, answer in zip(cases, answers, strict=True)
    ]


def _in_context(cases: Sequence[Case], answers: Sequence[str], retrieval: str) -> list[Row]:
    return [
        Row(case.example, answer, tuple(case.items(retrieval)))
        for case, answer in zip(cases, answers, strict=True)
    ]
