"""From frames to the features that a model's own vision tower makes of them, per family of models."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from comem.backbones.specs import BackboneError
from comem.registry import Registry

#: Frames that go through the tower at once.
CHUNK = 32


class Eye(Protocol):
    """What sees frames for a memory: a frozen model's tower and projector.

    Attributes:
        grid: height and width of the patches that it makes of a frame.
    """

    grid: tuple[int, int]

    def pixels(self, frames: Tensor) -> Tensor:
        """Frames `(f, h, w, 3)`, uint8, as the tower takes them: one row a frame."""
        ...

    def features(self, pixels: Tensor) -> Tensor:
        """`(f, p, d)` of what `pixels` gave, in the model's dtype, row by row of the grid."""
        ...


@dataclass(frozen=True)
class OnevisionEye:
    """LLaVA-OneVision: SigLIP, projector, and 2 x 2 patches pooled to one (video_memory.md 1.2, 1.3)."""

    model: Any
    processor: Any
    grid: tuple[int, int]

    def pixels(self, frames: Tensor) -> Tensor:
        """`(f, 3, s, s)`."""
        made = self.processor.video_processor(
            videos=[frames.permute(0, 3, 1, 2)], do_sample_frames=False, return_tensors="pt"
        )
        return made["pixel_values_videos"][0]  # type: ignore[no-any-return]

    def features(self, pixels: Tensor) -> Tensor:
        """As `Eye.features`; the model's own newline at the end is left out."""
        base = self.model.base_model
        found = base.get_video_features(pixels[None], return_dict=True).pooler_output
        return found[0, :-1].unflatten(0, (len(pixels), -1))  # type: ignore[no-any-return]


def onevision(model: Any, processor: Any, side: int) -> OnevisionEye:
    """The eye of a LLaVA-OneVision model; its grid follows from the tower."""
    vision = model.config.vision_config
    own = math.ceil(vision.image_size // vision.patch_size / 2)
    return OnevisionEye(model, processor, (own, own))


@dataclass(frozen=True)
class QwenEye:
    """Qwen-VL: every frame is an image, brought to one size."""

    model: Any
    processor: Any
    grid: tuple[int, int]

    def pixels(self, frames: Tensor) -> Tensor:
        """`(f, patches, values)`, before the tower merges them."""
        images = self.processor.image_processor
        edge = images.patch_size * images.merge_size
        height, width = self.grid[0] * edge, self.grid[1] * edge
        shape = (height, width)
        sized = frames.permute(0, 3, 1, 2)
        if tuple(sized.shape[-2:]) != shape:
            sized = torch.nn.functional.interpolate(sized.float(), shape, mode="bilinear", antialias=True)
            sized = sized.round().clamp(0, 255).to(torch.uint8)
        limits = {"shortest_edge": height * width, "longest_edge": height * width}
        made = images(images=list(sized), size=limits, return_tensors="pt")["pixel_values"]
        return made.unflatten(0, (len(frames), -1))  # type: ignore[no-any-return]

    def features(self, pixels: Tensor) -> Tensor:
        """As `Eye.features`."""
        merge = self.processor.image_processor.merge_size
        one = torch.tensor([1, self.grid[0] * merge, self.grid[1] * merge], device=pixels.device)
        grids = one.expand(len(pixels), 3)
        found = self.model.base_model.get_image_features(pixels.flatten(0, 1), grids, return_dict=True)
        return torch.stack(list(found.pooler_output))


def qwen(model: Any, processor: Any, side: int) -> QwenEye:
    """The eye of a Qwen-VL model; frames are brought to `side` x `side` merged patches."""
    return QwenEye(model, processor, (side, side))


_ROWS = {"llava_onevision": "onevision", "qwen2_5_vl": "qwen", "qwen2_vl": "qwen"}
MakeEye = Callable[[Any, Any, int], Eye]
#: By `model_type`; a row makes the eye of a model, its processor, and the side of the grid wished for.
EYES: Registry[MakeEye] = Registry(
    "eye for videos",
    {name: f"comem.memory.video.eye:{row}" for name, row in _ROWS.items()},
)


def eye_of(model: Any, processor: Any, side: int) -> Eye:
    """The eye of a model.

    Raises:
        BackboneError: its family has none; says how to add one.
    """
    family = model.config.model_type
    if family not in EYES:
        raise BackboneError(
            f"a video memory on {family!r}: no eye for it; known: {', '.join(EYES)}, others by EYES.register"
        )
    return EYES[family](model, processor, side)


@torch.no_grad()
def look(eye: Eye, pixels: Tensor) -> Tensor:
    """Features `(f, p, d)` of any number of frames, a chunk at a time, without gradient."""
    return torch.cat([eye.features(part) for part in pixels.split(CHUNK)])  # type: ignore[no-untyped-call]
