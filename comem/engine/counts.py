"""What the engine has done, in numbers that do not depend on the machine's speed."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class Counts:
    """Counts of work; a change that doubles one of them is a change for the worse whatever the clock says.

    Attributes:
        encoder_calls: batches of items that the encoder read.
        items_encoded: items in them.
        prefills: prompts batches read.
        prompt_tokens: tokens in them.
        padded_tokens: tokens that were computed for nothing, to fill a batch up.
        forward_passes: forward passes of the reader, prefills included.
        copies_to_device: tensors of prompts that were handed to the device; on a CPU nothing is copied.
    """

    encoder_calls: int = 0
    items_encoded: int = 0
    prefills: int = 0
    prompt_tokens: int = 0
    padded_tokens: int = 0
    forward_passes: int = 0
    copies_to_device: int = 0

    def add(self, **counted: int) -> None:
        """Add to the counters named."""
        for name, number in counted.items():
            setattr(self, name, getattr(self, name) + number)

    def as_dict(self) -> dict[str, int]:
        """All counters by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
