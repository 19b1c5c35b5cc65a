"""Encodes many items to one bank file, in shards, so that a crash loses at most the shard in work."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from comem.memory.bank import MemoryBank
from comem.memory.encoder import MemoryEncoder
from comem.types import KnowledgeItem

log = logging.getLogger(__name__)
Progress = Callable[[int], object]


def encode_to_bank(
    encoder: MemoryEncoder,
    items: Iterable[KnowledgeItem],
    path: str | Path,
    batch_size: int = 16,
    shard_items: int = 256,
    progress: Progress | None = None,
) -> MemoryBank:
    """Encode items into the bank at `path`; run again after a crash, it goes on where it stopped.

    Finished shards lie in `<path>.parts/` until all is done; then one file is written and they go.
    Items already in the bank or in a shard are not encoded again; items in the bank that are not
    among `items` stay, at its end.

    Args:
        items: read once, in order; the bank has this order.
        batch_size: items per forward.
        shard_items: items per shard, the most that a crash loses.
        progress: called with the number of items just finished, those found finished included.

    Raises:
        ValueError: an id comes twice, an item cannot be read, or bank or shards are of another
            encoder; finished shards stay.
        StorageError: no space is left; finished shards stay.
    """
    if shard_items < 1:
        raise ValueError(f"shard_items={shard_items}: must be at least 1")
    path = Path(path)
    parts = path.with_name(path.name + ".parts")
    accepted = encoder.accepted_fingerprints()
    done = _finished(path, parts, accepted)
    order: list[str] = []
    todo = _unfinished(items, done, order, progress or _ignore)
    number = _next_number(parts)
    while shard := list(islice(todo, shard_items)):
        bank = encoder.encode(shard, batch_size).to("cpu")
        bank.save(parts / f"{number:06d}.safetensors")
        log.info("shard %d: %d items in %s", number, len(bank), parts)
        number += 1
        if progress:
            progress(len(bank))
    return _consolidate(encoder, path, parts, order, accepted)


def _ignore(_: int) -> None:
    """No progress wanted."""


def _shards(parts: Path) -> list[Path]:
    return sorted(parts.glob("[0-9]*.safetensors"))


def _next_number(parts: Path) -> int:
    return max((int(p.stem) for p in _shards(parts)), default=-1) + 1


def _finished(path: Path, parts: Path, accepted: tuple[str, ...]) -> set[str]:
    """Ids in the bank and in the shards; refuses those of another encoder before any work."""
    files = [path] * path.exists() + _shards(parts)
    return {item_id for file in files for item_id in MemoryBank.load(file, accepted).ids}


def _unfinished(
    items: Iterable[KnowledgeItem], done: set[str], order: list[str], progress: Progress
) -> Iterator[KnowledgeItem]:
    """The items still to encode; notes every id in `order` and refuses repeated ones."""
    seen: dict[str, int] = {}
    for row, item in enumerate(items, start=1):
        if item.id in seen:
            raise ValueError(
                f"knowledge id {item.id!r} comes twice (items {seen[item.id]} and {row}): remove one of them"
            )
        seen[item.id] = row
        order.append(item.id)
        if item.id in done:
            progress(1)
        else:
            yield item


def _consolidate(
    encoder: MemoryEncoder, path: Path, parts: Path, order: list[str], accepted: tuple[str, ...]
) -> MemoryBank:
    """Bank and shards as one file; killed in between, the next run finds the same ids in both."""
    bank = MemoryBank.load(path, accepted) if path.exists() else encoder.encode([]).to("cpu")
    for file in _shards(parts):
        shard = MemoryBank.load(file, accepted)
        new = [i for i in shard.ids if i not in bank]
        bank = bank.append(_as(shard.select(new), bank))
    listed = set(order)
    wanted = tuple(order) + tuple(i for i in bank.ids if i not in listed)
    if wanted != bank.ids or not path.exists() or _shards(parts):
        bank = bank.select(wanted)
        bank.save(path)
    shutil.rmtree(parts, ignore_errors=True)
    return bank


def _as(bank: MemoryBank, other: MemoryBank) -> MemoryBank:
    """The bank under an equally accepted fingerprint (an encoder before and after its merge)."""
    return MemoryBank(bank.embeddings, bank.ids, other.fingerprint)
