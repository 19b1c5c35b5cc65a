"""Our modes as a model of lmms-eval (chat interface): videos by their memory, images as in `comem predict`.

```
python -m lmms_eval --model comem --model_args pretrained=MODEL,mode=video_memory,encoder=DIR,max_frames=128
```
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from PIL import Image

from comem.backbones.base import GenerationConfig
from comem.backbones.hf import load_backbone
from comem.bank.serve import open_bank
from comem.io.video import VideoError
from comem.memory.encoder import load_encoder
from comem.memory.video.encoder import VideoMemoryEncoder
from comem.memory.video.settings import VideoMemorySettings
from comem.modes import MODES
from comem.modes.base import ModeSettings
from comem.retrieval.retriever import open_retriever
from comem.retrieval.settings import RetrieverSettings
from comem.types import Answer, Example, ImageRef, RetrievedContext, VideoRef

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelArguments:
    """What `--model_args` may say.

    Attributes:
        pretrained: a row of BACKBONES, a hub id, or a model folder.
        mode: a row of MODES.
        encoder: a memory encoder's folder, for a mode that needs one.
        bank: memories made before, for the image modes.
        index: knowledge base in which items are found, for modes with items.
        k: items a question.
        max_frames: uniform frames of a video, as the authors evaluate; 0 as the encoder's settings say.
        sampling: another rule (`comem.io.video.SAMPLING`).
        read: memory, frames or both; empty as the encoder's settings say.
        batch_size: questions at once.
        max_batch_size: of lmms-eval; not used.
        device: cpu, cuda, …
        dtype: auto, float32, bfloat16, float16.
        attn: sdpa, eager, flash_attention_2.
    """

    pretrained: str = "toy"
    mode: str = "video_memory"
    encoder: str = ""
    bank: str = ""
    index: str = ""
    k: int = 3
    max_frames: int = 0
    sampling: str = ""
    read: str = ""
    batch_size: int | str = 1
    max_batch_size: int | None = None
    device: str | None = None
    dtype: str = "auto"
    attn: str | None = None


class Comem(lmms):  # type: ignore[misc]
    """A backbone in one of our modes.

    Args:
        given: `ModelArguments` by name.

    Raises:
        ValueError: an argument that is not known, or cannot be.
    """

    is_simple = False

    def __init__(self, **given: Any) -> None:
        super().__init__()
        if unknown := sorted(given.keys() - {field.name for field in fields(ModelArguments)}):
            raise ValueError(f"model_args that comem does not know: {', '.join(unknown)}")
        self.arguments = args = ModelArguments(**given)
        self.backbone = load_backbone(args.pretrained, dtype=args.dtype, device=args.device, attn=args.attn)
        encoder = load_encoder(args.encoder, self.backbone) if args.encoder else None
        if isinstance(encoder, VideoMemoryEncoder):
            encoder.memory.settings = _changed(encoder.settings, args)
        bank = open_bank(args.bank, encoder, self.backbone.hidden_size) if args.bank else None
        self.retriever = open_retriever(RetrieverSettings(index=Path(args.index))) if args.index else None
        self.batch_size = 1 if args.batch_size == "auto" else int(args.batch_size)
        self.mode = MODES[args.mode](self.backbone, ModeSettings(encoder=encoder, bank=bank))
        self.unread = 0

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answers in the order of the requests, a batch at a time, those of one decoding together."""
        made: dict[int, GenerationResult] = {}
        for rows in _batches(requests, self.batch_size):
            examples = [self._example(requests[row], row) for row in rows]
            decoding = _decoding(requests[rows[0]].args[2])
            for row, answer in zip(rows, self._answers(examples, decoding), strict=True):
                text = _until(answer.text, requests[row].args[2])
                count = len(self.backbone.process.tokenizer(text, add_special_tokens=False)["input_ids"])
                made[row] = GenerationResult(text=text, token_counts=TokenCounts(output_tokens=count))
        if self.unread:
            logger.warning("%d videos could not be read: their questions were asked without", self.unread)
        return [made[row] for row in range(len(requests))]

    def _answers(self, examples: Sequence[Example], decoding: GenerationConfig) -> list[Answer]:
        mode = self.mode.on(generation=decoding)
        contexts: list[RetrievedContext | None] = [None] * len(examples)
        if self.retriever is not None and mode.grounded:
            found = self.retriever.retrieve(examples, int(self.arguments.k))
            contexts = [found.get(example.id) for example in examples]
        try:
            return mode.answer_batch(examples, contexts)
        except VideoError as error:
            if len(examples) > 1:
                return [self._answers([example], decoding)[0] for example in examples]
            logger.warning("%s: asked without its video: %s", examples[0].id, error)
            self.unread += 1
            return mode.answer_batch([replace(examples[0], video=None)], contexts)

    def _example(self, request: Any, row: int) -> Example:
        """A request's document as an example: its words, its first video or image."""
        _, to_messages, _, doc, task, split = request.args
        messages = to_messages(self.task_dict[task][split][doc])
        words, image, video = [], None, None
        for message in messages:
            for part in message["content"]:
                kind = part["type"]
                if kind == "text":
                    words.append(part["text"])
                elif kind == "image":
                    image = image or _image(part["url"])
                elif kind == "video":
                    video = video or _video(part)
                else:
                    raise ValueError(f"{task} {doc}: {kind} is not read; comem reads text, images and videos")
        return Example(f"{task}/{doc}/{row}", "\n".join(words), image, video=video)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not offered: a memory's answers are generated."""
        raise NotImplementedError("comem generates answers: choose tasks of output_type generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not offered."""
        raise NotImplementedError("comem answers one question at a time: choose tasks with one round")


def _changed(settings: VideoMemorySettings, args: ModelArguments) -> VideoMemorySettings:
    """The memory's settings with what the arguments say of frames."""
    changes: dict[str, Any] = {"read": args.read} if args.read else {}
    if args.max_frames or args.sampling:
        changes |= {"sampling": args.sampling or "uniform", "max_frames": int(args.max_frames)}
    return replace(settings, **changes)


def _batches(requests: Sequence[Any], size: int) -> list[list[int]]:
    """Positions of requests that are decoded alike, at most so many together."""
    groups: dict[str, list[int]] = {}
    for row, request in enumerate(requests):
        groups.setdefault(repr(sorted(request.args[2].items(), key=str)), []).append(row)
    return [rows[at : at + size] for rows in groups.values() for at in range(0, len(rows), size)]


def _decoding(given: Mapping[str, Any]) -> GenerationConfig:
    """lmms-eval's arguments of decoding as ours; greedy unless a task samples."""
    samples = bool(given.get("do_sample")) and bool(given.get("temperature"))
    return GenerationConfig(
        max_new_tokens=int(given.get("max_new_tokens") or 64),
        temperature=float(given["temperature"]) if samples else 0.0,
        top_p=float(given.get("top_p") or 1.0) if samples else 1.0,
    )


def _until(text: str, given: Mapping[str, Any]) -> str:
    """The answer up to the first of the task's stop words."""
    stops = given.get("until") or ()
    for stop in (stops,) if isinstance(stops, str) else stops:
        text = text.split(stop, maxsplit=1)[0] if stop else text
    return text.strip()


def _image(url: Any) -> ImageRef:
    """Of a path, or an image of Pillow."""
    if isinstance(url, Image.Image):
        buffer = io.BytesIO()
        url.convert("RGB").save(buffer, "PNG")
        return ImageRef(data=buffer.getvalue())
    return ImageRef(path=str(url))


def _video(part: Mapping[str, Any]) -> VideoRef:
    """Of a path, with the span that a task names."""
    return VideoRef(
        path=str(part["url"]), start=float(part.get("start_time") or 0.0), end=part.get("end_time") or None
    )
