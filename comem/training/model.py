"""The training step as one module: encode the items, put their memory before the questions, predict."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from comem.backbones.decoder import text_positions
from comem.backbones.soft_prefix import soft_prefix
from comem.memory.encoder import MemoryEncoder, check_width, hidden_size
from comem.memory.lora import adapters_off
from comem.training.collator import TrainingBatch
from comem.training.labels import IGNORED


class MemoryTrainingModel(nn.Module):
    """Cross-entropy of the answers, given the memory, under the frozen reader (paper, section 3.2).

    Encoder and reader share one copy of the base weights: LoRA on for the items, off for the questions.

    Args:
        encoder: LoRA and Q-Former on a backbone; its trainable parameters are the only ones.
        reader: another model that answers, of the encoder's output width; None is the encoder's own base.
        placeholder_id: an id that no question contains; None lets each call look for one.

    Raises:
        ValueError: the encoder writes memories of another width than the reader's.
    """

    def __init__(
        self, encoder: MemoryEncoder, reader: nn.Module | None = None, placeholder_id: int | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.placeholder_id = encoder, placeholder_id
        self.reader: Any = encoder.model if reader is None else reader
        if self.reader is not encoder.model:
            self.reader.requires_grad_(False)
        check_width(encoder, hidden_size(self.reader))

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """The summed loss and the number of answer tokens, both scalars.

        A sum, so that the caller can take the mean over all answer tokens of a step, however the
        step was cut into micro-batches and over devices.
        """
        prefixes = self.prefixes(batch.items, batch.rows)
        with adapters_off(self.encoder.model):
            loss, count = answer_loss(self.reader, batch.question, prefixes, self.placeholder_id)
        if not loss.requires_grad:  # no question has an item: still a (zero) gradient for every parameter
            loss = loss + sum(p.sum() * 0.0 for p in self.parameters() if p.requires_grad)
        return loss, count

    def prefixes(self, items: Mapping[str, Tensor], rows: Sequence[Sequence[int]]) -> list[Tensor | None]:
        """Each question's memory `(k·q, d)` in its items' order, or None."""
        if not items:
            return [None] * len(rows)
        memory = self.encoder(dict(items))  # (n, q, d)
        memory = memory.to(self.reader.get_input_embeddings().weight.dtype)
        return [memory[list(row)].flatten(0, 1) if row else None for row in rows]


def answer_loss(
    reader: Any,
    question: Mapping[str, Tensor],
    prefixes: Sequence[Tensor | None],
    placeholder_id: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Summed next-token cross-entropy over the labelled positions, and their number.

    Only the hidden states that predict an answer token reach the output layer: logits of whole
    sequences over a vocabulary of 152,064 would be the largest tensor of the step by far.

    Args:
        reader: a causal model with `.model` (the trunk) and an output embedding.
        question: its inputs with `labels (b, l)`, -100 where nothing is learned.
        prefixes: per row `(m, d)` or None.
    """
    with soft_prefix(reader, question, prefixes, placeholder_id) as extended:
        labels = extended.pop("labels")  # (b, L)
        extended |= text_positions(reader, extended["attention_mask"])
        hidden = reader.model(**extended, use_cache=False).last_hidden_state  # (b, L, d)
    learned = labels[:, 1:] != IGNORED
    logits = reader.get_output_embeddings()(hidden[:, :-1][learned])  # (answer tokens, v)
    loss = F.cross_entropy(logits.float(), labels[:, 1:][learned], reduction="sum")
    return loss, learned.sum()


def step_seed(seed: int, step: int, part: int = 0) -> int:
    """The random seed of one step on one process: a function of its place, so nothing needs saving."""
    return random.Random(f"{seed}/{step}/{part}").getrandbits(62)
