"""Settings of encoders and injections, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: The authors' layouts of a text-only reader's questions (`comem.memory.injection.authors`).
LAYOUTS = ("authors_llm", "authors_llm_training")


@dataclass(frozen=True)
class LoraSettings:
    """The paper's LoRA: rank 16, alpha 32, dropout 0.05, no biases (authors_code.md, section 2).

    Attributes:
        rank: of the matrices that are added to each linear layer.
        alpha: their sum counts alpha / rank times.
        dropout: of their input, in training.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"LoRA rank={self.rank}: must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA dropout={self.dropout}: must be in [0, 1)")


@dataclass(frozen=True)
class QFormerSettings:
    """Size of the Q-Former; its widths follow from the models (authors_code.md 1.3).

    Attributes:
        num_queries: vectors of an item's memory.
        depth: layers.
        heads: of its attention.
        ff_mult: its feed-forward layers are so many times as wide as the model.
        shared: whether all layers share their weights.
        output_scale: start value of the learned output scale: "auto" is the mean norm of the backbone's token
            embeddings (learns faster), None the authors' plain LayerNorm.
        near_identity: start each query as the mean of the hidden states (`QFormer.start_near_identity`)
            instead of near zero.
    """

    num_queries: int = 8
    depth: int = 8
    heads: int = 16
    ff_mult: int = 4
    shared: bool = True
    output_scale: float | Literal["auto"] | None = None
    near_identity: bool = False


@dataclass(frozen=True)
class KVSettings:
    """What is kept of an item.

    Attributes:
        layers: counted from 0; empty for the paper's 17 to 19 of 28, scaled to the model's depth.
        fraction: keep this share of an item's tokens, those with most attention; 0.25 is the paper's
            "+AS".
        score_layer: the layer whose attention ranks tokens.
        scale: factor on keys and values.
        with_question: items are read with the question in front, so nothing can be read in advance.
    """

    layers: tuple[int, ...] = ()
    fraction: float = 1.0
    score_layer: int = 0
    scale: float = 1.0
    with_question: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction {self.fraction}: give more than 0 and at most 1, the share to keep")
        if not self.scale > 0:
            raise ValueError(f"scale {self.scale}: give more than 0; 1 leaves keys and values as they are")
