"""The training step as one module: encode the items, put their memory before the questions, predict."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from comem.backbones.base import Answer, Conversations, Injection, RowMemories
from comem.backbones.positions import text_positions, with_positions
from comem.backbones.prepared import Prepared, pack
from comem.memory.encoder import TrainableEncoder, check_width, hidden_size
from comem.memory.injection.prefix import PREFIX, memory_at
from comem.memory.lora import adapters_off, adapters_on
from comem.training.collator import IGNORED, Plain, TrainingBatch


def summed_cross_entropy(
    head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, chunk: int = 0,
    weights: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Summed cross-entropy of `targets` `(a,)` under `head(hidden)`, hidden `(a, d)`.

    Args:
        head: hidden states to logits over the vocabulary `(a, v)`.
        hidden: `(a, d)`.
        targets: token ids `(a,)`.
        chunk: tokens whose logits exist at a time, forward and backward: each chunk's are computed again for
            the backward pass. At 7B a token's logits, their float32 copy and gradient take 1.5 MB. 0: all.
        weights: what each token counts, `(a,)`; None: 1.
    """
    if not chunk or len(targets) <= chunk:
        return _summed(head, hidden, targets, weights)
    counted: Any = [None] * len(targets) if weights is None else weights.split(chunk)  # type: ignore[no-untyped-call]
    parts = zip(hidden.split(chunk), targets.split(chunk), counted, strict=weights is not None)  # type: ignore[no-untyped-call]
    losses = [checkpoint(_summed, head, *part, use_reentrant=False) for part in parts]
    return torch.stack(losses).sum()


def _summed(
    head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, weights: Tensor | None = None
) -> Tensor:
    logits = head(hidden).float()
    if weights is None:
        return F.cross_entropy(logits, targets, reduction="sum")
    return (F.cross_entropy(logits, targets, reduction="none") * weights).sum()


def answer_states(
    reader: Prepared, question: Mapping[str, Tensor], memories: RowMemories, injection: Injection = PREFIX
) -> tuple[Tensor, Tensor, Tensor]:
    """What predicts the answers' tokens, a of them, over the whole batch.

    Only the hidden states that predict an answer token go on to the output layer: logits of whole
    sequences over a vocabulary of 152,064 would be the largest tensor of the step by far. Where the
    reader's attention and the injection allow it, the questions are packed: no layer computes padding.

    Args:
        reader: of a causal model with a trunk (`base_model`) and an output embedding.
        question: its inputs with `labels (b, l)`, -100 where nothing is learned.
        memories: per row `(m, d)` or None.
        injection: how they reach the reader.

    Returns:
        Hidden states `(a, d)`, the tokens that they predict `(a,)`, and the question of each, `(a,)`.
    """
    model: Any = reader.model
    with reader:
        if reader.packs and injection.packs:
            return _packed(model, question, memories, injection)
        with injection.attach(model, question, memories) as extended:
            labels = extended.pop("labels")  # (b, L)
            extended.update(text_positions(model, extended["attention_mask"]))
            hidden = model.base_model(**extended, use_cache=False).last_hidden_state  # (b, L, d)
    learned = labels[:, 1:] != IGNORED
    return hidden[:, :-1][learned], labels[:, 1:][learned], learned.nonzero()[:, 0]


def _packed(
    model: Any, question: Mapping[str, Tensor], memories: RowMemories, injection: Injection
) -> tuple[Tensor, Tensor, Tensor]:
    """The same from one row in which the questions follow each other; its labels never start a question."""
    sizes = [0 if memory is None else len(memory) for memory in memories]
    extended, where, free = injection.room(model, question, sizes)
    packed, rows = pack({**with_positions(model, extended), "_memory": where})
    labels, where = packed.pop("labels")[0], packed.pop("_memory")  # (total,), (1, total)
    with memory_at(model, memories, where, free):
        hidden = model.base_model(**packed, segments=rows, use_cache=False).last_hidden_state[0]  # (total, d)
    learned = labels[1:] != IGNORED
    numbers = torch.arange(len(rows.lengths), device=labels.device)
    question_of = numbers.repeat_interleave((rows.cumulative[1:] - rows.cumulative[:-1]).long())
    return hidden[:-1][learned], labels[1:][learned], question_of[1:][learned]


class MemoryTrainingModel(nn.Module):
    """Cross-entropy of the answers, given the memory, under the frozen reader (paper, section 3.2).

    Encoder and reader share one copy of the base weights: LoRA on for the items, off for the questions.

    Args:
        encoder: its trainable parameters are the only ones.
        reader: another model that answers, of the encoder's output width; None is the encoder's own base.
        injection: how memories reach the reader.
        loss_chunk: answer tokens whose logits exist at a time; 0 is all (`summed_cross_entropy`).

    Raises:
        ValueError: the encoder writes memories of another width than the reader's.
    """

    def __init__(
        self,
        encoder: TrainableEncoder,
        reader: nn.Module | None = None,
        injection: Injection = PREFIX,
        loss_chunk: int = 0,
    ) -> None:
        super().__init__()
        self.encoder, self.injection, self.loss_chunk = encoder, injection, loss_chunk
        self.injected: nn.Module | None = injection.weights
        self.reader: Any = encoder.model if reader is None else reader
        self.prepared = encoder.prepared
        self.reading = adapters_on if encoder.adapts_reader else adapters_off
        if self.reader is not encoder.model:
            self.reader.requires_grad_(False)
            self.prepared = Prepared(self.reader)
        if injection.takes != "vectors":
            raise ValueError(f"the injection {injection.name} takes no vectors: encoders make them")
        check_width(encoder, hidden_size(self.reader))

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """The summed loss and the number of answer tokens, or what they count together; both scalars.

        A sum, so that the caller can take the mean over all answer tokens of a step, however the
        step was cut into micro-batches and over devices.
        """
        prefixes = self.prefixes(batch.items, batch.rows, batch.embeddings, batch.vectors)
        question = {name: value for name, value in batch.question.items() if name != "weights"}
        weights = batch.question.get("weights")
        if weights is not None:  # of the learned tokens alone: their order is the same with memories between
            weights = weights[question["labels"] != IGNORED]
        with self.reading(self.encoder.model):
            if batch.plain is None:
                loss, count = answer_loss(
                    self.prepared, question, prefixes, self.injection, self.loss_chunk, weights
                )
            else:
                loss, count = self._loss_beside_plain(question, prefixes, batch.plain)
        if not loss.requires_grad:  # no question has an item: still a (zero) gradient for every parameter
            loss = loss + sum(p.sum() * 0.0 for p in self.parameters() if p.requires_grad)
        return loss, count

    def _loss_beside_plain(
        self, question: Mapping[str, Tensor], prefixes: Sequence[Tensor | None], plain: Plain
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the answers; of some questions the divergence from the plain reader instead."""
        logits, targets, rows = answer_logits(self.prepared, question, prefixes, self.injection)
        with torch.no_grad():
            without = [None] * len(plain.rows)
            said, same, _ = answer_logits(self.prepared, plain.inputs, without, self.injection)
        theirs = torch.isin(rows, torch.tensor(plain.rows, device=rows.device))
        if not torch.equal(targets[theirs], same):
            raise ValueError("with and without items the labels differ: the chat template changes them")
        entropy = F.cross_entropy(logits[~theirs].float(), targets[~theirs], reduction="sum")
        loss = entropy + divergence(logits[theirs], said).sum()
        return loss, torch.tensor(len(targets), device=targets.device)

    def figures(self) -> dict[str, float]:
        """What the log of each step has beside the loss."""
        return self.injection.figures()

    def answers(self, backbone: Any, chats: Conversations, batch: TrainingBatch) -> list[Answer]:
        """What the reader answers to dialogues without their last answers, with the batch's memories."""
        prefixes = self.prefixes(batch.items, batch.rows, vectors=batch.vectors)
        with self.reading(self.encoder.model):
            return backbone.generate(chats, prefixes, injection=self.injection)  # type: ignore[no-any-return]

    def prefixes(
        self, items: Mapping[str, Tensor], rows: Sequence[Sequence[int]], embeddings: Sequence[int] = (),
        vectors: int = 0,
    ) -> list[Tensor | None]:  # fmt: skip
        """Each question's memory `(k·q, d)` in its items' order, or None.

        Args:
            items: the encoder's inputs of all items; empty for none.
            rows: per question the places of its items among them.
            embeddings: per question how many of an item's embeddings it gets, the first ones; 0: all.
            vectors: how many the encoder is to write, if it writes any number; 0: its own.
        """
        if not items:
            return [None] * len(rows)
        asked: tuple[int, ...] = (vectors,) if vectors else ()
        memory = self.encoder(dict(items), *asked)  # (n, q, d)
        memory = memory.to(self.reader.get_input_embeddings().weight.dtype)
        counts = [count or memory.shape[1] for count in embeddings or [0] * len(rows)]
        return [
            memory[list(row), :count].flatten(0, 1) if row else None
            for row, count in zip(rows, counts, strict=True)
        ]


def answer_loss(
    reader: Prepared, question: Mapping[str, Tensor], memories: RowMemories, injection: Injection = PREFIX,
    chunk: int = 0, weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Summed next-token cross-entropy over the labelled positions, and their number, or their weights' sum.

    Args:
        reader: as `answer_states`.
        question: as `answer_states`.
        memories: as `answer_states`.
        injection: as `answer_states`.
        chunk: as `summed_cross_entropy`.
        weights: as `summed_cross_entropy`.
    """
    hidden, targets, _ = answer_states(reader, question, memories, injection)
    head: Any = reader.model
    loss = summed_cross_entropy(head.get_output_embeddings(), hidden, targets, chunk, weights)
    return loss, torch.tensor(len(targets), device=targets.device) if weights is None else weights.sum()


def answer_logits(
    reader: Prepared, question: Mapping[str, Tensor], memories: RowMemories, injection: Injection = PREFIX
) -> tuple[Tensor, Tensor, Tensor]:
    """What `answer_states` gives, with logits `(a, v)` instead of hidden states."""
    hidden, targets, rows = answer_states(reader, question, memories, injection)
    head: Any = reader.model
    return head.get_output_embeddings()(hidden), targets, rows


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of each token's distributions.

    Args:
        student: logits `(a, v)`.
        teacher: logits `(a, v)`.

    Returns:
        `(a,)`, in nats; 0 where the logits are equal.
    """
    ours, theirs = student.float().log_softmax(dim=-1), teacher.float().log_softmax(dim=-1)
    return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=-1)


def step_seed(seed: int, step: int, part: int = 0) -> int:
    """The random seed of one step on one process: a function of its place, so nothing needs saving."""
    return random.Random(f"{seed}/{step}/{part}").getrandbits(62)
