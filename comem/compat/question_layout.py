"""The question as the authors' code gives it to a text-only reader, to score their released weights.

Their encoder reads the question, too (picture and text), and its hidden states become a prefix
(authors_code.md 1.9). Two layouts, by name:

- "authors_llm", their inference: `[memory][L hidden states of the prompt][L input embeddings of the prompt,
  the picture's among them]`: the prompt comes twice.
- "authors_llm_training", the sequence that they trained on, without the answer: `[memory][L hidden
  states][the prompt's tokens after its first <|vision_end|>]`.

Positions are plain 0, 1, 2 …; token embeddings and head are the encoder's where the reader was loaded with
`question_vision="encoder"` (`AS_RELEASED`). Ours is "comem": the picture becomes a memory of its own, and
nothing else of the question passes through the encoder (docs/receivers.md says why).

No recorded output of this variant exists, so these two are tested for shape, order and positions only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from comem.backbones.base import GREEDY, Answer, GenerationConfig, KVPrefixes, Prefixes
from comem.backbones.chat import ChatProcessor, Conversations
from comem.backbones.hf import HFBackbone
from comem.backbones.positions import with_positions
from comem.backbones.specs import BackboneSpec
from comem.memory.encoder import MemoryEncoder
from comem.memory.items import to_device
from comem.memory.lora import adapters_on

#: How a question reaches the reader.
QuestionLayout = Literal["comem", "authors_llm", "authors_llm_training"]


def check_layout(name: str) -> QuestionLayout:
    """The layout of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in get_args(QuestionLayout):
        raise ValueError(f"question layout {name!r}: allowed are {', '.join(get_args(QuestionLayout))}")
    return name  # type: ignore[return-value]


@dataclass(frozen=True)
class Prompt:
    """A batch of prompts as the encoder has read them.

    Attributes:
        inputs: `input_ids`, `attention_mask` `(b, l)`.
        hidden: the encoder's last hidden states `(b, l, d)`, after its final norm.
        embeddings: its input embeddings `(b, l, d)`, pictures filled in.
    """

    inputs: Mapping[str, Tensor]
    hidden: Tensor
    embeddings: Tensor


@torch.no_grad()
def read_prompt(encoder: MemoryEncoder, inputs: Mapping[str, Tensor]) -> Prompt:
    """Run the tuned encoder over whole prompts, pictures and text."""
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
    return Prompt(kept, hidden, seen[0])


def arrange(
    prompt: Prompt, memories: Sequence[Tensor | None], layout: QuestionLayout, vision_end: int
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The reader's ids and mask `(b, l)`, and what comes in front of each row.

    Args:
        memories: per question `(m, d)` or None.
        vision_end: the id of `<|vision_end|>`.
    """
    ids, mask = prompt.inputs["input_ids"], prompt.inputs["attention_mask"].bool()
    fronts = [
        torch.cat([part for part in (memory, states[real]) if part is not None])
        for memory, states, real in zip(memories, prompt.hidden, mask, strict=True)
    ]
    if layout == "authors_llm_training":
        ended = (ids == vision_end).long().cumsum(dim=1)
        first = (ids == vision_end) & (ended == 1)
        mask = mask & ((ended > 0) | ~first.any(dim=1, keepdim=True)) & ~first
    return {"input_ids": ids, "attention_mask": mask.long()}, fronts


@contextmanager
def pictures_filled(model: Any, prompt: Prompt, image_id: int) -> Iterator[None]:
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
class AuthorsTextReader:
    """A `Backbone`: a text-only reader whose questions are laid out as in the authors' code.

    Attributes:
        reader: the text-only model; with token embeddings of the encoder's vocabulary and width.
        encoder: reads the question before it; a merged encoder of theirs.
        layout: one of the authors' two.
    """

    reader: HFBackbone
    encoder: MemoryEncoder
    layout: QuestionLayout = "authors_llm"

    def __post_init__(self) -> None:
        allowed = get_args(QuestionLayout)[1:]
        if self.layout not in allowed:
            raise ValueError(f"question layout {self.layout!r}: allowed are {', '.join(allowed)}")
        if self.reader.spec.sees_images:
            raise ValueError(
                f"{self.layout}: for text-only readers; {self.reader.spec.name} sees pictures itself"
            )
        width = self.encoder.qformer.config.hidden_size
        if width != self.reader.hidden_size:
            raise ValueError(
                f"{self.layout} puts the encoder's hidden states of width {width} before the question, the "
                f"reader reads {self.reader.hidden_size}: it needs a reader of the encoder's width"
            )

    @cached_property
    def spec(self) -> BackboneSpec:
        """The reader's row, but with pictures: the encoder sees them for it."""
        return replace(self.reader.spec, sees_images=True, several_images=True)

    @cached_property
    def process(self) -> ChatProcessor:
        """The encoder's: pictures become image tokens."""
        return ChatProcessor(self.spec, self.encoder.processor)

    @property
    def model(self) -> Any:
        return self.reader.model

    @property
    def processor(self) -> Any:
        return self.encoder.processor

    @property
    def hidden_size(self) -> int:
        return self.reader.hidden_size

    @property
    def device(self) -> torch.device:
        return self.reader.device

    @property
    def dtype(self) -> torch.dtype:
        return self.reader.dtype

    def place(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs on the reader's device."""
        return self.reader.place(inputs)

    def prompt_lengths(self, conversations: Conversations) -> list[int]:
        """Tokens of each prompt, once, padding not counted."""
        return self.process(conversations)["attention_mask"].sum(dim=1).tolist() if conversations else []

    def ahead(self, conversations: Conversations) -> None:
        """Nothing: the encoder reads each prompt when it is answered."""

    def generate(
        self,
        conversations: Conversations,
        prefixes: Prefixes | None = None,
        config: GenerationConfig = GREEDY,
        kv: KVPrefixes | None = None,
    ) -> list[Answer]:
        """Answer a batch, each row `[memory][hidden states][prompt]`.

        Raises:
            ValueError: keys and values given; they are no part of these layouts.
        """
        if kv is not None and any(one is not None for one in kv):
            raise ValueError(f"{self.layout} takes memory as embeddings only")
        if not conversations:
            return []
        memories = [None] * len(conversations) if prefixes is None else prefixes
        prompt = read_prompt(self.encoder, to_device(self.process(conversations), self.encoder.device))
        ids: Any = self.encoder.model.config
        question, fronts = arrange(prompt, memories, self.layout, ids.vision_end_token_id)
        twice = self.layout == "authors_llm"
        with pictures_filled(self.model, prompt, ids.image_token_id) if twice else nullcontext():
            placed = [front.to(self.device, self.dtype) for front in fronts]
            return self.reader.answer_inputs(self.place(question), placed, config)
