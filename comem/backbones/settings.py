"""Settings of the `backbone` commands, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from comem.config import option, take_paths


@dataclass(frozen=True)
class BackboneCheckSettings:
    """Asking a model what it can do here.

    Loads the model and puts each question to it by numbers: a soft prefix of real tokens' embeddings has to
    give the logits of these tokens, keys and values those of the ordinary prompt, a batch those of its rows.

    Attributes:
        name: a row of BACKBONES, a hub id, or a local model folder.
        dtype: of the weights; float32 tells faults from rounding most clearly.
        device: cpu, cuda, cuda:1 or auto; by default a GPU if there is one.
        output: write row and findings to this JSON file.
    """

    name: str = option(positional=True, metavar="NAME")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str | None = None
    output: Path | None = None

    def __post_init__(self) -> None:
        take_paths(self)


@dataclass(frozen=True)
class BackboneTableSettings:
    """Probing every family that the installed transformers loads, on tiny models with random weights.

    Takes a quarter of an hour on two cores; a run that was stopped goes on where its log ends.

    Attributes:
        output: a Markdown file with the table's marks in it, e.g. docs/backbones.md; None writes none.
        log: JSONL file of what was found, a line a family.
        families: only these; empty for all.
    """

    output: Path | None = None
    log: Path = Path("runs/backbone-table.jsonl")
    families: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        take_paths(self)
