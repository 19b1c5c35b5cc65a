"""Fills a store from items: what is stored already is passed over, what has changed is encoded again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from comem.bank.format import BUILDS, EncoderInfo, StoreError, content_hash, is_store, read_info
from comem.bank.forms import PLAIN_FORMS
from comem.bank.reader import check_encoder
from comem.bank.writer import StoreWriter, create_store
from comem.io.jsonl import JsonlAppender
from comem.io.manifest import run_manifest
from comem.types import KnowledgeItem

if TYPE_CHECKING:
    from comem.memory.encoder import MemoryEncoder

log = logging.getLogger(__name__)
Progress = Callable[[int], object]


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


def build_store(
    encoder: MemoryEncoder, items: Iterable[KnowledgeItem], folder: str | Path, form: str = "bf16",
    batch_size: int = 16, commit_items: int = 256, *, skip_faults: bool = False, by_id: bool = False,
    progress: Progress | None = None,
) -> BuildCounts:  # fmt: skip
    """Encode items into a store; interrupted at any moment and run again, it goes on where it stopped.

    Args:
        items: read once, in order.
        folder: a new one, or a store of the same encoder, whose form then stays.
        form: of a new store: fp32, bf16, fp16 or int8 (pq and prq need training: `export_store`).
        batch_size: items per forward.
        commit_items: items between two commits, the most that a crash loses.
        skip_faults: go on without items that cannot be read, instead of stopping there.
        by_id: take a stored id as unchanged, without reading its image.
        progress: called with the number of items just finished.

    Raises:
        StoreError: another encoder's store, or an id with two contents; finished items stay.
        StorageError: no space is left, or another process is writing; finished items stay.
    """
    if commit_items < 1:
        raise ValueError(f"commit_items={commit_items}: must be at least 1")
    folder = Path(folder)
    if is_store(folder):
        check_encoder(folder, read_info(folder).encoder.fingerprint, encoder.accepted_fingerprints())
    else:
        config = encoder.qformer.config
        create_store(folder, PLAIN_FORMS[form](config.num_queries, config.width_out), encoder_info(encoder))
    with StoreWriter(folder) as writer:
        job = _Build(writer, encoder, batch_size, skip_faults, by_id)
        try:
            for item in items:
                job.take(item)
                if len(job.waiting) == commit_items:
                    job.commit()
                if progress:
                    progress(1)
            job.commit()
        finally:
            with JsonlAppender(folder / BUILDS) as log_file:
                log_file.write({"counts": asdict(job.counts), **run_manifest()})
    return job.counts


def encoder_info(encoder: MemoryEncoder) -> EncoderInfo:
    """What a store's manifest says of its encoder."""
    low = high = None
    if encoder.processor is not None:
        low, high = encoder.form.pixel_limits(encoder.processor.image_processor)
    return EncoderInfo(encoder.fingerprint(), encoder.form.prompt, encoder.form.max_chars, low, high)


class _Build:
    """One build: which items wait, and what was seen."""

    def __init__(
        self, writer: StoreWriter, encoder: MemoryEncoder, batch_size: int, skip_faults: bool, by_id: bool
    ) -> None:
        self.writer, self.encoder, self.batch_size = writer, encoder, batch_size
        self.skip_faults, self.by_id = skip_faults, by_id
        self.counts = BuildCounts()
        self.waiting: dict[str, tuple[KnowledgeItem, bytes]] = {}
        self._seen = bytearray()  # per slot: 1 if its item came in this build

    def take(self, item: KnowledgeItem) -> None:
        """Let an item wait, unless it is stored as it is."""
        self.counts.items += 1
        slot = self.writer.table.slot(item.id)
        if self.by_id and slot >= 0:
            self.counts.unchanged += 1
            return
        try:
            content = content_hash(item)
        except ValueError as error:
            self._fault(item, error)
            return
        if item.id in self.waiting:
            _same(item.id, self.waiting[item.id][1], content)
        elif slot >= 0 and self.writer.content(item.id) == content:
            self.counts.unchanged += 1
            self._see(slot)
        else:
            if slot >= 0 and slot < len(self._seen) and self._seen[slot]:
                _same(item.id, b"", content)
            self.counts.changed += slot >= 0
            self.waiting[item.id] = (item, content)

    def commit(self) -> None:
        """Encode and store what waits."""
        waiting, self.waiting = list(self.waiting.values()), {}
        try:
            self._store(waiting)
        except StoreError:
            raise
        except ValueError:  # one item cannot be read, and with it the whole batch
            if not self.skip_faults:
                raise
            for pair in waiting:
                try:
                    self._store([pair])
                except ValueError as error:
                    self._fault(pair[0], error)

    def _store(self, pairs: Sequence[tuple[KnowledgeItem, bytes]]) -> None:
        if not pairs:
            return
        items = [item for item, _ in pairs]
        made = self.encoder.encode(items, self.batch_size).embeddings.float().cpu().numpy()
        self.writer.append([item.id for item in items], [content for _, content in pairs], made)
        self.counts.encoded += len(items)
        for item in items:
            self._see(self.writer.table.slot(item.id))

    def _see(self, slot: int) -> None:
        if slot >= len(self._seen):
            self._seen.extend(bytes(slot + 1 - len(self._seen) + len(self._seen) // 8))
        self._seen[slot] = 1

    def _fault(self, item: KnowledgeItem, error: ValueError) -> None:
        if not self.skip_faults:
            raise error
        self.counts.faults[item.id] = str(error)
        log.warning("not stored: %s", error)


def _same(item_id: str, first: bytes, second: bytes) -> None:
    """An id may come again with the same content, for example from two shards; not with another."""
    if first != second:
        raise StoreError(
            f"knowledge id {item_id!r} comes twice, with different passages or pictures: give each an id of"
            " its own (what was finished stays)"
        )
