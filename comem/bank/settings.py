"""What the bank's commands are told, and what they give back; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from comem.config import option, take_paths

if TYPE_CHECKING:
    from comem.bank.format import EncoderInfo

_FILES = (".pt", ".pth", ".bin", ".ckpt", ".npy", ".npz")


@dataclass(frozen=True)
class EncodeSettings:
    """Encoding knowledge items into a memory bank.

    A bank is a folder (docs/memory_bank.md), or one .safetensors file if it is named so. Run the same command
    again after an interruption, or with more items: what is stored is not encoded again. A folder knows the
    items' contents, so that changed ones are encoded anew; a file knows ids only.

    Attributes:
        encoder: encoder folder, or "toy" (embedded).
        output: the bank: a folder, or a .safetensors file.
        items: items as .tsv[.gz] (WIT) or .jsonl[.gz]; either these or an index.
        index: index folder: all its items.
        corpus: first index these into the index, as index build does.
        embedder: of the corpus: "toy", an open_clip folder, or ARCH:PRETRAINED.
        images: where image paths of the items or the corpus start.
        form: of a new folder: fp32, bf16, fp16, int8.
        batch_size: items per forward.
        commit_items: items that a crash may lose.
        skip_faults: go on without items that cannot be read.
        by_id: known ids are unchanged: open no image.
        device: cpu, cuda, cuda:1 … (default: a GPU if there is one).
        engine: ray for several workers, which read the items from the index.
        workers: of Ray.
        gpus: of each Ray worker.
        part_items: items of a Ray task.
    """

    encoder: str = option(metavar="DIR")
    output: Path = option(metavar="PATH")
    items: Path | None = option(None, metavar="FILE")
    index: Path | None = option(None, metavar="DIR")
    corpus: tuple[Path, ...] = option((), metavar="FILE")
    embedder: str | None = None
    images: Path | None = option(None, metavar="DIR")
    form: str = "bf16"
    batch_size: int = 16
    commit_items: int = option(256, also=("--shard-items",))
    skip_faults: bool = False
    by_id: bool = False
    device: str | None = None
    engine: Literal["local", "ray"] = "local"
    workers: int = 2
    gpus: float = 0.0
    part_items: int = 4096

    def __post_init__(self) -> None:
        take_paths(self)
        if (self.items is None) == (self.index is None):
            raise ValueError("give the items: either --items FILE or --index DIR")
        if self.corpus and self.index is None:
            raise ValueError("--corpus needs --index DIR, where its index shall lie")
        if self.output.suffix in _FILES:
            raise ValueError(
                f"--output {self.output}: a bank is one .safetensors file, or a folder; name it so"
            )
        if self.engine == "ray" and self.index is None:
            raise ValueError("--engine ray needs --index DIR: the workers read the items from there")
        if self.engine == "ray" and self.output.suffix == ".safetensors":
            raise ValueError("--engine ray makes a folder: export it to a .safetensors file afterwards")


@dataclass(frozen=True)
class BankSettings:
    """What lies in a bank.

    Attributes:
        bank: the bank's folder.
    """

    bank: Path = option(positional=True, metavar="DIR")

    def __post_init__(self) -> None:
        take_paths(self)


@dataclass(frozen=True)
class VerifySettings(BankSettings):
    """Reading a bank once, and comparing every checksum.

    Exit code: 0 when all is good, 1 for damage.

    Attributes:
        drop_damaged: forget damaged items: a build makes them again.
    """

    drop_damaged: bool = False


@dataclass(frozen=True)
class ExportSettings(BankSettings):
    """A bank in another form, only some items, or as one .safetensors file.

    Attributes:
        output: folder, or .safetensors.
        form: fp32, bf16, fp16, int8, pq, prq (default: as it is).
        ids: only these ids, one a line, in this order.
        sample: items to train pq, prq on.
        seed: of that training.
    """

    output: Path = option(metavar="PATH")
    form: str | None = None
    ids: Path | None = option(None, metavar="FILE")
    sample: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form is not None and self.output.suffix == ".safetensors":
            raise ValueError("--form is for folders; a .safetensors file has the bank's own type")

    def chosen(self) -> list[str] | None:
        """The ids of the file, or None for all."""
        if self.ids is None:
            return None
        return [item_id for item_id in self.ids.read_text(encoding="utf-8").split("\n") if item_id]


@dataclass(frozen=True)
class MergeSettings:
    """Several banks of one encoder into one.

    Attributes:
        banks: folders, or .safetensors files.
        output: new, or one to add to.
        on_conflict: an id with two contents: refuse, first, last.
    """

    banks: tuple[Path, ...] = option(positional=True, metavar="PATH")
    output: Path = option(metavar="DIR")
    on_conflict: Literal["refuse", "first", "last"] = "refuse"

    def __post_init__(self) -> None:
        take_paths(self)


@dataclass
class BuildCounts:
    """What a build did.

    Attributes:
        items: items seen.
        encoded: those that were new or changed.
        changed: of these, those in whose place an older memory stood.
        unchanged: those that were stored already.
        faults: item → why it could not be encoded.
    """

    items: int = 0
    encoded: int = 0
    changed: int = 0
    unchanged: int = 0
    faults: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BankInfo:
    """What lies in a bank.

    Attributes:
        path: its folder or file.
        items: ids that are here.
        entries: all that was ever appended.
        queries, width: a memory is `(q, d)`.
        form: how a memory is written.
        stride: bytes of one memory.
        bytes: of all files.
        encoder: who made the memories.
    """

    path: Path
    items: int
    entries: int
    queries: int
    width: int
    form: str
    stride: int
    bytes: int
    encoder: EncoderInfo


@dataclass(frozen=True)
class StoreReport:
    """What lies in a store, and what is wrong with it.

    Attributes:
        items: ids that are here.
        entries: all that was ever appended.
        superseded: entries in whose place a newer one of the same id stands, or that were removed.
        bytes: of all files.
        damaged: item → what is wrong with its memory.
        nameless: items of which even the id is damaged.
        faults: what is wrong with whole files.
        unverified: what has no checksum to compare with, or could not be told.
    """

    items: int
    entries: int
    superseded: int
    bytes: int
    damaged: dict[str, str]
    nameless: int
    faults: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether nothing is damaged or nameless."""
        return not self.damaged and not self.nameless and not self.faults
