"""Video memory: a recurrent memory of the question's own video in its place in the prompt."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from comem.backbones.base import Answer, Conversations, Injection
from comem.memory.encoder import check_width
from comem.memory.injection.infix import infix_for
from comem.memory.lora import adapters_off, adapters_on
from comem.memory.video.encoder import VideoMemoryEncoder
from comem.modes.base import Contexts, Mode
from comem.types import Example, VideoRef


class VideoMemoryMode(Mode):
    """Remembers each question's video, and answers from the memory, some frames beside it.

    ```python
    mode = MODES["video_memory"](backbone, encoder=load_encoder("runs/video/merged", backbone))
    answers = mode.answer_batch([Example("q", "Who leaves first?", None, video=VideoRef("a.mp4"))], [None])
    ```
    """

    name: ClassVar[str] = "video_memory"
    grounded: ClassVar[bool] = False

    def check(self) -> None:
        """As `Mode.check`: an encoder of videos, made on this backbone."""
        _ = self.encoder
        self.injection.check(self.backbone.spec)

    @cached_property
    def encoder(self) -> VideoMemoryEncoder:
        """The settings'; ValueError if it is none of videos."""
        encoder = self.settings.encoder
        if not isinstance(encoder, VideoMemoryEncoder):
            raise ValueError("the video_memory mode needs an encoder of videos: give the folder of one")
        check_width(encoder, self.backbone.hidden_size)
        if encoder.model is not self.backbone.model:
            raise ValueError("the video memory was opened on another model: open it on this backbone")
        return encoder

    @cached_property
    def injection(self) -> Injection:
        """The infix where the video stands, unless the settings name another."""
        return self.settings.injection or infix_for(self.backbone)

    def record(self) -> dict[str, Any]:
        """What is read of a video, and how its frames are loaded."""
        settings = self.encoder.settings
        return {
            "read": settings.read, "sampling": settings.sampling, "max_frames": settings.max_frames,
            "cache": settings.cache, "evict": settings.evict,
        }  # fmt: skip

    def conversations(self, examples: Sequence[Example], contexts: Contexts) -> Conversations:
        """The question's turn alone, for each example, a video where it has one."""
        return [[self.question_turn(example, False)] for example in examples]

    def ahead(self, examples: Sequence[Example], contexts: Contexts) -> None:
        """Nothing: a video's frames are not kept ahead."""

    def memories(self, videos: Sequence[VideoRef | None]) -> list[Tensor | None]:
        """Per question its video's block `(m, d)`, or None without video; equal videos are read once."""
        distinct = list(dict.fromkeys(video for video in videos if video is not None))
        known = dict(zip(distinct, self.encoder.blocks(distinct), strict=True))
        return [None if video is None else known[video] for video in videos]

    def answer_batch(self, examples: Sequence[Example], contexts: Contexts) -> list[Answer]:
        """As `Mode.answer_batch`; the context counts the block, reading the video counts as time."""
        start = time.perf_counter()
        memories = self.memories([example.video for example in examples])
        spent = (time.perf_counter() - start) / max(1, len(examples))
        switch = adapters_on if self.encoder.adapts_reader else adapters_off
        with switch(self.backbone.model):
            answers = self.reader.generate(
                self.conversations(examples, contexts), memories, self.settings.generation, self.injection
            )
        return [replace(answer, seconds=answer.seconds + spent) for answer in answers]
