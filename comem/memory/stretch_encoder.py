"""The encoder for a reader that nobody taught: lowest layers with LoRA, vectors over stretches of the item.

Where the Q-Former's queries all start alike and see the whole item, these each start as what they lie over
(`comem.memory.stretches`), so that a pretrained reader has something to read from the first step on. An item
stands alone behind the mark that every text starts with, where attention rests; the mark is not remembered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, cast

from torch import Tensor, device, nn

from comem.backbones.base import Backbone
from comem.backbones.positions import decoder_layers, text_positions, with_positions
from comem.backbones.prepared import pack
from comem.memory.encoder import EncoderKind, EncoderPlan, hidden_size
from comem.memory.lora import LoraSettings, adapters_on, add_lora, cheaper_order, trainable_count
from comem.memory.qformer import token_embedding_scale
from comem.memory.qformer_encoder import QFormerEncoder, load_adapter
from comem.memory.settings import KnowledgeFormat, QFormerSettings
from comem.memory.stretches import StretchConfig, StretchFormer


class StretchEncoder(QFormerEncoder):
    """A model's lowest layers with LoRA and a `StretchFormer`, saved and opened as a `QFormerEncoder` is."""

    kind = "stretches"
    any_number = True
    sizes: ClassVar[type[Any]] = StretchConfig
    former: ClassVar[type[Any]] = StretchFormer

    def forward(self, inputs: Mapping[str, Tensor], count: int = 0) -> Tensor:
        """Memory of a batch of items, differentiable, LoRA on.

        Args:
            inputs: as of `QFormerEncoder.forward`.
            count: vectors of an item; 0 for `num_vectors`.

        Returns:
            `(n, q, d)`.
        """
        inputs = self._positioned(dict(inputs))
        with self.prepared:
            if self.prepared.packs:
                packed, rows = pack(inputs)
                read = self._read({**packed, "segments": rows})
                hidden, embedded = (rows.padded(each[0].to(self.dtype)) for each in read)
                mask = rows.real
            else:
                hidden, embedded = (each.to(self.dtype) for each in self._read(inputs))
                mask = inputs["attention_mask"].bool()
        if self.form.style == "bare":
            mask = mask & (mask.long().cumsum(dim=1) > 1)  # the mark in front is no part of the item
        return cast(Tensor, self.qformer(hidden, embedded, mask, count))

    def set_vectors(self, count: int) -> None:
        """Write so many vectors an item from now on: another encoder, by its fingerprint.

        Raises:
            ValueError: more than its largest number, or none.
        """
        self.qformer.config = replace(self.qformer.config, num_queries=count)
        self.num_vectors, self._known = count, None

    def _positioned(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        if hasattr(self.model.base_model, "get_rope_index"):
            return with_positions(self.model, inputs)
        return {**text_positions(self.model, inputs["attention_mask"]), **inputs}

    def _read(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The lowest layers' hidden states after the final norm, what the first was given: `(b, l, d)`."""
        tokens = max(inputs["input_ids"].numel(), len(inputs.get("pixel_values", ())))
        base: Any = self.model.base_model
        sizes: Any = self.qformer.config
        with (
            adapters_on(self.model),  # which also keeps readers of the same model waiting
            cheaper_order(self.model, tokens),
            lowest_layers(self.model, sizes.layers) as given,
        ):
            hidden = base(**inputs, use_cache=False).last_hidden_state
        return hidden, given[-1]

    @staticmethod
    def _shapes(config: Any) -> Any:
        """What the tensors show, and which layers read."""
        return replace(config, num_queries=1, output_size=None, output_scale=1.0)


@contextmanager
def lowest_layers(model: nn.Module, count: int) -> Iterator[list[Tensor]]:
    """The model with its lowest layers alone, while the context is open; 0 leaves all.

    Yields:
        What the first layer is given by the calls in the context, `(b, l, d)` each.
    """
    decoder: Any = model.get_decoder()  # type: ignore[operator]
    every = decoder_layers(model)
    given: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.append(args[0] if args else kwargs["hidden_states"])

    handle = every[0].register_forward_pre_hook(keep, with_kwargs=True)
    if count:
        decoder.layers = every[:count]
    try:
        yield given
    finally:
        decoder.layers = every
        handle.remove()


def stretch_config(settings: QFormerSettings, model: Any, reader: Any = None) -> StretchConfig:
    """Sizes for a model and its reader; where the settings name no scale, that of the reader's embeddings.

    Raises:
        ValueError: more layers than the model has.
    """
    reader = model if reader is None else reader
    layers, width, scale = len(decoder_layers(model)), hidden_size(reader), settings.output_scale
    if settings.layers > layers:
        raise ValueError(f"qformer.layers={settings.layers}: the model has {layers}")
    if not isinstance(scale, float):
        scale = token_embedding_scale(reader.get_input_embeddings())
    return StretchConfig(
        hidden_size(model),
        num_queries=settings.num_queries,
        depth=settings.depth,
        heads=settings.heads,
        ff_mult=settings.ff_mult,
        output_size=None if width == hidden_size(model) else width,
        output_scale=scale,
        most=max(64, settings.num_queries),
        layers=settings.layers,
    )


def build_encoder(
    backbone: Backbone,
    *,
    lora: LoraSettings = LoraSettings(),  # noqa: B008 (frozen)
    qformer: QFormerSettings = QFormerSettings(),  # noqa: B008 (frozen)
    form: KnowledgeFormat = KnowledgeFormat(),  # noqa: B008 (frozen)
    elastic: tuple[int, ...] = (),
    reader: Any = None,
) -> StretchEncoder:
    """A new encoder on a backbone's own weights, to be trained.

    Args:
        backbone: whose model reads the items.
        lora: on the layers that read; its sizes.
        qformer: num_queries, depth, heads, ff_mult, output_scale, layers; the rest is of the Q-Former.
        form: how items are written.
        elastic: must be empty: this kind writes any number of vectors.
        reader: the model that answers, if it is not the backbone's.

    Raises:
        ValueError: a setting that this kind has not, or more layers than the model's.
    """
    if elastic:
        raise ValueError("encoder=stretches writes any number of vectors: give `vectors`, not `elastic`")
    if form.reads_images:
        raise ValueError("encoder=stretches reads no questions' images: set question_picture=none")
    config = stretch_config(qformer, backbone.model, reader)
    lora = replace(lora, layers=qformer.layers)
    return StretchEncoder.new(backbone.model, backbone.processor, lora, config, replace(form, style="bare"))


def plan_encoder(
    backbone: Backbone,
    *,
    lora: LoraSettings = LoraSettings(),  # noqa: B008 (frozen)
    qformer: QFormerSettings = QFormerSettings(),  # noqa: B008 (frozen)
    reader: Any = None,
    **_: Any,
) -> EncoderPlan:
    """What `build_encoder` would make; the backbone's model gets its LoRA."""
    if not isinstance(qformer.output_scale, float):  # is read off weights, which are not there
        qformer = replace(qformer, output_scale=1.0)
    config = stretch_config(qformer, backbone.model, reader)
    with device("meta"):
        former = StretchFormer(config)
        add_lora(backbone.model, replace(lora, layers=qformer.layers))
    own = sum(parameter.numel() for parameter in former.parameters())
    found = {"LoRA": trainable_count(backbone.model), "stretches": own}
    return EncoderPlan(found, config.num_queries, config.flops)


ROW = EncoderKind(
    build_encoder, partial(load_adapter, kind=StretchEncoder), trained=True, plan=plan_encoder, style="bare"
)
