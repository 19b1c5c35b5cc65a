"""Makes banks of items: what is stored already is passed over, what has changed is encoded again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem.bank.format import BUILDS, EncoderInfo, StoreError, content_hash, is_store, read_info
from comem.bank.forms import PLAIN_FORMS
from comem.bank.reader import MemoryStore, check_encoder
from comem.bank.settings import BuildCounts, EncodeSettings
from comem.bank.writer import StoreWriter, create_store
from comem.io.console import Advance, Progress, quiet
from comem.io.files import JsonlAppender, read_json, remove_folder, write_json
from comem.io.parallel import Engine, run_shards
from comem.io.run_folder import differences, run_manifest
from comem.types import KnowledgeItem

if TYPE_CHECKING:
    from comem.memory.encoder import MemoryEncoder
    from comem.retrieval.knowledge import KnowledgeBase

log = logging.getLogger(__name__)
Loader = Callable[[], "MemoryEncoder"]

PARTS = ".parts"  # beside the bank: what is finished of a file, or of a store that several workers make


def encode(settings: EncodeSettings, progress: Progress = quiet) -> BuildCounts:
    """Encode items into a bank; interrupted at any moment and run again, it goes on where it stopped.

    Example:
        >>> encode(EncodeSettings("toy", Path("runs/bank"), index=Path("data/toy/index"))).encoded

    Raises:
        ValueError: items that cannot be read, an id with two contents, or a bank of another encoder.
        StorageError: no space is left, or another process is writing; finished items stay.
    """
    from comem.memory.encoder import load_encoder

    items, count = _open_items(settings)
    items = _some(items, settings)
    loader = partial(load_encoder, settings.encoder, None, settings.device)
    with progress("encoding", count) as advance:
        counts = _built(settings, items, loader, advance)
    if not counts.encoded and not counts.unchanged:
        raise ValueError(
            f"{settings.output}: holds none of {counts.items} items: {next(iter(counts.faults.values()), '')}"
        )
    return counts


def _some(items: Iterable[KnowledgeItem], settings: EncodeSettings) -> Iterable[KnowledgeItem]:
    """The items, of which there is one at least: an empty bank is a mistake that would show much later.

    Raises:
        ValueError: there is none.
    """
    rest: Iterable[KnowledgeItem] = items
    if isinstance(items, Sized):
        first = len(items)
    else:
        stream = iter(items)
        start = list(islice(stream, 1))
        first, rest = len(start), chain(start, stream)
    if not first:
        source = settings.items or settings.index
        raise ValueError(f"{source}: no item in it to encode; see comem data check or comem corpus build")
    return rest


def _built(
    settings: EncodeSettings, items: Iterable[KnowledgeItem], loader: Loader, advance: Advance
) -> BuildCounts:
    """As the settings ask: by workers, into a file, or into a folder."""
    if settings.engine == "ray":
        from comem.retrieval.knowledge import KnowledgeBase

        return build_divided(
            KnowledgeBase(_given(settings.index)), loader, settings.output, settings.form,
            settings.batch_size, part_items=settings.part_items, skip_faults=settings.skip_faults,
            workers=settings.workers, gpus=settings.gpus, progress=advance,
        )  # fmt: skip
    if settings.output.suffix == ".safetensors":
        return build_file(
            loader(), items, settings.output, settings.batch_size, settings.commit_items,
            skip_faults=settings.skip_faults, progress=advance,
        )  # fmt: skip
    return build_store(
        loader(), items, settings.output, settings.form, settings.batch_size, settings.commit_items,
        skip_faults=settings.skip_faults, by_id=settings.by_id, progress=advance,
    )  # fmt: skip


def _open_items(settings: EncodeSettings) -> tuple[Iterable[KnowledgeItem], int | None]:
    """The items and, where it is known ahead, their number; corpora are indexed first."""
    from comem.retrieval.corpus.sources import find_sources, read_corpus
    from comem.retrieval.index import build_index, is_current
    from comem.retrieval.knowledge import KnowledgeBase
    from comem.retrieval.settings import DEFAULT_EMBEDDER, IndexSettings

    images, embedder = settings.images, settings.embedder
    if settings.items is not None:
        return read_corpus(find_sources([settings.items], images)), None
    index = _given(settings.index)
    if settings.corpus and not is_current(settings.corpus, index, embedder, images):
        corpus, embedder = tuple(map(str, settings.corpus)), embedder or DEFAULT_EMBEDDER
        build_index(IndexSettings(corpus=corpus, output=index, images=images, embedder=embedder))
    base = KnowledgeBase(index)
    return base, len(base)


def _given(path: Path | None) -> Path:
    assert path is not None  # EncodeSettings has refused that
    return path


def build_store(  # noqa: PLR0913 (each one optional)
    encoder: MemoryEncoder, items: Iterable[KnowledgeItem], folder: str | Path, form: str = "bf16",
    batch_size: int = 16, commit_items: int = 256, *, skip_faults: bool = False, by_id: bool = False,
    progress: Advance | None = None,
) -> BuildCounts:  # fmt: skip
    """Encode items into a store.

    Args:
        encoder: makes the memories.
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
        if encoder.num_vectors is None:
            raise StoreError(
                f"{folder}: the encoder makes memories of varying numbers of vectors, which no bank holds; "
                "give the encoder to comem predict without a bank"
            )
        about = EncoderInfo(encoder.fingerprint(), **encoder.item_format())
        create_store(folder, PLAIN_FORMS[form](encoder.num_vectors, encoder.width), about)
    with StoreWriter(folder) as writer:
        job = _Build(writer, encoder, batch_size, skip_faults, by_id, progress)
        try:
            for item in items:
                job.take(item)
                if len(job.waiting) == commit_items:
                    job.commit()
            job.commit()
        finally:
            with JsonlAppender(folder / BUILDS) as log_file:
                log_file.write({"counts": asdict(job.counts), **run_manifest()})
    return job.counts


@dataclass
class _Build:
    """One build: which items wait, and what was seen."""

    writer: StoreWriter
    encoder: MemoryEncoder
    batch_size: int
    skip_faults: bool
    by_id: bool
    progress: Advance | None
    counts: BuildCounts = field(default_factory=BuildCounts)
    waiting: dict[str, tuple[KnowledgeItem, bytes]] = field(default_factory=dict)
    _seen: bytearray = field(default_factory=bytearray)  # per slot: 1 if its item came in this build

    def take(self, item: KnowledgeItem) -> None:
        """Let an item wait, unless it is stored as it is."""
        self.counts.items += 1
        slot = self.writer.table.slot(item.id)
        if self.by_id and slot >= 0:
            self.counts.unchanged += 1
            self._finished(1)
            return
        try:
            content = content_hash(item)
        except ValueError as error:
            self._fault(item, error)
            return
        if item.id in self.waiting:
            _same(item.id, self.waiting[item.id][1], content)
            self._finished(1)
        elif slot >= 0 and self.writer.content(item.id) == content:
            self.counts.unchanged += 1
            self._see(slot)
            self._finished(1)
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
        made = self.encoder.encode(items, self.batch_size).checked().embeddings.float().cpu().numpy()
        self.writer.append([item.id for item in items], [content for _, content in pairs], made)
        self.counts.encoded += len(items)
        for item in items:
            self._see(self.writer.table.slot(item.id))
        self._finished(len(items))

    def _see(self, slot: int) -> None:
        if slot >= len(self._seen):
            self._seen.extend(bytes(slot + 1 - len(self._seen) + len(self._seen) // 8))
        self._seen[slot] = 1

    def _fault(self, item: KnowledgeItem, error: ValueError) -> None:
        if not self.skip_faults:
            raise error
        self.counts.faults[item.id] = str(error)
        log.warning("not stored: %s", error)
        self._finished(1)

    def _finished(self, count: int) -> None:
        if self.progress:
            self.progress(count)


def _same(item_id: str, first: bytes, second: bytes) -> None:
    """An id may come again with the same content, for example from two shards; not with another."""
    if first != second:
        raise StoreError(
            f"knowledge id {item_id!r} comes twice, with different passages or images: give each an id of"
            " its own (what was finished stays)"
        )


def build_file(
    encoder: MemoryEncoder, items: Iterable[KnowledgeItem], path: str | Path, batch_size: int = 16,
    commit_items: int = 256, *, skip_faults: bool = False, progress: Advance | None = None,
) -> BuildCounts:  # fmt: skip
    """Encode items into one .safetensors file, in the encoder's own type.

    What is finished lies in a store, `<path>.parts/`, until all is done. Items whose ids are in the file
    are not encoded again; those in the file that are not among `items` stay, at its end. Arguments and
    errors as `build_store`; an id that comes twice is refused, since a file knows no contents.
    """
    from comem.bank.upkeep import bank_of
    from comem.memory.bank import MemoryBank

    path, accepted = Path(path), encoder.accepted_fingerprints()
    parts = path.with_name(path.name + PARTS)
    shards = sorted(parts.glob("[0-9]*.safetensors"))  # of a build by version 0.1 that was interrupted
    held = [MemoryBank.load(file, accepted) for file in [path] * path.exists() + shards]
    known = {item_id for bank in held for item_id in bank.ids}
    order: dict[str, int] = {}

    def new() -> Iterator[KnowledgeItem]:
        for number, item in enumerate(items, start=1):
            if item.id in order:
                raise ValueError(
                    f"knowledge id {item.id!r} comes twice (items {order[item.id]} and {number}):"
                    " remove one of them"
                )
            order[item.id] = number
            if item.id not in known:
                yield item
            elif progress:
                progress(1)

    empty = encoder.encode([]).to("cpu")
    form = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[str(empty.embeddings.dtype)[6:]]
    counts = build_store(
        encoder, new(), parts, form, batch_size, commit_items,
        skip_faults=skip_faults, by_id=True, progress=progress,
    )  # fmt: skip
    passed = len(known & order.keys())
    counts.items, counts.unchanged = counts.items + passed, counts.unchanged + passed
    bank = held[0] if held else empty
    for more in [*held[1:], bank_of(parts)]:
        added = more.select([item_id for item_id in more.ids if item_id not in bank])
        bank = bank.append(MemoryBank(added.embeddings, added.ids, bank.fingerprint))  # equally accepted
    wanted = [item_id for item_id in order if item_id in bank]
    wanted += [item_id for item_id in bank.ids if item_id not in order]
    if not path.exists() or tuple(wanted) != held[0].ids:
        bank.select(wanted).save(path)
    remove_folder(parts)
    return counts


def build_divided(  # noqa: PLR0913 (each one optional)
    base: KnowledgeBase, loader: Loader, output: str | Path, form: str = "bf16", batch_size: int = 16, *,
    part_items: int = 4096, skip_faults: bool = False, engine: Engine = "ray", workers: int = 2,
    gpus: float = 0.0, progress: Advance | None = None,
) -> BuildCounts:  # fmt: skip
    """Encode the items of a knowledge base by several Ray workers into one store.

    Each task encodes a part of them into a store of its own, in `output.parts/`; when all are done, they are
    merged. A second call goes on with those that are not. What the output holds as it is now is not encoded.

    Args:
        base: whose items are encoded.
        loader: makes the encoder, once in each worker.
        output: the store's folder.
        form: of a new store, as in `build_store`.
        batch_size: items per forward.
        part_items: items a task; a multiple of the batch size, so that the batches are those of one process.
        skip_faults: go on without items that cannot be read.
        engine: "ray", or "local": in this process.
        workers: of Ray.
        gpus: of each worker.
        progress: called with the number of items of each part that is finished.

    Raises:
        ShardsFailedError: some parts could not be made; the others stay, and the output is as it was.
    """
    from comem.bank.upkeep import merge_stores

    output = Path(output)
    folder = output.with_name(output.name + PARTS)
    part_items = max(1, part_items // batch_size) * batch_size
    starts = range(0, len(base), part_items)
    _start_over_if_changed(folder, {
        "ids_sha256": base.manifest["ids_sha256"], "part_items": part_items, "form": form,
    })  # fmt: skip

    def job(number: int) -> Callable[[], dict[str, Any]]:
        span = (starts[number], min(starts[number] + part_items, len(base)))
        where = (base.folder, output, folder / f"part-{number:05d}")
        return partial(_encode_part, loader, where, span, form, batch_size, skip_faults)

    totals = BuildCounts()
    for _, found in run_shards(job, range(len(starts)), engine=engine, workers=workers, gpus=gpus):
        totals.items += found["items"]
        totals.encoded += found["encoded"]
        totals.unchanged += found["unchanged"]
        totals.faults |= found["faults"]
        if progress:
            progress(found["items"])
    parts = sorted(path for path in folder.glob("part-*") if path.is_dir())
    if parts:
        merge_stores(parts, output, on_conflict="last").close()
    remove_folder(folder)
    return totals


def _start_over_if_changed(folder: Path, wanted: dict[str, Any]) -> None:
    plan = folder / "plan.json"
    if folder.is_dir() and (not plan.is_file() or differences(read_json(plan), wanted)):
        remove_folder(folder)
    write_json(plan, wanted)


_LOADED: dict[str, MemoryEncoder] = {}  # of this worker: the last one


def _encode_part(
    loader: Loader, where: tuple[Path, Path, Path], span: tuple[int, int], form: str, batch_size: int,
    skip_faults: bool,
) -> dict[str, Any]:  # fmt: skip
    """One task: its items into its own store, and its record last."""
    from comem.retrieval.knowledge import KnowledgeBase

    base_folder, output, part = where
    record = part.with_suffix(".json")
    if record.is_file():
        counts: dict[str, Any] = read_json(record)
        return counts
    items = KnowledgeBase(base_folder).items(range(*span))
    fresh = _changed(items, output) if is_store(output) else items
    counts = {"items": len(items), "encoded": 0, "unchanged": len(items) - len(fresh), "faults": {}}
    if fresh:
        if repr(loader) not in _LOADED:
            _LOADED.clear()
            _LOADED[repr(loader)] = loader()
        encoder, commit = _LOADED[repr(loader)], max(batch_size, 256)
        made = build_store(encoder, fresh, part, form, batch_size, commit, skip_faults=skip_faults)
        counts |= {"encoded": made.encoded, "faults": made.faults}
    write_json(record, counts)
    return counts


def _changed(items: Sequence[KnowledgeItem], output: Path) -> list[KnowledgeItem]:
    """Those that a store does not hold as they are."""

    def same(item: KnowledgeItem) -> bool:
        slot = store.table.slot(item.id)
        try:
            return slot >= 0 and store.table.entry(slot)["content"].tobytes() == content_hash(item)
        except ValueError:  # its image cannot be read: the build says so
            return False

    with MemoryStore(output) as store:
        return [item for item in items if not same(item)]
