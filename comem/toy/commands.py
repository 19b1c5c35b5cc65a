"""`comem toy`: the embedded world as files, and a text-only reader made of its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from comem.config import option
from comem.io.console import print_line
from comem.io.files import check_free


@dataclass(frozen=True)
class TextReaderSettings:
    """A Qwen-VL's language model as an ordinary Qwen2 folder: it sees no images.

    Attributes:
        output: the folder.
        model: Qwen2-VL or Qwen2.5-VL, named as for comem predict.
    """

    output: Path = option(positional=True, metavar="DIR")
    model: str = "toy"


def write_text_reader(settings: TextReaderSettings) -> dict[str, int]:
    """Write the model's language part."""
    from comem.backbones.hf import load_backbone
    from comem.backbones.text_reader import text_reader_of

    check_free(settings.output)
    text_reader_of(load_backbone(settings.model, device="cpu"), settings.output)
    return {"text-only reader": 1}


class Written(Protocol):
    """Settings of a job that writes a folder."""

    @property
    def output(self) -> Path:
        """The folder."""
        ...


def show_counts(counts: Mapping[str, int], settings: Written) -> None:
    """Print what the folder holds."""
    print_line(f"{settings.output}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
