"""Memories as media of gated cross-attention: the sequence does not grow with the number of items.

Blocks before some of the reader's layers attend to the k·q embeddings of a question's items
(`comem.backbones.media`; CoMemo, arXiv 2506.06279, does so with the tokens of images). Their gates start at
0, so an untrained block is no block, and a question without items is read by the base model, bitwise.
docs/comemo.md has what it is worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from comem.backbones.base import Backbone, Injection, RowMemories
from comem.backbones.media import BlockSizes, Media, MediaBlocks, every
from comem.backbones.positions import decoder_layers, fresh_positions, with_token_types
from comem.backbones.specs import BackboneError, BackboneSpec
from comem.memory.encoder import Learned, MemoryEncoder
from comem.memory.injection.prefix import Prefix, prefix_for
from comem.memory.settings import CrossSettings


@dataclass(frozen=True)
class Cross(Injection):
    """Memories `(m, d)` as keys and values of the reader's blocks.

    ```python
    injection = INJECTIONS["cross"](backbone, encoder)      # an encoder trained with injection=cross
    answers = backbone.generate(conversations, memories, injection=injection)
    ```

    Attributes:
        weights: the blocks.
        positions: "none", or "rank": the place of an embedding in its memory, the best item's first.
        prefix: puts the same memories in front of the question, too; None does not.
    """

    weights: MediaBlocks
    positions: Literal["none", "rank"] = "none"
    prefix: Prefix | None = None

    @property
    def name(self) -> str:
        """Its row in `INJECTIONS`."""
        return "cross" if self.prefix is None else "prefix_and_cross"

    @property
    def in_sequence(self) -> bool:  # type: ignore[override]
        """Whether the memory takes positions of the prompt, too."""
        return self.prefix is not None

    def check(self, spec: BackboneSpec) -> None:
        """Refuse, with a BackboneError, a model whose layers are out of reach."""
        if not spec.soft_prefix:
            raise BackboneError(f"{spec.name} takes no memory; use the baseline or rag mode with it")

    def figures(self) -> dict[str, float]:
        """|tanh| of each gate."""
        return {f"gate/{name}": value for name, value in self.weights.gates().items()}

    @contextmanager
    def attach(
        self, model: Any, inputs: Mapping[str, Any], memories: RowMemories
    ) -> Iterator[dict[str, Any]]:
        """As `Injection.attach`; rows without a memory skip the blocks.

        Raises:
            ValueError: another number of memories than of rows, or memories of another width.
        """
        rows = len(inputs["input_ids"])
        if len(memories) != rows:
            raise ValueError(f"{len(memories)} memories for {rows} rows: one per row, None for no memory")
        with ExitStack() as held:
            if self.prefix is not None:
                extended = held.enter_context(self.prefix.attach(model, inputs, memories))
            else:
                held.enter_context(fresh_positions(model))
                extended = with_token_types(model, inputs)
                if extended.get("attention_mask") is None:
                    extended["attention_mask"] = torch.ones_like(inputs["input_ids"])
            held.enter_context(self.weights.attach(model, self._media(memories)))
            yield extended

    def _media(self, memories: RowMemories) -> Media | None:
        if self.positions == "none":
            return Media.of(memories)
        places = [None if m is None else torch.arange(1, len(m) + 1, device=m.device) for m in memories]
        found = Media.of(memories, places)
        return None if found is None else Media(found.values, found.counts, found.ids, query_id=0)


def block_sizes(model: Any, settings: CrossSettings) -> BlockSizes:
    """The blocks' sizes on a reader."""
    text = model.get_decoder().config
    heads = settings.heads or int(text.num_attention_heads)
    own = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return BlockSizes(
        width=int(text.hidden_size),
        heads=heads,
        head_dim=settings.head_dim or int(own),
        intermediate=settings.intermediate or 2 * int(text.hidden_size),
        layers=settings.layers or every(settings.every, len(decoder_layers(model))),
        null_key=settings.null_key,
    )


def cross_for(backbone: Backbone, encoder: MemoryEncoder | None = None) -> Cross:
    """Cross-attention alone, with the weights that the encoder brings.

    Raises:
        ValueError: it brings none.
    """
    return _made(backbone, encoder, "cross", None)


def prefix_and_cross_for(backbone: Backbone, encoder: MemoryEncoder | None = None) -> Cross:
    """The soft prefix, and cross-attention to the same memories; raises as `cross_for`."""
    return _made(backbone, encoder, "prefix_and_cross", prefix_for(backbone))


def _made(backbone: Backbone, encoder: MemoryEncoder | None, name: str, prefix: Prefix | None) -> Cross:
    learned = None if encoder is None else encoder.learned
    if learned is None or learned.name != name:
        has = "" if learned is None else f" (this one's are {learned.name}'s)"
        raise ValueError(
            f"the injection {name} has weights of its own, and the encoder brings none{has}: train it with "
            f"injection={name} (comem train), and give that encoder beside the bank"
        )
    settings = CrossSettings(**learned.settings)
    if not isinstance(learned.module, MediaBlocks):
        learned.module = _blocks(backbone, settings, learned)
    return Cross(learned.module, settings.positions, prefix)


def _blocks(backbone: Backbone, settings: CrossSettings, learned: Learned) -> MediaBlocks:
    """The blocks, fresh or as they were saved, in the reader's type and place."""
    sizes = block_sizes(backbone.model, settings)
    blocks = MediaBlocks(sizes)
    if learned.tensors is None:
        blocks.start(sizes.width**-0.5)
        if settings.start == "reader":
            blocks.start_as(backbone.model)
    else:
        try:
            blocks.load_state_dict(dict(learned.tensors))
        except RuntimeError as error:
            raise ValueError(
                f"the blocks that the encoder brings do not fit {backbone.spec.name} "
                f"({str(error).splitlines()[-1].strip()}): answer with the reader that they were trained for"
            ) from error
    return blocks.to(backbone.device, backbone.dtype).requires_grad_(False)
