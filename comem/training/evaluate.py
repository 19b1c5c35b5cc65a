"""Evaluation during training: loss on held-out answers, and answers generated from memory."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import torch

from comem.memory.lora import adapters_off
from comem.training.collator import Collator
from comem.training.dataset import TrainingExample
from comem.training.model import MemoryTrainingModel


@torch.no_grad()
def evaluate(
    model: MemoryTrainingModel,
    backbone: Any,
    collator: Collator,
    examples: Sequence[TrainingExample],
    batch_size: int,
) -> dict[str, float]:
    """Loss (mean over answer tokens) and accuracy of generated answers.

    Args:
        backbone: generates; None leaves the accuracy out.

    Returns:
        `eval_loss`, `eval_accuracy`, `eval_examples`.
    """
    was_training = model.training
    model.eval()
    device = next(model.encoder.parameters()).device
    loss, tokens, right, asked = 0.0, 0, 0, 0
    for at in range(0, len(examples), batch_size):
        batch = collator(examples[at : at + batch_size]).to(device)
        if not batch.ids:
            continue
        summed, count = model(batch)
        loss, tokens, asked = loss + float(summed), tokens + int(count), asked + len(batch.ids)
        if backbone is not None:
            known = {example.id: example for example in examples[at : at + batch_size]}
            asking = [known[identifier] for identifier in batch.ids]
            prefixes = model.prefixes(batch.items, batch.rows)
            with adapters_off(model.encoder.model):
                answers = backbone.generate([e.messages(last_answer=False) for e in asking], prefixes)
            right += sum(is_right(a.text, e.answers) for a, e in zip(answers, asking, strict=True))
    model.train(was_training)
    metrics = {"eval_loss": loss / max(tokens, 1), "eval_examples": float(asked)}
    if backbone is not None:
        metrics["eval_accuracy"] = right / max(asked, 1)
    return metrics


def is_right(answer: str, accepted: Sequence[str]) -> bool:
    """Whether the answer is an accepted one, case, punctuation and spaces aside.

    A quick guide for choosing checkpoints; the benchmarks' own scorers judge results.
    """
    return _plain(answer) in {_plain(text) for text in accepted}


def _plain(text: str) -> str:
    """Case-folded words; punctuation goes, except inside numbers (1.5 is not 15)."""
    text = unicodedata.normalize("NFKC", text).casefold()
    marks = "".join({c for c in text if unicodedata.category(c)[0] == "P"})
    words = (word.strip(marks) for word in text.split())
    return " ".join(word for word in words if word)
