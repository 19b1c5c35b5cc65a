"""`comem encode` and `comem parity`: their settings, their functions, what is printed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from comem.config import option
from comem.io.console import print_facts, print_line, print_table
from comem.io.progress import Progress, quiet

if TYPE_CHECKING:
    from comem.compat.parity import Difference
    from comem.memory.bank import MemoryBank
    from comem.retrieval.knowledge import KnowledgeBase
    from comem.types import KnowledgeItem


@dataclass(frozen=True)
class EncodeSettings:
    """Encoding knowledge items into a memory bank.

    Run the same command again after an interruption: finished items are not encoded twice.

    Attributes:
        encoder: encoder folder, or "toy" (embedded).
        output: the bank (.safetensors).
        items: items as .tsv[.gz] (WIT) or .jsonl[.gz]; either these or an index.
        index: index folder: all its items.
        images: where image paths of the items start.
        batch_size: items per forward.
        shard_items: items that a crash may lose.
        device: cpu, cuda, cuda:1 … (default: a GPU if there is one).
    """

    encoder: str = option(metavar="DIR")
    output: Path = option(metavar="FILE")
    items: Path | None = option(None, metavar="FILE")
    index: Path | None = option(None, metavar="DIR")
    images: Path | None = option(None, metavar="DIR")
    batch_size: int = 16
    shard_items: int = 256
    device: str | None = None

    def __post_init__(self) -> None:
        if (self.items is None) == (self.index is None):
            raise ValueError("give the items as one of --items FILE and --index DIR")
        if self.output.suffix != ".safetensors":
            raise ValueError(f"--output {self.output}: a bank is one .safetensors file; name it so")


def encode(settings: EncodeSettings, progress: Progress = quiet) -> MemoryBank:
    """Encode items into a bank file, and give the bank.

    Example:
        >>> bank = encode(EncodeSettings("toy", Path("bank.safetensors"), index=Path("data/toy/index")))

    Raises:
        ValueError: items that cannot be read, or a bank of another encoder.
    """
    from comem.bank.encode import encode_to_bank
    from comem.memory.serialization import open_encoder

    items, count = _items(settings)
    encoder = open_encoder(settings.encoder, device=settings.device)
    with progress("encoding", count) as advance:
        return encode_to_bank(
            encoder, items, settings.output, settings.batch_size, settings.shard_items, advance
        )  # fmt: skip


def show_encoded(bank: MemoryBank, settings: EncodeSettings) -> None:
    """Print the bank's size."""
    _, queries, width = bank.embeddings.shape
    size = f"{settings.output.stat().st_size / 2**20:.1f} MB"
    items = f"{len(bank):,} × {queries} × {width}"
    print_facts([("bank", str(settings.output)), ("items", items), ("size", size)])


def _items(settings: EncodeSettings) -> tuple[Iterable[KnowledgeItem], int | None]:
    """The items and, where it is known ahead, their number."""
    if settings.index is not None:
        from comem.retrieval.knowledge import KnowledgeBase

        base = KnowledgeBase(settings.index)
        return _all_items(base), len(base)
    from comem.retrieval.corpus import read_corpus

    assert settings.items is not None
    return read_corpus([settings.items], images=settings.images), None


def _all_items(base: KnowledgeBase) -> Iterator[KnowledgeItem]:
    """Every item, a thousand at a time: a knowledge base may be larger than memory."""
    for start in range(0, len(base), 1000):
        yield from base.items(range(start, min(start + 1000, len(base))))


@dataclass(frozen=True)
class ParitySettings:
    """Comparing our outputs with recorded ones.

    Exit code: 0 when every difference is within the tolerance, 1 when one is not.

    Attributes:
        folders: golden folders, with case_*.safetensors.
        tolerance: the largest difference allowed.
    """

    folders: tuple[Path, ...] = option(positional=True, metavar="DIR")
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if not self.folders:
            raise ValueError("no folders: give at least one with case_*.safetensors")
        if not self.tolerance >= 0:
            raise ValueError(f"--tolerance {self.tolerance}: give 0 or more")


def parity(settings: ParitySettings) -> dict[Path, list[Difference]]:
    """How far each output of each case is from the recorded one, by folder.

    Raises:
        ValueError: a folder has no cases, or is not a checkpoint of the authors'.
    """
    from comem.compat.parity import run_parity

    return {folder: run_parity(folder) for folder in settings.folders}


def show_parity(found: dict[Path, list[Difference]], settings: ParitySettings) -> int:
    """Print the differences; 1 if any is above the tolerance."""
    for folder, differences in found.items():
        rows = [(d.case, d.output, f"{d.max_abs:.2e}", _verdict(d.max_abs, settings)) for d in differences]
        print_table(("case", "output", "largest difference", ""), rows, str(folder))
    worst = max((each.max_abs for differences in found.values() for each in differences), default=0.0)
    place = "within" if worst <= settings.tolerance else "ABOVE"
    print_line(f"largest of all: {worst:.2e}; {place} the tolerance of {settings.tolerance:g}")
    return 0 if worst <= settings.tolerance else 1


def _verdict(difference: float, settings: ParitySettings) -> str:
    return "ok" if difference <= settings.tolerance else "TOO FAR"
