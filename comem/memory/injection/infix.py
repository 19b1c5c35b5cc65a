"""The infix: memory embeddings in place of a marker inside what a frozen model reads.

The marker is the token of a video, which the model's processor leaves standing, once in a row; it goes, and
the memory comes in its place. A row without marker is read as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from comem.backbones.base import Backbone
from comem.backbones.positions import free_ids, with_token_types
from comem.memory.injection.prefix import PREFIX, Prefix, make_room, without


@dataclass(frozen=True)
class Infix(Prefix):
    """Memory embeddings `(m, d)` where each row has its marker.

    Attributes:
        marker: the id in whose place they come.
    """

    marker: int = -1

    @property
    def name(self) -> str:
        """Its row in `INJECTIONS`."""
        return "infix"

    def room(
        self, model: Any, inputs: Mapping[str, Any], sizes: Sequence[int]
    ) -> tuple[dict[str, Any], Tensor, int]:
        """As `Prefix.room`; the marker goes.

        Raises:
            ValueError: a memory for a row without marker, or two markers in a row.
        """
        plain, places = without(inputs, self.marker)
        for row, (size, at) in enumerate(zip(sizes, places, strict=True)):
            if size and at is None:
                raise ValueError(
                    f"row {row} has a memory, but no place for it: its conversation has no video"
                )
        placeholder = self.placeholder(model, plain["input_ids"])

        def starts(ids: Tensor, mask: Tensor) -> list[int]:
            return [int(mask[row].argmax()) if at is None else at for row, at in enumerate(places)]

        extended, positions = make_room(with_token_types(model, plain), sizes, placeholder, starts)
        return extended, positions, placeholder


def infix_for(backbone: Backbone, encoder: Any = None) -> Infix:
    """The infix at the token of a video, with ids that no text of the backbone's tokenizer yields.

    Raises:
        BackboneError: the model takes no embeddings, or its tokenizer has no token that can mark a video.
    """
    PREFIX.check(backbone.spec)
    marker = backbone.process.video_marker[1]
    return Infix(tuple(i for i in free_ids(backbone.model, backbone.processor) if i != marker), marker)
