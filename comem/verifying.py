"""Whatever a command of comem has written: read once and compared with its checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from comem.config import option, take_paths
from comem.io.console import Progress, print_line, print_table, quiet
from comem.io.files import SUMS, compare_sums, is_sealed, read_json

_OLD = "has no checksums: it was written by version 0.2 or before"


@dataclass(frozen=True)
class VerifyAnySettings:
    """Reading what was written, and comparing every checksum.

    Exit code: 0 when all is good, 1 for damage.

    Attributes:
        paths: banks, indexes, corpora, memories, encoders, checkpoints, trainings' folders, files of tensors.
    """

    paths: tuple[Path, ...] = option(positional=True, metavar="PATH")

    def __post_init__(self) -> None:
        take_paths(self)


@dataclass(frozen=True)
class Verified:
    """What was found at one place.

    Attributes:
        path: the folder or file.
        kind: what it is.
        faults: what is wrong, a sentence each.
        unverified: what has no checksum to compare with.
    """

    path: Path
    kind: str
    faults: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()


def verify(settings: VerifyAnySettings, progress: Progress = quiet) -> list[Verified]:
    """Compare everything at some places with the checksums of when it was written.

    Example:
        >>> [found.faults for found in verify(VerifyAnySettings((Path("runs/7b"), Path("runs/bank"))))]

    Raises:
        ValueError: a path that is not there, or holds nothing that comem writes.
    """
    found: list[Verified] = []
    with progress("verifying", len(settings.paths), unit="places") as advance:
        for path in settings.paths:
            here = list(_verified(path))
            if not here:
                what = (
                    "nothing that comem writes and can verify" if path.exists() else "no such file or folder"
                )
                raise ValueError(f"{path}: {what}; give a bank, an index, a corpus, an encoder or a training")
            found += here
            advance(1)
    return found


def show(found: Sequence[Verified], settings: VerifyAnySettings) -> int:
    """Print what is damaged and what could not be verified; 1 if anything is damaged."""
    for each in found:
        for line in each.faults:
            print_line(f"damaged: {line}")
        for line in each.unverified:
            print_line(f"not verified: {line}")
    rows = [(str(each.path), each.kind, "damaged" if each.faults else "good") for each in found]
    print_table(("place", "kind", "verdict"), rows, texts=("place", "kind", "verdict"))
    return 1 if any(each.faults for each in found) else 0


def _verified(path: Path) -> Iterator[Verified]:
    """What lies at a path; a folder may be several things."""
    if path.suffix == ".safetensors" and path.is_file():
        yield _guarded(path, "tensors", _tensors)
    for name, sign, kind, look in _KINDS:
        if (path / name).is_file():
            yield _guarded(path, kind, look)
        elif sign and (path / sign).is_file():
            lost = f"{path / name} is not there, though {sign} is: lost, or never finished; make it again"
            yield Verified(path, kind, (lost,))
    if (path / "checkpoints").is_dir():
        for state in sorted((path / "checkpoints").glob("*/state.json")):
            yield _guarded(state.parent, "checkpoint", _checkpoint)


Look = Callable[[Path], tuple[Sequence[str], Sequence[str]]]


def _guarded(path: Path, kind: str, look: Look) -> Verified:
    try:
        faults, notes = look(path)
    except ValueError as error:  # so damaged that it cannot be opened
        faults, notes = [str(error)], []
    return Verified(path, kind, tuple(faults), tuple(notes))


def _tensors(path: Path) -> tuple[Sequence[str], Sequence[str]]:
    from comem.memory.bank import has_checksum, read_tensors

    read_tensors(path)
    return [], [] if has_checksum(path) else [f"{path} {_OLD}"]


def _bank(path: Path) -> tuple[Sequence[str], Sequence[str]]:
    from comem.bank.upkeep import verify_store

    report = verify_store(path)
    faults = [f"{path}: {item_id!r}: {fault}" for item_id, fault in report.damaged.items()]
    if report.nameless:
        faults.append(f"{path}: {report.nameless} items whose ids cannot be read")
    faults += [f"{path}: {fault}" for fault in report.faults]
    return faults, [f"{path}: {note}" for note in report.unverified]


def _index(path: Path) -> tuple[Sequence[str], Sequence[str]]:
    from comem.retrieval.index import MANIFEST, verify_index

    return verify_index(path), _unsealed(path / MANIFEST)


def _corpus(path: Path) -> tuple[Sequence[str], Sequence[str]]:
    from comem.retrieval.embed import IMAGES, TEXTS, verify_shards
    from comem.retrieval.knowledge import MANIFEST, KnowledgeBase

    base = KnowledgeBase(path)
    base.verify()
    notes = _unsealed(path / MANIFEST)
    faults = list[str]()
    for folder in (path / IMAGES, path / TEXTS):
        wrong, old = verify_shards(folder)
        faults += wrong
        notes += [f"{folder}: {old} shards of vectors have no checksums"] if old else []
    return faults, notes


def _memory(path: Path) -> tuple[Sequence[str], Sequence[str]]:
    from comem.store.table import Table

    with closing(Table(path, must_exist=True)) as table:
        old = table.unsummed()
        notes = [f"{path}: {old} items have no checksums; update them, or add them again"] if old else []
        return [f"{path}: {fault}" for fault in table.check()], notes


def _described(name: str) -> Look:
    """A folder whose other files' checksums stand in one JSON file."""

    def look(path: Path) -> tuple[Sequence[str], Sequence[str]]:
        about = read_json(path / name)
        sums = about.get(SUMS) if isinstance(about, dict) else None
        if sums is None:
            return [], [f"{path} {_OLD}"]
        return compare_sums(path, sums), _unsealed(path / name)

    return look


def _encoder(path: Path) -> tuple[Sequence[str], Sequence[str]]:
    from comem.memory.encoder import CONFIG, read_about

    read_about(path)
    return _described(CONFIG)(path)


_checkpoint = _described("state.json")


def _unsealed(path: Path) -> list[str]:
    return [] if is_sealed(path) else [f"{path} has no checksum of its own"]


#: The file that says what a folder is, another that does not come without it, the kind, its verification.
_KINDS: tuple[tuple[str, str, str, Look], ...] = (
    ("store.json", "table.bin", "bank", _bank),
    ("items.json", "items.parquet", "corpus", _corpus),
    ("index.json", "index.faiss", "index", _index),
    ("state.json", "optimizer.safetensors", "checkpoint", _checkpoint),
    ("comem_encoder.json", "", "encoder", _encoder),  # whose other files lie in checkpoints, too
    ("memory.sqlite", "", "memory", _memory),
    ("titles.json", "titles.tsv", "titles", _described("titles.json")),
)
