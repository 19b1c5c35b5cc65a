"""What models share whose code lies in their hub repository: trust, loading, one question at a time."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, cast

import torch
from torch import Tensor

from comem.backbones.base import (
    GREEDY,
    Answer,
    Conversations,
    GenerationConfig,
    Injection,
    RowMemories,
    Watch,
    joined,
)
from comem.backbones.prepared import evaluating, seeded
from comem.backbones.specs import BackboneError, BackboneSpec, refuse_adapter
from comem.io.files import harmless, marks
from comem.io.hub import hub_or_cache
from comem.types import ImageRef, Message


@dataclass(frozen=True)
class RemoteBackbone(ABC):
    """A model that brings its own chat call: it answers, and takes no memory.

    Attributes:
        spec: the row.
        model: the model as its repository defines it.
        processor: what turns text into ids; has `tokenizer`, or is one.
    """

    accelerates: ClassVar[bool] = False  # it has no inputs of its own to hand on

    spec: BackboneSpec
    model: Any
    processor: Any

    @abstractmethod
    def reply(self, conversation: Sequence[Message], config: GenerationConfig) -> tuple[str, int]:
        """One answer, and how many tokens its prompt had (images count as their placeholders)."""

    @abstractmethod
    def prompt_length(self, conversation: Sequence[Message]) -> int:
        """Tokens of the prompt, images counted as their placeholders."""

    @property
    def hidden_size(self) -> int:
        """As the model's config says."""
        return int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Of the model's first parameter."""
        return cast(torch.device, next(iter(self.model.parameters())).device)

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's first parameter."""
        return cast(torch.dtype, next(iter(self.model.parameters())).dtype)

    @property
    def process(self) -> NoReturn:
        """Always raises BackboneError: such a model builds its inputs itself."""
        raise self._no_tensors()

    def place(self, inputs: Mapping[str, Tensor]) -> NoReturn:
        """Always raises BackboneError, as `process`."""
        raise self._no_tensors()

    def _no_tensors(self) -> BackboneError:
        return BackboneError(
            f"{self.spec.name} builds its inputs itself: it takes no memory, use baseline or rag"
        )

    def ahead(self, conversations: Conversations) -> None:
        """Nothing: such a model builds its inputs itself."""
        return

    def prompt_lengths(self, conversations: Conversations) -> list[int]:
        """Tokens of each prompt, images counted as their placeholders."""
        return [self.prompt_length(conversation) for conversation in conversations]

    def generate(
        self,
        conversations: Conversations,
        memories: RowMemories | None = None,
        config: GenerationConfig = GREEDY,
        injection: Injection | None = None,
        watch: Watch | None = None,
    ) -> list[Answer]:
        """Answer one after the other: these chat calls take no batches, and show nobody their tokens.

        Raises:
            BackboneError: a memory, or more images than the model takes.
            ImageError: an image that cannot be opened.
        """
        if any(memory is not None for memory in memories or ()):
            raise self._no_tensors()
        return [self._answer(conversation, config) for conversation in conversations]

    def _answer(self, conversation: Sequence[Message], config: GenerationConfig) -> Answer:
        start = time.perf_counter()
        with torch.no_grad(), evaluating(self.model), seeded(config, self.device):
            text, tokens = self.reply(conversation, config)
        return Answer(text.strip(), 0, tokens, time.perf_counter() - start)


def images_of(conversation: Sequence[Message]) -> list[ImageRef]:
    """The images of a conversation, in order."""
    return [part for message in conversation for part in message.content if isinstance(part, ImageRef)]


def with_placeholders(message: Message, image: str, forbidden: Sequence[str]) -> str:
    """A turn as text, `image` standing for each image; what would pass for structure becomes a space."""
    special = marks(forbidden)
    return "".join(
        harmless(part, special) if isinstance(part, str) else image for part in joined(message.content)
    )


def load_remote(
    spec: BackboneSpec, dtype: Any, device: Any, trust_remote_code: bool, **options: Any
) -> tuple[Any, Any]:
    """Model and tokenizer of a repository that brings its own code, from safetensors where it has them.

    Raises:
        BackboneError: not trusted, or not to be had.
    """
    if not trust_remote_code:
        raise BackboneError(
            f"{spec.name} runs code from {spec.source} on this machine: read it there, then allow it with "
            "--trust-remote-code (trust_remote_code=True)"
        )
    import transformers

    try:
        with hub_or_cache(spec.source):
            refuse_adapter(spec.source)
            tokenizer = transformers.AutoTokenizer.from_pretrained(spec.source, trust_remote_code=True)
            model = getattr(transformers, spec.model_class).from_pretrained(
                spec.source, dtype=dtype, use_safetensors=True, trust_remote_code=True, **options
            )
    except (OSError, ValueError, ImportError, AttributeError, TypeError) as error:
        raise BackboneError(
            f"{spec.source} cannot be loaded ({error}). Its code was written for transformers 4, and weights "
            "are read from safetensors only: use an environment of that version, convert them, or another row"
        ) from error
    return model.to(device).eval().requires_grad_(False), tokenizer
