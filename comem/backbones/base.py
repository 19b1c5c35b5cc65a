"""What every backbone offers: conversations in, answers out, and memories put before it by an injection."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, device, dtype

from comem.backbones.specs import (
    BackboneError,
    BackboneSpec,
    RagFormat,
    resizes_by_side,
    takes_pixels,
    tiles_argument,
)
from comem.io.files import harmless, marks
from comem.io.images import open_image
from comem.types import Answer as Answer
from comem.types import ImageRef, KnowledgeItem, Message, VideoRef

Conversations = Sequence[Sequence[Message]]
#: What stands in a turn.
Part = str | ImageRef | VideoRef


@dataclass(frozen=True)
class ChatProcessor:
    """Renders conversations for one model.

    Attributes:
        spec: the row that says whether the model sees images, and how many.
        processor: the model's processor, or its tokenizer if it reads text only.
        min_pixels: images are enlarged to at least this many pixels; None as the processor has it.
        max_pixels: images are reduced to at most this many pixels; None as the processor has it.
        max_tiles: images are cut into at most this many tiles, for processors that cut them.
        max_side: images are resized to this length of their longer side, for processors that resize by it.
        context: the longest prompt that the model takes, in tokens; None for no limit.
    """

    spec: BackboneSpec
    processor: Any
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_tiles: int | None = None
    max_side: int | None = None
    context: int | None = None

    def __post_init__(self) -> None:
        images, name = getattr(self.processor, "image_processor", None), self.spec.name
        if self._limited:
            if not self.spec.pixel_limits or not self.spec.sees_images:
                raise BackboneError(
                    f"{name} takes no pixel limits: leave min_pixels, max_pixels out{_instead(images)}"
                )
            low, high = self._edges()
            if not 0 < low <= high:
                raise BackboneError(f"pixel limits {low}..{high}: give 0 < min_pixels <= max_pixels")
        if self.max_tiles is not None and (tiles_argument(images) is None or self.max_tiles < 1):
            raise BackboneError(f"{name}: max_tiles={self.max_tiles}: no such limit here{_instead(images)}")
        if self.max_side is not None and (not resizes_by_side(images) or self.max_side < 1):
            raise BackboneError(f"{name}: max_side={self.max_side}: no such limit here{_instead(images)}")

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer, or the processor itself where it is one."""
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def _limited(self) -> bool:
        return self.min_pixels is not None or self.max_pixels is not None

    def __call__(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        add_generation_prompt: bool = True,
        padding_side: Literal["left", "right"] = "left",
    ) -> dict[str, Tensor]:
        """One batch.

        Special tokens inside texts (a passage that quotes `<|im_end|>`) become spaces, so that data
        cannot change the structure of a conversation.

        Returns:
            `input_ids`, `attention_mask` `(b, l)` and what else the processor makes, on the CPU.

        Raises:
            BackboneError: no conversation, more images than the model takes, or conversations that do not
                go together (see `groups`).
            BackboneError: a prompt is longer than the model's context.
            ImageError: an image that cannot be opened.
        """
        if not conversations:
            raise BackboneError("an empty batch: give at least one conversation")
        if self.spec.batches and len(self.groups(conversations)) > 1:
            raise BackboneError(f"{self.spec.name}: conversations with and without images do not go together")
        for chat in conversations:  # texts so long are not even tokenized: no token has more characters
            self.check_length(sum(len(p) for m in chat for p in m.content if isinstance(p, str)) // _TOKEN)
        images = [[open_image(ref) for ref in self._images(chat)] for chat in conversations]
        texts = [self.text(chat, add_generation_prompt) for chat in conversations]
        kwargs: dict[str, Any] = {"images": images} if any(images) else {}
        if any(images) and (limits := self._image_arguments()):
            kwargs["images_kwargs"] = limits
        kwargs |= self.special_tokens(texts[0])
        batch = self.processor(
            text=texts, padding=True, padding_side=padding_side, return_tensors="pt", **kwargs
        )
        inputs = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        self.check_length(int(inputs["attention_mask"].sum(dim=1).max()))
        return inputs

    def check_length(self, tokens: int) -> None:
        """Refuse a prompt that is longer than the model's context; BackboneError."""
        if self.context is not None and tokens > self.context:
            raise BackboneError(
                f"a prompt of {tokens} tokens, but {self.spec.name} takes {self.context}: shorten the "
                "question or the passages (corpus build --max-chars), give fewer items, or use comem"
            )

    def text(self, chat: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """A conversation as the chat template writes it, a mark where an image goes.

        Models that can think before they answer are asked not to: what counts here are short answers.

        Raises:
            BackboneError: there is no chat template, or it refuses the conversation.
        """
        template = getattr(self.processor, "chat_template", None)
        template = template or getattr(self.tokenizer, "chat_template", None)
        if not template:
            raise BackboneError(
                f"{self.spec.name} has no chat template, so it was not made for dialogues: take its instruct "
                "version, or save a template with its tokenizer (tokenizer.chat_template = …)"
            )
        quiet = {"enable_thinking": False} if "enable_thinking" in str(template) else {}
        turns = self._render(chat)
        try:
            return str(
                self.processor.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=add_generation_prompt, **quiet
                )
            )
        except Exception as error:  # a template is a program out of the model's folder
            roles = ", ".join(dict.fromkeys(message.role for message in chat))
            raise BackboneError(
                f"{self.spec.source or self.spec.name}: its chat template cannot write a conversation of"
                f" {roles} ({str(error) or type(error).__name__}): repair chat_template.jinja, or ask another"
                " model"
            ) from error

    def special_tokens(self, text: str) -> dict[str, bool]:
        """Arguments that keep the tokenizer from writing a start token that the template wrote already."""
        bos = self.tokenizer.bos_token
        return {"add_special_tokens": False} if bos is not None and text.startswith(bos) else {}

    def groups(self, conversations: Conversations) -> list[list[int]]:
        """Which conversations can go in one call, as positions: all, or those with and without images."""
        rows = list(range(len(conversations)))
        if not self.spec.batches:
            return [[row] for row in rows]
        if self.spec.mixed_batches:
            return [rows]
        seeing = [bool(self._images(chat)) for chat in conversations]
        return [group for sees in (True, False) if (group := [row for row in rows if seeing[row] == sees])]

    def _image_arguments(self) -> dict[str, Any]:
        """The limits as the image processor takes them."""
        given: dict[str, Any] = {}
        if self._limited:
            low, high = self._edges()
            given["size"] = {"shortest_edge": low, "longest_edge": high}
        if self.max_side is not None:
            given["size"] = {"longest_edge": self.max_side}
        if self.max_tiles is not None:
            given[str(tiles_argument(self.processor.image_processor))] = self.max_tiles
        return given

    def _edges(self) -> tuple[int, int]:
        """The limits in effect, in pixels."""
        own = self.processor.image_processor.size
        low = own["shortest_edge"] if self.min_pixels is None else self.min_pixels
        high = own["longest_edge"] if self.max_pixels is None else self.max_pixels
        return int(low), int(high)

    def _images(self, chat: Sequence[Message]) -> list[ImageRef]:
        if not self.spec.sees_images:
            return []
        refs = [part for message in chat for part in message.content if isinstance(part, ImageRef)]
        if len(refs) > 1 and not self.spec.several_images:
            raise BackboneError(f"{self.spec.name} takes one image in a conversation, got {len(refs)}")
        return refs

    def _render(self, chat: Sequence[Message]) -> list[dict[str, Any]]:
        """Messages as chat templates want them: typed parts, or plain text for a text-only model."""
        turns: list[dict[str, Any]] = []
        for message in chat:
            parts = [self._part(part) for part in joined(self._read(message.content))]
            if self.spec.alternates and turns and turns[-1]["role"] == message.role:
                turns[-1]["content"] += [{"type": "text", "text": "\n"}, *parts]
            else:
                turns.append({"role": message.role, "content": parts})
        if not self.spec.sees_images:
            for turn in turns:
                turn["content"] = "".join(part["text"] for part in turn["content"])
        return turns

    def _read(self, content: Iterable[Part]) -> Iterator[Part]:
        return (part for part in content if self.spec.sees_images or not isinstance(part, ImageRef))

    def _part(self, part: Part) -> dict[str, str]:
        if isinstance(part, VideoRef):
            return {"type": "text", "text": self.video_marker[0]}
        if isinstance(part, str):
            return {"type": "text", "text": harmless(part, self._special)}
        return {"type": "image"}

    @cached_property
    def video_marker(self) -> tuple[str, int]:
        """The token that stands where a video's memory goes (`comem.memory.injection.infix`), and its id.

        It is one that no prompt contains: texts are cleaned of special tokens, and padding is masked.

        Raises:
            BackboneError: all special tokens have a part in prompts.
        """
        template = str(getattr(self.processor, "chat_template", "")) + str(self.tokenizer.chat_template)
        own = {str(getattr(self.processor, f"{kind}_token", None)) for kind in ("image", "video", "audio")}
        own |= {"<image>", "<video>"}
        found = [
            (str(token), id_)
            for id_, token in self.tokenizer.added_tokens_decoder.items()
            if token.special and str(token) not in template and str(token) not in own
        ]
        if not found:
            raise BackboneError(f"{self.spec.name}: its tokenizer has no special token to spare for videos")
        roles = {self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, self.tokenizer.bos_token_id}
        return min(
            found, key=lambda pair: (pair[1] in roles, "vision" in pair[0] or "image" in pair[0], pair[1])
        )

    @cached_property
    def _special(self) -> re.Pattern[str]:
        return marks(special_tokens(self.processor))


_TOKEN = 128  # characters of the longest tokens that vocabularies have


def special_tokens(processor: Any) -> set[str]:
    """What has a meaning in a prompt, and so no place in a text of the data.

    Args:
        processor: of a model, or its tokenizer.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    tokens = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokens |= set(tokenizer.all_special_tokens)
    return tokens | {str(getattr(processor, name, None) or "") for name in ("image_token", "video_token")}


def joined(content: Iterable[Part]) -> list[Part]:
    """The parts of a turn, texts that follow each other as one: a token must not form between them."""
    found: list[Part] = []
    for part in content:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return found


def resized_by(images: Any) -> list[str]:
    """Which limits an image processor takes, by the names of `ChatProcessor`'s fields."""
    known = {
        "min_pixels": takes_pixels(images),
        "max_pixels": takes_pixels(images),
        "max_tiles": tiles_argument(images) is not None,
        "max_side": resizes_by_side(images),
    }
    return [name for name, takes in known.items() if takes]


def _instead(images: Any) -> str:
    able = resized_by(images)
    return f"; it takes {' and '.join(able)}" if able else ""


def has_video(chat: Sequence[Message]) -> bool:
    """Whether a video stands in a conversation."""
    return any(isinstance(part, VideoRef) for message in chat for part in message.content)


def item_turns(form: RagFormat, items: Iterable[KnowledgeItem]) -> list[Message]:
    """One user turn per item, in order; items of which the form shows nothing (images alone) have none."""
    return [Message("user", content) for item in items if (content := item_parts(form, item))]


def item_parts(form: RagFormat, item: KnowledgeItem) -> tuple[str | ImageRef, ...]:
    """What a model is shown of an item, without empty parts."""
    image = item.image if form.images else None
    text = item.text[: form.passage_chars]
    parts: tuple[str | ImageRef | None, ...] = (text, image) if form.passage_first else (image, text)
    return tuple(part for part in parts if part)


#: Per row its memory, of the kind that the injection takes, or None for a row without.
RowMemories = Sequence[Any | None]


@dataclass(frozen=True)
class GenerationConfig:
    """How an answer is decoded; greedy by default, equally in all modes.

    Attributes:
        max_new_tokens: the longest answer, in tokens.
        temperature: 0 means greedy; otherwise sampling.
        top_p: sample from the smallest set of tokens with this much probability.
        repetition_penalty: 1 means none.
        seed: for sampling; each batch starts from it.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}: give at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}: give 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: give a number in (0, 1]")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}: give 1 (none) or more")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}: give a whole number of 64 bits")

    def arguments(self) -> dict[str, Any]:
        """Arguments of transformers' `generate`: all of them, because hub models bring sampling defaults."""
        sampling = self.temperature > 0
        return {
            "max_new_tokens": self.max_new_tokens,
            "do_sample": sampling,
            "temperature": self.temperature if sampling else 1.0,  # 1.0, 50: unset, in transformers
            "top_p": self.top_p if sampling else 1.0,
            "top_k": 0 if sampling else 50,
            "repetition_penalty": self.repetition_penalty,
            "num_beams": 1,
        }


class Watch(Protocol):
    """Sees each new token of a batch as it is made, and may end rows: streams, stop words, lost clients."""

    def __call__(self, tokens: Sequence[int]) -> Sequence[bool]:
        """Take each row's new token; which rows end with it. Rows that have ended go on being shown."""
        ...


@dataclass(frozen=True)
class WatchRows(Watch):
    """A watch of a whole batch for some of its rows, which are decoded by themselves.

    Attributes:
        watch: of the batch; is shown -1 in the other rows.
        rows: the positions of these rows.
        count: rows of the batch.
    """

    watch: Watch
    rows: Sequence[int]
    count: int

    def __call__(self, tokens: Sequence[int]) -> Sequence[bool]:
        """As `Watch`, of these rows."""
        shown = [-1] * self.count
        for row, token in zip(self.rows, tokens, strict=True):
            shown[row] = token
        ended = self.watch(shown)
        return [ended[row] for row in self.rows]


GREEDY = GenerationConfig()
#: What the authors' CoMEM inference uses (authors' public code; ../shared/reference/authors_code.md 4).
PAPER_SAMPLING = GenerationConfig(max_new_tokens=1000, temperature=0.1, top_p=0.001, repetition_penalty=1.05)


class Injection(Protocol):
    """How memories reach a model that is not changed; its kinds are in `comem.memory.injection`.

    A kind subclasses this, says what it can do in the fields, and defines `attach`.

    Attributes:
        takes: what a memory is: "vectors" `(m, d)`, or "keys_values" of some layers (`KVMemory`).
        in_sequence: whether a memory takes positions of the prompt.
        packs: whether the engine may take part: it then asks for `room`, and fills the positions itself.
        weights: what it has to learn beside the encoder; None for nothing. Training gives it to the optimizer
            (`optim.injection_lr`), and it is saved in the encoder's folder (`comem.memory.encoder.Learned`).
    """

    takes: Literal["vectors", "keys_values"] = "vectors"
    in_sequence: bool = True
    packs: bool = False
    weights: Any = None

    @property
    def name(self) -> str:
        """Its row in `INJECTIONS`."""
        ...

    def figures(self) -> dict[str, float]:
        """What is worth a look while it is trained, for the log of each step."""
        return {}

    def attach(
        self, model: Any, inputs: Mapping[str, Any], memories: RowMemories
    ) -> AbstractContextManager[dict[str, Any]]:
        """Put memories before the model in every call that is made while the context is open.

        Gradients flow into the memories. Nothing is left on the model, even after an error.

        Args:
            model: a causal model of transformers.
            inputs: ids, mask, pixels, labels … as a processor returns them, `(b, l)`, on the model's device.
            memories: per row of the batch its memory, or None.

        Returns:
            A context that yields what the model is to be called with instead of `inputs`.
        """
        ...

    def room(
        self, model: Any, inputs: Mapping[str, Any], sizes: Sequence[int]
    ) -> tuple[dict[str, Any], Tensor, int]:
        """What `attach` yields, for memories that are not there yet; asked for only if `packs`.

        Args:
            model: as of `attach`.
            inputs: as of `attach`.
            sizes: embeddings of each row's memory.

        Returns:
            The inputs, the memory's positions `(b, L)`, bool, and the id that `input_ids` hold there.
        """
        fault = f"the injection {self.name} does not pack"
        raise NotImplementedError(fault)

    def check(self, spec: BackboneSpec) -> None:
        """Refuse a model that cannot take such memories.

        Raises:
            BackboneError: names the model and the remedy.
        """

    def reader(self, backbone: Backbone) -> Backbone:
        """The backbone as this injection has it asked; itself unless the injection writes questions anew."""
        return backbone


class Backbone(Protocol):
    """A frozen model that reads conversations.

    Attributes:
        accelerates: whether the engine can take its place.
    """

    accelerates: ClassVar[bool] = False

    @property
    def spec(self) -> BackboneSpec:
        """Its row in `BACKBONES`."""
        ...

    @property
    def model(self) -> Any:
        """The causal model, frozen."""
        ...

    @property
    def processor(self) -> Any:
        """The model's processor, or its tokenizer where it has no other."""
        ...

    @property
    def hidden_size(self) -> int:
        """Width `d` of the input embeddings."""
        ...

    @property
    def device(self) -> device:
        """Where the model takes its inputs."""
        ...

    @property
    def dtype(self) -> dtype:
        """Of the weights, and of a memory's embeddings."""
        ...

    @property
    def process(self) -> ChatProcessor:
        """Renders, tokenizes and batches."""
        ...

    def place(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs on the model's device, pixels in its dtype."""
        ...

    def prompt_lengths(self, conversations: Conversations) -> list[int]:
        """Positions of each prompt, padding not counted."""
        ...

    def ahead(self, conversations: Conversations) -> None:
        """Prepare a `generate` to come, in any thread; may do nothing."""
        ...

    def generate(
        self,
        conversations: Conversations,
        memories: RowMemories | None = None,
        config: GenerationConfig = GREEDY,
        injection: Injection | None = None,
        watch: Watch | None = None,
    ) -> list[Answer]:
        """Answer a batch, each conversation with its memory, which the injection puts before the model."""
        ...
