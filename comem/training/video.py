"""A video memory's two stages with the trainer of the memories, on LLaVA-Video-178K's files (docs/video.md).

The first stage is for short clips: every other step the reader is given the memory without frames, for else
it needs none. The second, for long ones, starts from the first (`init`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from comem.backbones.chatml import IGNORED, answer_labels
from comem.backbones.hf import HFBackbone, context_of
from comem.benchmarks.llava_video import mixture, parts
from comem.io.files import RecordError
from comem.io.video import VideoError, placed
from comem.memory.checkpointing import enable_checkpointing
from comem.memory.injection.infix import infix_for
from comem.memory.video.encoder import (
    ADAPTER,
    READER,
    VideoInputs,
    VideoMemoryEncoder,
    build_encoder,
)
from comem.training.collator import TrainingBatch
from comem.training.data import TrainingExample, parse_example, pass_over
from comem.training.labels import template_labels
from comem.training.model import MemoryTrainingModel
from comem.training.settings import TrainSettings
from comem.types import Message, VideoRef


def load_video_examples(
    path: str | Path, videos: str | Path | None = None, passed: list[str] | None = None
) -> list[TrainingExample]:
    """Read a JSON list of LLaVA-Video-178K, or a YAML mixture of such lists; whole dialogues.

    Args:
        path: of the file.
        videos: the folder that records' paths start at; None: each list's own.
        passed: gets list, record and fault of each record that breaks the format, which is passed over.

    Raises:
        RecordError: no record can be used; names list and record.
        ValueError: for a file without records.
    """
    examples: dict[str, TrainingExample] = {}
    faults, count = list[str](), 0
    for source, records in mixture(Path(path)):
        folder = source.parent if videos is None else Path(videos)
        for number, record in enumerate(records, start=1):
            where = f"{source} record {number}"
            count += 1
            try:
                _, _, video = parts(record, where)
                name = str(record.get("id", f"{source.stem}/{number}"))
                if name in examples:  # several questions about a video may share its id
                    name = f"{name}/{source.stem}/{number}"
                example = parse_example({**record, "id": name, "image": None, "video": None}, folder)
            except RecordError as error:
                faults.append(str(error))
            except ValueError as error:
                faults.append(f"{where}: {error}")
            else:
                examples[name] = replace(example, video=placed(video, folder))
    pass_over(path, faults, count, passed)
    if not examples:
        raise ValueError(f"{path} holds no question: a JSON list of records with a video each is expected")
    return list(examples.values())


@dataclass(frozen=True)
class VideoCollator:
    """Makes batches of questions about videos, whose `items` are the different videos' frames.

    A video that cannot be read leaves its question out, which `TrainingBatch.skipped` says.

    Attributes:
        process: dialogues → the reader's inputs (the backbone's `process`).
        labels: dialogues and their inputs → labels.
        frames: videos → the encoder's inputs.
        max_tokens: longest dialogue, in tokens, video not counted.
        opening: turns before each dialogue, of the system.
    """

    process: Callable[..., Mapping[str, Any]]
    labels: Callable[[Sequence[Sequence[Message]], Mapping[str, Tensor]], Tensor]
    frames: VideoInputs
    max_tokens: int
    opening: tuple[Message, ...] = ()

    def __call__(self, examples: Sequence[TrainingExample]) -> TrainingBatch:
        """The batch of these examples; without questions if no video can be read."""
        seen, skipped = self._seen(examples)
        kept = [example for example in examples if example.video in seen]
        if not kept:
            return TrainingBatch((), {}, {}, (), skipped)
        chats = [[*self.opening, *example.messages()] for example in kept]
        question = dict(self.process(chats))
        for example, length in zip(kept, question["attention_mask"].sum(dim=1).tolist(), strict=True):
            if length > self.max_tokens:
                raise ValueError(
                    f"the example {example.id!r} has {length} tokens, above max_tokens={self.max_tokens}; "
                    "shorten it, or raise max_tokens"
                )
        question["labels"] = self.labels(chats, question)
        order = {video: row for row, video in enumerate(seen)}
        items = {
            name: torch.cat([one[name] for one in seen.values()]) for name in ("pixels", "index", "counts")
        }
        rows = tuple((order[example.video],) for example in kept if example.video is not None)
        return TrainingBatch(tuple(example.id for example in kept), question, items, rows, skipped)

    def batches(self, examples: Sequence[TrainingExample]) -> list[TrainingBatch]:
        """What one micro-batch of examples becomes: one batch."""
        return [self(examples)]

    def _seen(
        self, examples: Sequence[TrainingExample]
    ) -> tuple[dict[VideoRef | None, dict[str, Tensor]], tuple[str, ...]]:
        """Each different video's inputs, and what could not be read."""
        seen: dict[VideoRef | None, dict[str, Tensor]] = {}
        skipped = []
        for example in examples:
            if example.video is None or example.video in seen:
                continue
            try:
                seen[example.video] = self.frames.inputs([example.video])
            except VideoError as error:
                skipped.append(f"question {example.id}: {error}")
        return seen, tuple(skipped)


class VideoTrainingModel(MemoryTrainingModel):
    """Cross-entropy of the answers, given each question's video in its place in the prompt."""

    encoder: Any

    def prefixes(
        self, items: Mapping[str, Tensor], rows: Sequence[Sequence[int]], embeddings: Sequence[int] = (),
        vectors: int = 0,
    ) -> list[Tensor | None]:  # fmt: skip
        """Each question's block `(m, d)`: memory, frames, or both, as the encoder's settings say."""
        blocks = self.encoder(dict(items))
        return [blocks[row[0]] for row in rows]


@dataclass(frozen=True)
class VideoRun:
    """What the trainer needs of a stage."""

    model: VideoTrainingModel
    collator: VideoCollator
    backbone: HFBackbone


def build_run(
    settings: TrainSettings, load: Callable[[str], HFBackbone], resume: Path | None = None
) -> VideoRun:
    """The model of a stage, with the weights of the checkpoint, or of `init`.

    What is trained is held in float32, also beside a bf16 base: steps of 1e-6 vanish in bf16.

    Args:
        settings: of the run.
        load: opens the base by its name.
        resume: the checkpoint to go on from.

    Raises:
        ValueError: another reader; or a checkpoint that does not fit, or whose LoRA or language model would
            be lost.
    """
    if settings.reader:
        raise ValueError("a video memory is read by the model that sees the frames: leave reader empty")
    stage, backbone = settings.video_stage, load(settings.model)
    video = replace(settings.video, frame_dropout=stage.drops(settings.video))
    torch.manual_seed(settings.seed)
    encoder = build_encoder(backbone, video=video, lora=settings.lora, tune=stage.trains)
    for parameter in encoder.trainable_parameters():
        parameter.data = parameter.data.float()
    source = resume or (Path(settings.init) if settings.init else None)
    if source is not None:
        _check_kept(source, encoder)
        encoder.load_weights(source)
    if settings.checkpointing:
        enable_checkpointing(backbone.model)
    injection = infix_for(backbone)
    blocks: Any = encoder  # its memories differ in length, so they are no tensor (n, q, d)
    model = VideoTrainingModel(blocks, None, injection, settings.loss_chunk)
    chat = replace(backbone.process, context=None)  # the collator says which example is too long
    collator = VideoCollator(
        process=partial(chat, add_generation_prompt=False),
        labels=partial(_labels, chat, all_marks=stage.all_marks),
        frames=replace(encoder.frames, eye=replace(encoder.eye, model=None)),  # type: ignore[type-var]
        max_tokens=min(settings.max_tokens, context_of(backbone.model) or 1 << 30),
        opening=(Message("system", (settings.system,)),) if settings.system else (),
    )
    return VideoRun(model, collator, backbone)


def _check_kept(folder: Path, encoder: VideoMemoryEncoder) -> None:
    """Refuse a start of which something trained would be left behind."""
    held = encoder.trained_state()
    for name, what in ((ADAPTER, "LoRA"), (READER, "a language model")):
        if (folder / name).is_file() and name not in held:
            raise ValueError(
                f"{folder} holds {what} beside the memory, which this stage ({encoder.tune}) would leave "
                "behind: merge its run first (comem merge) and give its folder as `model` and `init`"
            )


def _labels(
    process: Any, chats: Sequence[Sequence[Message]], inputs: Mapping[str, Tensor], all_marks: bool
) -> Tensor:
    """Answers' tokens; with `all_marks` each line break and turn mark besides, as LLaVA-NeXT has it."""
    ids = inputs["input_ids"]
    if process.spec.items == "paper":
        labels = answer_labels(ids, process.tokenizer)
    else:
        labels = template_labels(process, chats, ids)
    if all_marks:
        known = process.tokenizer.get_vocab()
        marks = [known[mark] for mark in ("<|im_start|>", "<|im_end|>") if mark in known]
        marks += process.tokenizer("\n", add_special_tokens=False)["input_ids"]
        wanted = torch.isin(ids, torch.tensor(marks)) & inputs["attention_mask"].bool()
        labels = torch.where(wanted & (labels == IGNORED), ids, labels)
    return labels
