"""`comem encode` and `comem bank build | info | verify | export | merge`: settings, and what is printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from comem.config import option, take_paths
from comem.io.console import print_facts, print_line, print_table

if TYPE_CHECKING:
    from comem.bank.build import BuildCounts
    from comem.bank.upkeep import BankInfo, StoreReport

_FILES = (".pt", ".pth", ".bin", ".ckpt", ".npy", ".npz")
_SHOWN = 20  # items named


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


def show_encoded(counts: BuildCounts, settings: EncodeSettings) -> None:
    """Print what was done, and what lies in the bank now."""
    from comem.bank.upkeep import info

    shown = {**vars(counts), "faults": len(counts.faults)}
    print_facts([(name, f"{number:,}") for name, number in shown.items()])
    for item_id, fault in list(counts.faults.items())[:_SHOWN]:
        print_line(f"not stored: {item_id}: {fault}")
    show_info(info(BankSettings(settings.output)), settings)


def show_info(found: BankInfo, settings: object) -> None:
    """Print what lies in a bank."""
    size = f"{found.bytes / 2**20:,.1f} MiB, {found.bytes / max(1, found.items):,.0f} bytes an item"
    facts = [
        ("bank", str(found.path)),
        ("items", f"{found.items:,} of {found.queries} × {found.width}"),
        ("form", f"{found.form}, {found.stride:,} bytes an item"),
        ("on disk", size),
    ]
    if found.path.is_dir():
        replaced = found.entries - found.items
        facts.append(("replaced or removed", f"{replaced:,} (comem bank export leaves them behind)"))
    encoder = found.encoder
    low, high, longest = encoder.min_pixels, encoder.max_pixels, encoder.max_chars
    pixels = "not recorded" if low is None or high is None else f"{low:,} to {high:,} pixels"
    print_facts([
        *facts,
        ("encoder", encoder.fingerprint),
        ("prompt", repr(encoder.prompt) if encoder.prompt is not None else "not recorded"),
        ("image", pixels),
        ("passage", f"at most {longest:,} characters" if longest else "not recorded"),
    ])  # fmt: skip


def show_report(report: StoreReport, settings: VerifySettings) -> int:
    """Print what is damaged; 1 if anything is."""
    if report.damaged:
        rows: Sequence[tuple[str, str]] = list(report.damaged.items())
        title = "damaged" if len(rows) <= _SHOWN else f"damaged, the first {_SHOWN} of {len(rows):,}"
        print_table(("item", "what is wrong"), rows[:_SHOWN], title)
    print_facts([
        ("items", f"{report.items:,}"),
        ("damaged", f"{len(report.damaged):,}"),
        ("without a readable id", f"{report.nameless:,}"),
        ("verdict", "good" if report.good else "damaged"),
    ])  # fmt: skip
    if report.damaged and settings.drop_damaged:
        print_line(f"{len(report.damaged):,} items forgotten; comem bank build encodes them again")
    return 0 if report.good else 1
