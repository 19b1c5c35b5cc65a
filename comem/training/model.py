"""The training step as one module: encode the items, put their memory before the questions, predict."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comem.backbones.packing import pack_attention
from comem.memory.encoder import MemoryEncoder, check_width, hidden_size
from comem.memory.lora import adapters_off
from comem.training.collator import TrainingBatch
from comem.training.loss import summed_cross_entropy
from comem.training.plain_reader import Plain, divergence
from comem.training.reading import answer_states


class MemoryTrainingModel(nn.Module):
    """Cross-entropy of the answers, given the memory, under the frozen reader (paper, section 3.2).

    Encoder and reader share one copy of the base weights: LoRA on for the items, off for the questions.

    Args:
        encoder: LoRA and Q-Former on a backbone; its trainable parameters are the only ones.
        reader: another model that answers, of the encoder's output width; None is the encoder's own base.
        placeholder_id: an id that no question contains; None lets each call look for one.
        loss_chunk: answer tokens whose logits exist at a time; 0 is all (`summed_cross_entropy`).

    Raises:
        ValueError: the encoder writes memories of another width than the reader's.
    """

    def __init__(
        self,
        encoder: MemoryEncoder,
        reader: nn.Module | None = None,
        placeholder_id: int | None = None,
        loss_chunk: int = 0,
    ) -> None:
        super().__init__()
        self.encoder, self.placeholder_id, self.loss_chunk = encoder, placeholder_id, loss_chunk
        self.reader: Any = encoder.model if reader is None else reader
        if self.reader is not encoder.model:
            self.reader.requires_grad_(False)
            pack_attention(self.reader)  # the encoder's model does it itself
        check_width(encoder, hidden_size(self.reader))

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """The summed loss and the number of answer tokens, both scalars.

        A sum, so that the caller can take the mean over all answer tokens of a step, however the
        step was cut into micro-batches and over devices.
        """
        prefixes = self.prefixes(batch.items, batch.rows, batch.embeddings)
        with adapters_off(self.encoder.model):
            if batch.plain is None:
                loss, count = answer_loss(
                    self.reader, batch.question, prefixes, self.placeholder_id, self.loss_chunk
                )
            else:
                loss, count = self._loss_beside_plain(batch.question, prefixes, batch.plain)
        if not loss.requires_grad:  # no question has an item: still a (zero) gradient for every parameter
            loss = loss + sum(p.sum() * 0.0 for p in self.parameters() if p.requires_grad)
        return loss, count

    def _loss_beside_plain(
        self, question: Mapping[str, Tensor], prefixes: Sequence[Tensor | None], plain: Plain
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the answers; of some questions the divergence from the plain reader instead."""
        logits, targets, rows = answer_logits(self.reader, question, prefixes, self.placeholder_id)
        with torch.no_grad():
            without = [None] * len(plain.rows)
            said, same, _ = answer_logits(self.reader, plain.inputs, without, self.placeholder_id)
        theirs = torch.isin(rows, torch.tensor(plain.rows, device=rows.device))
        if not torch.equal(targets[theirs], same):
            raise ValueError("with and without items the labels differ: the chat template changes them")
        entropy = F.cross_entropy(logits[~theirs].float(), targets[~theirs], reduction="sum")
        loss = entropy + divergence(logits[theirs], said).sum()
        return loss, torch.tensor(len(targets), device=targets.device)

    def prefixes(
        self, items: Mapping[str, Tensor], rows: Sequence[Sequence[int]], embeddings: Sequence[int] = ()
    ) -> list[Tensor | None]:
        """Each question's memory `(k·q, d)` in its items' order, or None.

        Args:
            embeddings: per question how many of an item's embeddings it gets, the first ones; 0: all.
        """
        if not items:
            return [None] * len(rows)
        memory = self.encoder(dict(items))  # (n, q, d)
        memory = memory.to(self.reader.get_input_embeddings().weight.dtype)
        counts = [count or memory.shape[1] for count in embeddings or [0] * len(rows)]
        return [
            memory[list(row), :count].flatten(0, 1) if row else None
            for row, count in zip(rows, counts, strict=True)
        ]


def answer_loss(
    reader: Any,
    question: Mapping[str, Tensor],
    prefixes: Sequence[Tensor | None],
    placeholder_id: int | None = None,
    chunk: int = 0,
) -> tuple[Tensor, Tensor]:
    """Summed next-token cross-entropy over the labelled positions, and their number.

    Args:
        chunk: as `summed_cross_entropy`; the others as `answer_states`.
    """
    hidden, targets, _ = answer_states(reader, question, prefixes, placeholder_id)
    loss = summed_cross_entropy(reader.get_output_embeddings(), hidden, targets, chunk)
    return loss, torch.tensor(len(targets), device=targets.device)


def answer_logits(
    reader: Any,
    question: Mapping[str, Tensor],
    prefixes: Sequence[Tensor | None],
    placeholder_id: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `answer_states` gives, with logits `(a, v)` instead of hidden states."""
    hidden, targets, rows = answer_states(reader, question, prefixes, placeholder_id)
    return reader.get_output_embeddings()(hidden), targets, rows


def step_seed(seed: int, step: int, part: int = 0) -> int:
    """The random seed of one step on one process: a function of its place, so nothing needs saving."""
    return random.Random(f"{seed}/{step}/{part}").getrandbits(62)
