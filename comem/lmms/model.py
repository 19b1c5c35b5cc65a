"""Our modes as a model of lmms-eval (chat interface): videos by their memory, images as in `comem predict`.

```
python -m lmms_eval --model comem --model_args pretrained=MODEL,mode=video_memory,encoder=DIR,max_frames=128
python -m lmms_eval --model comem --model_args pretrained=MODEL,mode=comem,encoder=DIR,bank=DIR,index=DIR,k=10
```
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from PIL import Image

from comem.backbones.base import GenerationConfig
from comem.benchmarks import BENCHMARKS
from comem.config import from_values
from comem.eval.predict import PredictSettings, Reader
from comem.eval.run_folder import Processes
from comem.io.images import ImageError, open_images, usable
from comem.io.video import VideoError
from comem.lmms.tasks import example_of
from comem.memory.video.encoder import VideoMemoryEncoder
from comem.memory.video.settings import VideoMemorySettings
from comem.modes.base import Mode
from comem.retrieval.retriever import Retriever, open_retriever
from comem.types import Answer, Example, ImageRef, Message, RetrievedContext, VideoRef

logger = logging.getLogger(__name__)

#: Which frames of a video are read (`VideoMemorySettings`); the other arguments are `PredictSettings`.
FRAMES = ("max_frames", "sampling", "read")
#: What `comem predict` has and lmms-eval does itself.
_THEIRS = {
    "benchmark", "data", "images", "split", "question_types", "prompt", "limit", "output", "shard", "merge",
    "strict", "max_new_tokens", "temperature", "top_p", "paper_sampling",
}  # fmt: skip


def settings_of(given: Mapping[str, Any]) -> PredictSettings:
    """`--model_args` as the settings of `comem predict`; several values of one are joined by "+".

    Raises:
        ValueError: an argument that is not known, or of another type.
    """
    values = dict(given)
    values["model"] = values.pop("pretrained", values.get("model", "toy"))
    values.setdefault("mode", "video_memory")
    known = {field.name: str(field.type) for field in fields(PredictSettings) if field.name not in _THEIRS}
    if unknown := sorted(values.keys() - known):
        names = ", ".join(("pretrained", *sorted(known), *FRAMES))
        raise ValueError(f"model_args that comem does not know: {', '.join(unknown)}; it knows {names}")
    for name, value in values.items():
        if known[name].startswith("tuple"):
            parts = str(value).split("+")
            values[name] = [int(part) for part in parts] if "int" in known[name] else parts
        elif known[name].startswith(("str", "Path")) and value is not None:
            values[name] = str(value)  # lmms-eval reads 7 as a number
    return from_values(PredictSettings, {**values, "benchmark": "own", "output": "."}, "--model_args")


class Comem(lmms):  # type: ignore[misc]
    """A backbone in one of our modes.

    Args:
        pretrained: a row of BACKBONES, a hub id, or a model folder.
        mode: a row of MODES.
        max_frames: uniform frames of a video, as the authors evaluate; 0 as the encoder's settings say.
        sampling: another rule (`comem.io.video.SAMPLING`).
        read: of a video: memory, frames or both; empty as the encoder's settings say.
        batch_size: questions at once; no answer depends on it.
        max_batch_size: of lmms-eval; not used.
        given: encoder, bank, index, k, … as of `comem predict`.

    Raises:
        ValueError: an argument that is not known, or cannot be.
    """

    is_simple = False

    def __init__(
        self, max_frames: int = 0, sampling: str = "", read: str = "", batch_size: int | str = 1,
        max_batch_size: int | None = None, **given: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.settings = settings_of({name: value for name, value in given.items() if value is not None})
        self.batch_size = 1 if batch_size == "auto" else int(batch_size)
        processes = Processes.of()
        self._rank, self._world_size = processes.rank, processes.count
        reader = Reader.open(self.settings, processes)
        self.backbone = reader.backbone
        if isinstance(reader.encoder, VideoMemoryEncoder):
            settings = reader.encoder.memory.settings
            reader.encoder.memory.settings = _changed(settings, int(max_frames), sampling, read)
        elif max_frames or sampling or read:
            raise ValueError(f"{', '.join(FRAMES)} are of video_memory's encoders: give encoder=DIR of one")
        mode, _ = reader.mode(self.settings, BENCHMARKS["own"], self.settings.mode[0])
        self.mode: Mode = mode.on(ask=_ask)
        self.retriever: Retriever | None = open_retriever(self.settings) if mode.grounded else None
        self.unread: dict[str, str] = {}
        self.left_out: dict[str, str] = {}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(self.backbone.device)

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answers in the order of the requests; in a batch are those of one task and one decoding."""
        made: dict[int, GenerationResult] = {}
        for rows in _batches(requests, self.batch_size):
            examples = [self._example(requests[row]) for row in rows]
            mode = self.mode.on(generation=self._decoding(_given(requests[rows[0]])))
            contexts = self._contexts(examples)
            for row, answer in zip(rows, self._answers(mode, examples, contexts), strict=True):
                text = _until(answer.text, _given(requests[row]))
                count = len(self.backbone.process.tokenizer(text, add_special_tokens=False)["input_ids"])
                made[row] = GenerationResult(text=text, token_counts=TokenCounts(output_tokens=count))
        for what, found in (("questions' images or videos", self.unread), ("items' images", self.left_out)):
            if found:
                name, why = next(iter(found.items()))
                logger.warning("%d %s could not be read; the first: %s: %s", len(found), what, name, why)
        return [made[row] for row in range(len(requests))]

    def _contexts(self, examples: Sequence[Example]) -> list[RetrievedContext | None]:
        if self.retriever is None:
            return [None] * len(examples)
        distinct = list({example.id: example for example in examples}.values())
        found = self.retriever.retrieve(distinct, self.settings.k, self.settings.languages or None)
        return [found.get(example.id) for example in examples]

    def _answers(
        self, mode: Mode, examples: Sequence[Example], contexts: Sequence[RetrievedContext | None]
    ) -> list[Answer]:
        """A batch's answers; each question alone where one has an image or video that cannot be read."""
        opened, found = open_images(examples, contexts, mode.opens_item_images)
        if mode.opens_item_images:
            found = [usable(context, self.left_out) for context in found]
        try:
            return mode.answer_batch(opened, found)
        except (VideoError, ImageError) as error:
            if len(examples) > 1:
                pairs = zip(examples, contexts, strict=True)
                return [self._answers(mode, [example], [context])[0] for example, context in pairs]
            name = examples[0].id
            self.unread[name] = str(error)
            if isinstance(error, ImageError):
                logger.warning("%s: left without an answer: %s", name, error)
                return [Answer("", example_id=name)]
            logger.warning("%s: asked without its video: %s", name, error)
            return mode.answer_batch([replace(examples[0], video=None)], found)

    def _example(self, request: Any) -> Example:
        """A request's document as an example: one of ours as it was read, another's by its messages."""
        _, to_messages, _, doc, task, split = request.args
        document = self.task_dict[task][split][doc]
        if (known := example_of(document)) is not None:
            asked = {"plain": document["prompt"], "grounded": document["prompt_grounded"]}
            return replace(known, meta=asked)
        return _of_messages(to_messages(document), f"{task}/{doc}")

    def _decoding(self, given: Mapping[str, Any]) -> GenerationConfig:
        """lmms-eval's arguments of decoding as ours; greedy unless a task samples."""
        samples = bool(given.get("do_sample")) and bool(given.get("temperature"))
        return GenerationConfig(
            max_new_tokens=int(given.get("max_new_tokens") or 64),
            temperature=float(given["temperature"]) if samples else 0.0,
            top_p=float(given.get("top_p") or 1.0) if samples else 1.0,
            repetition_penalty=float(given.get("repetition_penalty") or self.settings.repetition_penalty),
            seed=self.settings.seed,
        )

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not offered: a memory's answers are generated."""
        raise NotImplementedError("comem generates answers: choose tasks of output_type generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not offered."""
        raise NotImplementedError("comem answers one question at a time: choose tasks with one round")


def _ask(example: Example, grounded: bool) -> str:
    """The prompt of a question of ours, with or without knowledge; another's as it stands."""
    return str(example.meta.get("grounded" if grounded else "plain", example.question))


def _changed(settings: VideoMemorySettings, frames: int, sampling: str, read: str) -> VideoMemorySettings:
    """The memory's settings with what the arguments say of frames."""
    changes: dict[str, Any] = {"read": read} if read else {}
    if frames or sampling:
        changes |= {"sampling": sampling or "uniform", "max_frames": frames}
    return replace(settings, **changes)


def _given(request: Any) -> dict[str, Any]:
    """A request's arguments of decoding."""
    return dict(request.args[2])


def _batches(requests: Sequence[Any], size: int) -> list[list[int]]:
    """Positions of requests of one task (there ids are unique) that are decoded alike, at most so many."""
    groups: dict[tuple[str, str], list[int]] = {}
    for row, request in enumerate(requests):
        groups.setdefault((request.args[4], repr(sorted(_given(request).items()))), []).append(row)
    return [rows[at : at + size] for rows in groups.values() for at in range(0, len(rows), size)]


def _until(text: str, given: Mapping[str, Any]) -> str:
    """The answer up to the first of the task's stop words."""
    stops = given.get("until") or ()
    for stop in (stops,) if isinstance(stops, str) else stops:
        text = text.split(stop, maxsplit=1)[0] if stop else text
    return text.strip()


def _of_messages(messages: Sequence[Mapping[str, Any]], name: str) -> Example:
    """The last turn as the question, its words, its image or video; what stands before as the turns before.

    Raises:
        ValueError: something that is neither text nor image nor video, or a second image or video.
    """
    *before, last = messages
    words = [part for part in _parts(last, name) if isinstance(part, str)]
    seen = [part for part in _parts(last, name) if not isinstance(part, str)]
    if len(seen) > 1:
        raise ValueError(f"{name}: {len(seen)} images or videos in one question; comem's modes read one")
    turns = tuple(Message(turn["role"], tuple(_parts(turn, name))) for turn in before)
    image = seen[0] if seen and isinstance(seen[0], ImageRef) else None
    video = seen[0] if seen and isinstance(seen[0], VideoRef) else None
    return Example(name, "\n".join(words), image, video=video, turns=turns)


def _parts(turn: Mapping[str, Any], name: str) -> list[str | ImageRef | VideoRef]:
    content = turn["content"]
    if isinstance(content, str):
        return [content]
    found: list[str | ImageRef | VideoRef] = []
    for part in content:
        kind = part["type"]
        if kind == "text":
            found.append(part["text"])
        elif kind == "image":
            found.append(_image(part["url"]))
        elif kind == "video":
            found.append(_video(part))
        else:
            raise ValueError(f"{name}: {kind} is not read; comem reads text, images and videos")
    return found


def _image(url: Any) -> ImageRef:
    """Of a path, or an image of Pillow."""
    if isinstance(url, Image.Image):
        buffer = io.BytesIO()
        url.convert("RGB").save(buffer, "PNG")
        return ImageRef(data=buffer.getvalue())
    return ImageRef(path=str(url))


def _video(part: Mapping[str, Any]) -> VideoRef:
    """Of a path, or of a mapping with one, with the span that a task names."""
    url = part["url"]
    told = {**part, **url} if isinstance(url, Mapping) else part
    path = told.get("path") or told["url"] if isinstance(url, Mapping) else url
    start = told.get("video_start", told.get("start_time")) or 0.0
    end = told.get("video_end", told.get("end_time")) or None
    return VideoRef(path=str(path), start=float(start), end=None if end is None else float(end))
