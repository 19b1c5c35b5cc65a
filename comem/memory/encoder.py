"""The memory encoder: the VLM with LoRA on reads one item, the Q-Former makes 8 embeddings of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from comem.backbones.kernels import use_fast_kernels
from comem.backbones.packing import pack, pack_attention
from comem.backbones.positions import with_positions
from comem.memory.bank import MemoryBank
from comem.memory.fingerprint import encoder_fingerprint, weights_version
from comem.memory.items import KnowledgeFormat, item_inputs, to_device
from comem.memory.lora import (
    LoraSettings,
    adapters_on,
    add_lora,
    cheaper_order,
    fold_lora,
    lora_layers,
    trainable_count,
)
from comem.memory.qformer import QFormer, QFormerConfig, token_embedding_scale
from comem.types import ImageRef, KnowledgeItem

#: Items to the model's inputs.
InputsOf = Callable[[Sequence[KnowledgeItem]], dict[str, Tensor]]


class MemoryEncoder(nn.Module):
    """A VLM with LoRA and a Q-Former: item in, memory `(q, d)` out.

    The model may be the reader itself (one copy of the weights: LoRA is on only while this encoder
    reads) or a model of its own (merged, or of another size).

    Args:
        model: an image-text-to-text model of transformers, with LoRA (`add_lora`) or merged.
        processor: its processor; only `encode` and `inputs` need it.
        qformer: of the model's width.
        lora: the settings of the model's LoRA; None for a model without.
        form: how items are written.
        accepts: fingerprints of other encoders whose banks are as good (the one merged into this).
        elastic: numbers of embeddings of which each was trained to be a usable memory; empty: all or none.
    """

    elastic: tuple[int, ...]

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        qformer: QFormer,
        lora: LoraSettings | None = None,
        form: KnowledgeFormat = KnowledgeFormat(),  # noqa: B008 (frozen)
        accepts: tuple[str, ...] = (),
        elastic: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        width = hidden_size(model)
        if qformer.config.hidden_size != width:
            raise ValueError(
                f"the Q-Former reads width {qformer.config.hidden_size}, the model gives {width}: "
                "they belong to different encoders"
            )
        if (lora is not None) != bool(lora_layers(model)):
            raise ValueError("give the LoRA settings exactly when the model has LoRA layers (add_lora)")
        self.model, self.processor, self.qformer = model, processor, qformer
        self.lora, self.form, self.accepts = lora, form, accepts
        self.packs = pack_attention(model)
        self.elastic = elastic
        self._known: tuple[tuple[int, ...], str] | None = None

    @classmethod
    def new(
        cls,
        model: nn.Module,
        processor: Any,
        lora: LoraSettings = LoraSettings(),  # noqa: B008 (frozen)
        qformer: QFormerConfig | None = None,
        form: KnowledgeFormat = KnowledgeFormat(),  # noqa: B008 (frozen)
    ) -> MemoryEncoder:
        """An untrained encoder on a base model, which gets LoRA and is frozen otherwise.

        Args:
            qformer: None for the paper's sizes with the model's width.
        """
        config = qformer or QFormerConfig(hidden_size(model))
        table = model.get_input_embeddings().weight  # type: ignore[operator]
        add_lora(model, lora)
        return cls(model, processor, QFormer(config).to(device=table.device, dtype=table.dtype), lora, form)

    @property
    def width(self) -> int:
        """Width of the memories: that of the reader they are for."""
        return self.qformer.config.width_out

    @property
    def num_vectors(self) -> int | None:
        """`q`, None if it varies."""
        return self.qformer.config.num_queries

    def item_format(self) -> dict[str, Any]:
        """How items are shown to the encoder, as a bank's manifest says it for people."""
        low = high = None
        if self.processor is not None:
            low, high = self.form.pixel_limits(self.processor.image_processor)
        prompt, longest = self.form.prompt, self.form.max_chars
        return {"prompt": prompt, "max_chars": longest, "min_pixels": low, "max_pixels": high}

    @property
    def device(self) -> torch.device:
        return self.qformer.latents.device

    @property
    def dtype(self) -> torch.dtype:
        return self.qformer.latents.dtype

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Memory of a batch of items, differentiable, LoRA on.

        Where the model's attention allows it, the items are packed: no layer computes padding.

        Args:
            inputs: of `self.inputs` or any left-padded batch: `input_ids`, `attention_mask` `(n, l)`,
                and `pixel_values`, `image_grid_thw` if items have images.

        Returns:
            `(n, q, d)`.
        """
        inputs = with_positions(self.model, inputs)
        if not self.packs:
            hidden = self._hidden(inputs)  # (n, l, d)
            return self.qformer(hidden.to(self.dtype), inputs["attention_mask"].bool())
        packed, rows = pack(inputs)
        hidden = self._hidden({**packed, "segments": rows})[0]  # (tokens, d)
        return self.qformer(rows.padded(hidden.to(self.dtype)), rows.real)

    def _hidden(self, inputs: dict[str, Any]) -> Tensor:
        """The last hidden states after the final norm `(b, l, d)`; no logits, no other layer's, no cache."""
        tokens = max(inputs["input_ids"].numel(), len(inputs.get("pixel_values", ())))
        with adapters_on(self.model), cheaper_order(self.model, tokens):
            base: Any = self.model.base_model
            return base(**inputs, use_cache=False).last_hidden_state  # type: ignore[no-any-return]

    def inputs(self, items: Sequence[KnowledgeItem]) -> dict[str, Tensor]:
        """One batch for `forward`, on the encoder's device."""
        return to_device(item_inputs(items, self.processor, self.form), self.device)

    @torch.no_grad()
    def encode(
        self, items: Sequence[KnowledgeItem], batch_size: int = 16, inputs: InputsOf | None = None
    ) -> MemoryBank:
        """Memories of items, whatever their order and number, as a bank in the given order.

        Args:
            batch_size: items in one call of the model.
            inputs: makes the model's inputs, where they were prepared ahead; None makes them now.

        Raises:
            ValueError: an id comes twice, or an item cannot be read; names it.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        ids = tuple(item.id for item in items)
        shape = (len(ids), self.qformer.config.num_queries, self.width)
        out = torch.empty(shape, dtype=self.dtype, device=self.device)
        bank = MemoryBank(out, ids, self.fingerprint())  # refuses repeated ids before the work
        make = inputs or self.inputs
        use_fast_kernels(self.model)
        with self._evaluating():
            for rows in length_batches(items, batch_size):
                out[rows] = self(make([items[i] for i in rows]))
        return bank

    @torch.no_grad()
    def encode_pictures(self, pictures: Sequence[ImageRef], batch_size: int = 16) -> Tensor:
        """Memories `(n, q, d)` of questions' own pictures, one at least, for a reader that sees none.

        Raises:
            ValueError: the encoder was not trained to read them (`KnowledgeFormat.picture_prompt`).
            ImageError: a picture that cannot be opened.
        """
        parts = []
        with self._evaluating():
            for start in range(0, len(pictures), batch_size):
                some = pictures[start : start + batch_size]
                inputs = item_inputs((), self.processor, self.form, some)
                parts.append(self(to_device(inputs, self.device)))
        return torch.cat(parts)

    def fingerprint(self) -> str:
        """Identity of everything that a memory depends on (`encoder_fingerprint`), as hex.

        Hashing takes seconds at 7B, so it is done once until a weight is written again.
        """
        key = weights_version(self)
        if self._known is None or self._known[0] != key:
            self._known = (key, encoder_fingerprint(self))
        return self._known[1]

    def accepted_fingerprints(self) -> tuple[str, ...]:
        """Fingerprints of banks that this encoder's reader may use."""
        return (self.fingerprint(), *self.accepts)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """LoRA and Q-Former, what training changes."""
        return [p for p in self.parameters() if p.requires_grad]

    def trainable_count(self) -> int:
        """Number of trained parameters: 231.7 M (2.79 %) at Qwen2.5-VL-7B."""
        return trainable_count(self)

    def merge(self) -> MemoryEncoder:
        """Fold LoRA into the weights: an ordinary model with the same memory.

        The model is changed in place, so it can no longer serve as the reader.
        """
        if self.lora is None:
            return self
        accepts = (self.fingerprint(), *self.accepts)
        fold_lora(self.model)
        parts = self.model, self.processor, self.qformer, None, self.form
        return MemoryEncoder(*parts, accepts, self.elastic)

    def save(self, folder: str | Path) -> None:
        """Write an adapter folder (with LoRA) or a merged one (without), see `comem.memory.serialization`."""
        from comem.memory.serialization import save_encoder

        save_encoder(self, folder)

    @classmethod
    def load(
        cls, folder: str | Path, reader: nn.Module | None = None, processor: Any = None
    ) -> MemoryEncoder:
        """Read what `save` wrote, see `comem.memory.serialization.load_encoder`."""
        from comem.memory.serialization import load_encoder

        return load_encoder(folder, reader, processor)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Dropout off inside the context, each module as before after it."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training


def length_batches(items: Sequence[KnowledgeItem], batch_size: int) -> list[list[int]]:
    """Positions of the items in batches of like length."""
    by_length = sorted(range(len(items)), key=lambda i: len(items[i].text))
    return [by_length[start : start + batch_size] for start in range(0, len(items), batch_size)]


def hidden_size(model: nn.Module) -> int:
    """Width of the language model, from the config."""
    config: Any = model.config
    return int(config.get_text_config().hidden_size)


def check_width(encoder: MemoryEncoder, width: int) -> None:
    """Refuse an encoder whose memories do not fit a reader of this width.

    Raises:
        ValueError: names both widths and the remedy.
    """
    if encoder.width != width:
        raise ValueError(
            f"the encoder writes memories of width {encoder.width}, the reader reads {width}: answer with "
            "the model it was trained for, or train one for this reader (comem train reader=NAME)"
        )


def scaled_qformer(model: nn.Module, **sizes: Any) -> QFormerConfig:
    """A config of the model's width whose memory starts at the norm of its token embeddings."""
    table = model.get_input_embeddings()  # type: ignore[operator]
    return QFormerConfig(hidden_size(model), output_scale=token_embedding_scale(table), **sizes)
