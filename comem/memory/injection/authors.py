"""The question as the authors' code gives it to a text-only reader, to score their released weights.

Their encoder reads the question, too (image and text), and its hidden states become a prefix
(authors_code.md 1.9). Two layouts, by name:

- "authors_llm", their inference: `[memory][L hidden states of the prompt][L input embeddings of the prompt,
  the image's among them]`: the prompt comes twice.
- "authors_llm_training", the sequence that they trained on, without the answer: `[memory][L hidden
  states][the prompt's tokens after its first <|vision_end|>]`.

Positions are plain 0, 1, 2 …; token embeddings and head are the encoder's where the reader was loaded with
`question_vision="encoder"`, as released. Ours is "comem": the image becomes a memory of its own, and
nothing else of the question passes through the encoder (docs/receivers.md says why).

No recorded output of this variant exists, so these two are tested for shape, order and positions only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from comem.backbones.base import Backbone, Injection, RowMemories
from comem.backbones.hf import HFBackbone
from comem.backbones.positions import with_positions
from comem.backbones.specs import BackboneSpec
from comem.memory.encoder import TrainableEncoder, hidden_size
from comem.memory.injection.prefix import Prefix, prefix_for
from comem.memory.items import to_device
from comem.memory.lora import adapters_on
from comem.memory.settings import LAYOUTS


@dataclass(frozen=True)
class ReadQuestion:
    """A batch of prompts as the encoder has read them.

    Attributes:
        inputs: `input_ids`, `attention_mask` `(b, l)`.
        hidden: the encoder's last hidden states `(b, l, d)`, after its final norm.
        embeddings: its input embeddings `(b, l, d)`, images filled in.
    """

    inputs: Mapping[str, Tensor]
    hidden: Tensor
    embeddings: Tensor


def read_prompt(encoder: TrainableEncoder, inputs: Mapping[str, Tensor]) -> ReadQuestion:
    """Run the tuned encoder over whole prompts, images and text."""
    model: Any = encoder.model
    seen: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["inputs_embeds"])

    handle = model.get_decoder().register_forward_pre_hook(note, with_kwargs=True)
    try:
        with adapters_on(model):
            read = with_positions(model, dict(inputs))
            hidden = model.base_model(**read, use_cache=False).last_hidden_state
    finally:
        handle.remove()
    kept = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    return ReadQuestion(kept, hidden, seen[0])


def arrange(
    prompt: ReadQuestion, memories: Sequence[Tensor | None], layout: str, vision_end: int
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The reader's ids and mask `(b, l)`, and what comes in front of each row.

    Args:
        prompt: the questions as the encoder has read them.
        memories: per question `(m, d)` or None.
        layout: "authors_llm" or "authors_llm_training".
        vision_end: the id of `<|vision_end|>`.
    """
    ids, mask = prompt.inputs["input_ids"], prompt.inputs["attention_mask"].bool()
    fronts = [
        states[real] if memory is None else torch.cat([memory.to(states), states[real]])
        for memory, states, real in zip(memories, prompt.hidden, mask, strict=True)
    ]
    if layout == "authors_llm_training":
        ended = (ids == vision_end).long().cumsum(dim=1)
        first = (ids == vision_end) & (ended == 1)
        mask = mask & ((ended > 0) | ~first.any(dim=1, keepdim=True)) & ~first
    return {"input_ids": ids, "attention_mask": mask.long()}, fronts


@contextmanager
def images_filled(model: Any, prompt: ReadQuestion, image_id: int) -> Iterator[None]:
    """Inside the context the model's embeddings of image tokens in the prompt are the encoder's."""
    length = prompt.inputs["input_ids"].shape[1]
    where = prompt.inputs["input_ids"] == image_id

    def fill(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if args[0].shape[1] < length or not bool(where.any()):
            return None  # decoding with a cache
        mask = nn.functional.pad(where, (args[0].shape[1] - length, 0))  # the prompt comes last
        return output.masked_scatter(mask[..., None], prompt.embeddings[where].to(output))

    handle = model.get_input_embeddings().register_forward_hook(fill)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class AuthorsLayout(Injection):
    """A text-only reader whose questions are laid out as in the authors' code.

    Each row is `[memory][hidden states][prompt]`; the encoder reads a question whenever it is put before the
    model.

    Attributes:
        encoder: reads the question before the reader; a merged encoder of theirs.
        layout: one of the two.
        prefix: puts memory and hidden states in front.
    """

    encoder: TrainableEncoder
    layout: str = "authors_llm"
    prefix: Prefix = Prefix()

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"question layout {self.layout!r}: allowed are {', '.join(LAYOUTS)}")

    @property
    def name(self) -> str:
        """That of its layout."""
        return self.layout

    def check(self, spec: BackboneSpec) -> None:
        """As `Prefix.check`."""
        self.prefix.check(spec)

    def reader(self, backbone: Backbone) -> Backbone:
        """The reader asked with images, by the encoder's processor: the encoder sees them for it.

        Raises:
            ValueError: a reader that sees images itself, or of another width than the encoder's.
        """
        if backbone.spec.sees_images:
            raise ValueError(f"{self.layout}: for text-only readers; {backbone.spec.name} sees images itself")
        width = hidden_size(self.encoder.model)
        if width != backbone.hidden_size:
            raise ValueError(
                f"{self.layout} puts the encoder's hidden states of width {width} before the question, the "
                f"reader reads {backbone.hidden_size}: it needs a reader of the encoder's width"
            )
        spec = replace(backbone.spec, sees_images=True, several_images=True)
        return HFBackbone(spec, backbone.model, self.encoder.processor)

    @contextmanager
    def attach(
        self, model: Any, inputs: Mapping[str, Any], memories: RowMemories
    ) -> Iterator[dict[str, Any]]:
        """Put memories and what the encoder has read before the model; see `Injection.attach`.

        Args:
            model: the reader.
            inputs: of the encoder's processor, images among them.
            memories: per row `(m, d)` or None.
        """
        read = {name: value for name, value in inputs.items() if name != "labels"}
        prompt = read_prompt(self.encoder, to_device(read, self.encoder.model.device))
        ids: Any = self.encoder.model.config
        question, fronts = arrange(prompt, memories, self.layout, ids.vision_end_token_id)
        table = model.get_input_embeddings().weight
        question = {name: value.to(table.device) for name, value in question.items()}
        if "labels" in inputs:
            question["labels"] = inputs["labels"].masked_fill(question["attention_mask"] == 0, -100)
        filled = images_filled(model, prompt, ids.image_token_id)
        with filled if self.layout == "authors_llm" else nullcontext():
            placed = [front.to(table) for front in fronts]
            with self.prefix.attach(model, question, placed) as extended:
                yield extended


def _row(layout: str, backbone: Backbone, encoder: Any = None) -> Injection:
    """A row of `INJECTIONS`; ValueError without an encoder, or for a reader that the layout is not for."""
    if encoder is None:
        raise ValueError(
            f"question layout {layout!r} reads the question with the encoder: give --encoder DIR"
        )
    made = AuthorsLayout(encoder, layout, prefix_for(backbone))
    made.reader(backbone)
    return made


authors_llm = partial(_row, "authors_llm")
authors_llm_training = partial(_row, "authors_llm_training")
