"""Settings of encoders and injections, without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from comem.backbones.specs import takes_pixels

#: The authors' layouts of a text-only reader's questions (`comem.memory.injection.authors`).
LAYOUTS = ("authors_llm", "authors_llm_training")
PROMPT = " Similar image and text knowledge for reference"
PICTURE_PROMPT = " Image of the question"
PAPER_PIXELS = (16 * 28 * 28, 64 * 28 * 28)  # 16 to 64 visual tokens (authors_code.md, section 2)


@dataclass(frozen=True)
class LoraSettings:
    """The paper's LoRA: rank 16, alpha 32, dropout 0.05, no biases (authors_code.md, section 2).

    Attributes:
        rank: of the matrices that are added to each linear layer.
        alpha: their sum counts alpha / rank times.
        dropout: of their input, in training.
        layers: so many of the language model's lowest layers get one; 0 is all.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    layers: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"LoRA rank={self.rank}: must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA dropout={self.dropout}: must be in [0, 1)")
        if self.layers < 0:
            raise ValueError(f"LoRA layers={self.layers}: give 0 for all, or so many of the lowest ones")


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
        layers: so many of the model's lowest layers read an item; 0 is all (`encoder=stretches`).
    """

    num_queries: int = 8
    depth: int = 8
    heads: int = 16
    ff_mult: int = 4
    shared: bool = True
    output_scale: float | Literal["auto"] | None = None
    near_identity: bool = False
    layers: int = 0

    def __post_init__(self) -> None:
        if self.layers < 0:
            raise ValueError(f"qformer.layers={self.layers}: give 0 for all, or so many of the lowest ones")


@dataclass(frozen=True)
class CrossSettings:
    """Gated cross-attention to memories: the blocks of the injections `cross` and `prefix_and_cross`.

    Attributes:
        every: a block before each layer whose number, from 1, is a multiple.
        layers: before these layers instead, counted from 0.
        heads: of the cross-attention; 0 for the reader's.
        head_dim: width of a head; 0 for the reader's.
        intermediate: width of the feed-forward layer; 0 for twice the reader's.
        positions: "none": the answer does not depend on the items' order; "rank": it can, the best is first.
        null_key: a learned key with value 0, to look at when no memory helps.
        start: fresh blocks: "reader" with the projections of the self-attention before which they stand, so
            that the reader looks at memories as at words; "random" draws them. Gates are 0 either way.
        freeze_gates: leave the gates as they are, as CoMemo's second stage does.
    """

    every: int = 4
    layers: tuple[int, ...] = ()
    heads: int = 0
    head_dim: int = 0
    intermediate: int = 0
    positions: Literal["none", "rank"] = "none"
    null_key: bool = True
    start: Literal["reader", "random"] = "reader"
    freeze_gates: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if self.every < 1:
            raise ValueError(f"cross.every={self.every}: give at least 1")
        for name in ("heads", "head_dim", "intermediate"):
            if getattr(self, name) < 0:
                raise ValueError(f"cross.{name}={getattr(self, name)}: give a size, or 0 for the reader's")
        if self.positions not in ("none", "rank"):
            raise ValueError(f"cross.positions={self.positions!r}; known: none, rank")
        if self.start not in ("reader", "random"):
            raise ValueError(f"cross.start={self.start!r}; known: reader, random")

    @property
    def blocks(self) -> CrossSettings:
        """What has to be alike for blocks to be trained on: all but how they start and what learns."""
        return replace(self, start="reader", freeze_gates=False)


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


@dataclass(frozen=True)
class HybridSettings:
    """Which of a question's items are given as text and image; the others become memory.

    Attributes:
        full: so many items, the best ones.
        budget: the most tokens that items may take, in full and as memory; 0 for no limit.
        unsure: in full only where the first token of an answer from memory alone is less probable than
            this; 0 always.
        alone: where some are given in full, leave the others out instead of giving their memory.
    """

    full: int = 1
    budget: int = 0
    unsure: float = 0.0
    alone: bool = False

    def __post_init__(self) -> None:
        if self.full < 0 or self.budget < 0:
            raise ValueError(f"full={self.full}, budget={self.budget}: give 0 or more")
        if not 0 <= self.unsure <= 1:
            raise ValueError(f"unsure={self.unsure}: give a probability, 0 to 1")


@dataclass(frozen=True)
class KnowledgeFormat:
    """How an item is written for the encoder; part of the encoder's identity.

    Attributes:
        prompt: what the user turn says after the image.
        max_chars: longer passages are cut.
        min_pixels, max_pixels: limits for the image. None for the paper's 16·28² and 64·28², kept
            inside the processor's own limits. (Released weights were in effect trained with 4·28²
            and 16384·28²: authors_code.md M4.)
        max_tiles: most tiles that the image is cut into, for processors that cut images.
        max_side: length of the image's longer side, for processors that resize by it.
        picture_prompt: what the user turn says after a question's own image, which then becomes a memory
            behind the items': for readers that see no images. None: such images are not encoded.
        style: "paper" is the authors' text, in Qwen-VL's marks; "template" is the model's own chat template
            (`comem.memory.items`); "bare" the item alone behind the text's first mark, without a chat's turns
            and without `prompt`. It follows from the encoder's kind, or the model (`BackboneSpec.items`).
    """

    prompt: str = PROMPT
    max_chars: int = 5000
    min_pixels: int | None = None
    max_pixels: int | None = None
    picture_prompt: str | None = None
    style: Literal["paper", "template", "bare"] = "paper"
    max_tiles: int | None = None
    max_side: int | None = None

    def __post_init__(self) -> None:
        if self.max_chars < 1:
            raise ValueError(f"max_chars={self.max_chars}: must be at least 1")
        low, high = self.min_pixels, self.max_pixels
        if (low is not None and low < 1) or (high is not None and high < 1):
            raise ValueError(f"pixel limits {low}..{high}: must be positive")
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_pixels={low} is above max_pixels={high}")

    @property
    def reads_images(self) -> bool:
        """Whether questions' own images become memories, too."""
        return self.picture_prompt is not None

    def of_question_image(self) -> KnowledgeFormat:
        """How a question's own image is written: as an item without passage, with its own prompt.

        Raises:
            ValueError: the encoder was not trained to read them.
        """
        if self.picture_prompt is None:
            raise ValueError(
                "this encoder does not read questions' images: train one for a text-only `reader`"
            )
        return replace(self, prompt=self.picture_prompt)

    def pixel_limits(self, image_processor: Any) -> tuple[int, int] | None:
        """The limits in effect with this image processor, in pixels; None where it knows no such limits."""
        size = getattr(image_processor, "size", None) or {}
        if self.style != "paper" and not takes_pixels(image_processor):
            return None
        own = (size["shortest_edge"], size["longest_edge"])
        low, high = (min(max(limit, own[0]), own[1]) for limit in PAPER_PIXELS)
        low = low if self.min_pixels is None else self.min_pixels
        high = high if self.max_pixels is None else self.max_pixels
        return min(low, high), max(low, high)
