"""What is done with finished banks: looked at, verified, written in another form, merged."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from comem.bank.format import (
    ENTRY,
    LOOKUP,
    MANIFEST,
    TABLE,
    EncoderInfo,
    StoreError,
    entry_crc,
    is_store,
    shard_name,
)
from comem.bank.forms import PLAIN_FORMS, QUANTIZED_FORMS, Form, Quantized, train_codec, write_codec
from comem.bank.reader import MemoryStore, check_encoder
from comem.bank.settings import (
    BankInfo,
    BankSettings,
    ExportSettings,
    MergeSettings,
    StoreReport,
    VerifySettings,
)
from comem.bank.writer import StoreWriter, create_store
from comem.io.console import Advance, Progress, quiet
from comem.io.files import is_sealed

if TYPE_CHECKING:
    from comem.memory.bank import MemoryBank

#: What to do with an id that several stores hold with different contents.
OnConflict = Literal["refuse", "first", "last"]
_BLOCK = 256  # memories held at once


def info(settings: BankSettings) -> BankInfo:
    """What lies in a bank, a folder or one file.

    Raises:
        ValueError: no bank, or a damaged one.
    """
    path = settings.bank
    if path.suffix == ".safetensors":
        from comem.memory.bank import MemoryBank

        bank = MemoryBank.load(path)
        count, queries, width = bank.embeddings.shape
        form, size = str(bank.embeddings.dtype).removeprefix("torch."), bank.embeddings.element_size()
        about, total = EncoderInfo(bank.fingerprint), path.stat().st_size
        return BankInfo(path, count, count, queries, width, form, queries * width * size, total, about)
    with MemoryStore(path) as store:
        of = store.info
        counts, total = (len(store), store.table.count), folder_bytes(path)
        return BankInfo(path, *counts, of.queries, of.width, of.form, of.stride, total, of.encoder)


def verify(settings: VerifySettings, progress: Progress = quiet) -> StoreReport:
    """Read everything once and compare the checksums; with `drop_damaged`, forget what is damaged.

    Raises:
        StoreError: it cannot even be opened.
    """
    if settings.bank.suffix == ".safetensors":
        return _verify_file(settings)
    with MemoryStore(settings.bank, repair=True) as store:
        count = len(store)
    with progress("verifying", count) as advance:
        report = verify_store(settings.bank, advance)
    if settings.drop_damaged:
        drop_damaged(settings.bank, report)
    return report


def verify_store(folder: str | Path, progress: Advance | None = None) -> StoreReport:
    """As `verify`, of a folder.

    Args:
        folder: of the store.
        progress: called with the number of items just checked.
    """
    with MemoryStore(folder, repair=True) as store:
        damaged: dict[str, str] = {}
        nameless = 0
        live = store.table.live()
        for start in range(0, len(live), _BLOCK):
            block = [int(slot) for slot in live[start : start + _BLOCK]]
            for slot in block:
                name = _name(store, slot)
                if name is None:
                    nameless += 1
                elif fault := _fault(store, slot):
                    damaged[name] = fault
            if progress:
                progress(len(block))
        items, entries = len(live), store.table.count
        size, notes = folder_bytes(store.folder), _notes(store)
        return StoreReport(
            items, entries, entries - items, size, damaged, nameless, _faults(store, live), notes
        )


def _verify_file(settings: VerifySettings) -> StoreReport:
    """One file, whose tensors are whole or not: nothing of it can be dropped."""
    from comem.memory.bank import MemoryBank, has_checksum

    bank, size = MemoryBank.load(settings.bank), settings.bank.stat().st_size
    notes = (
        () if has_checksum(settings.bank) else ("the file has no checksum: it was written by version 0.2",)
    )
    return StoreReport(len(bank), len(bank), 0, size, {}, 0, (), notes)


def drop_damaged(folder: str | Path, report: StoreReport) -> None:
    """Forget the damaged items, and write lookup.bin anew; the next build encodes what was lost."""
    if report.good:
        return
    with StoreWriter(folder, repair=True) as writer, MemoryStore(folder, repair=True) as store:
        nameless = [slot for slot in map(int, store.table.live()) if _name(store, slot) is None]
        writer.blank()
        writer.table.rebuild("set aside")
        writer.forget([store.table.entry(slot)["id_hash"].tobytes() for slot in nameless])
        if report.damaged:
            writer.remove(list(report.damaged))
        writer.checkpoint()


def folder_bytes(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _name(store: MemoryStore, slot: int) -> str | None:
    """The id of an entry, None where it no longer says of which item it is."""
    try:
        return store.table.id_of(store.table.entry(slot))
    except StoreError:
        return None


def _fault(store: MemoryStore, slot: int) -> str | None:
    entry = store.table.entry(slot)
    if entry_crc(entry.tobytes()) != entry["entry_crc"]:
        return f"its entry in {TABLE} was changed"
    name = shard_name(store.info.place(slot)[0])
    try:
        row = store.rows([slot], check=False)
    except StoreError:
        return f"{name} was cut or lost"
    return None if zlib.crc32(row.data) == entry["payload_crc"] else f"its memory in {name} was changed"


def _faults(store: MemoryStore, live: np.ndarray) -> tuple[str, ...]:
    """What is wrong with whole files; the items' own faults are told with the items."""
    table, told = store.table, set(map(int, live))
    faults = [lost] if (lost := table.lost()) else []
    if table.lookup_fault:
        faults.append(f"{table.lookup_fault}; the next build, or --drop-damaged, writes it anew")
    changed = 0
    for start in range(0, table.count, _BLOCK):
        for slot, entry in enumerate(table.entries(start, min(start + _BLOCK, table.count)), start):
            changed += slot not in told and entry_crc(entry.tobytes()) != entry["entry_crc"]
    if changed:
        faults.append(
            f"{changed} entries in {TABLE} were changed: the newest of their items may be among them"
        )
    return tuple(faults)


def _notes(store: MemoryStore) -> tuple[str, ...]:
    """What has no checksum, or cannot be told."""
    table, notes = store.table, []
    if not is_sealed(store.folder / MANIFEST):
        notes.append(f"{MANIFEST} has no checksum: it was written by version 0.2")
    if table.promised == 0 and table.count:
        notes.append(f"without {LOOKUP} nobody knows whether entries at the end of {TABLE} are lost")
    elif table.lookup_crc is None and table.count:
        notes.append(f"{LOOKUP} has no checksum: it was compared with the ids in {TABLE}")
    if table.count and (rest := (store.folder / TABLE).stat().st_size - table.count * ENTRY.itemsize) > 0:
        notes.append(f"{rest} bytes at the end of {TABLE} are no entry: an append that was cut, or damage")
    for path in sorted(store.folder.glob(shard_name(0).replace("0", "[0-9]"))):
        before, of = int(path.stem.partition("-")[2]) * store.info.shard_items, store.info
        held = min(max(0, table.count - before), of.shard_items)
        if (rest := path.stat().st_size - held * of.stride) > 0:
            notes.append(
                f"{rest} bytes at the end of {path.name} are no memory: an append that was cut, or damage"
            )
    return tuple(notes)


def export(settings: ExportSettings, progress: Progress = quiet) -> BankInfo:
    """Write a bank anew: in another form, only some items, or as one file; what the new one holds.

    Raises:
        ValueError: as `export_store`.
    """
    ids = settings.chosen()
    if settings.output.suffix == ".safetensors":
        bank_of(settings.bank, ids).save(settings.output)
    else:
        with MemoryStore(settings.bank) as store:
            count = len(store) if ids is None else len(ids)
        with progress("exporting", count) as advance:
            how = {"sample": settings.sample, "seed": settings.seed}
            export_store(settings.bank, settings.output, settings.form, ids, **how, progress=advance).close()
    return info(BankSettings(settings.output))


def merge(settings: MergeSettings, progress: Progress = quiet) -> BankInfo:
    """Several banks into one folder; what it holds then.

    Raises:
        ValueError: as `merge_stores`.
    """
    files = [path for path in settings.banks if path.suffix == ".safetensors"]
    for path in files:
        import_bank(path, settings.output).close()
    if folders := [path for path in settings.banks if path not in files]:
        with progress("merging") as advance:
            merge_stores(folders, settings.output, settings.on_conflict, advance).close()
    return info(BankSettings(settings.output))


def export_store(
    source: str | Path, output: str | Path, form: str | None = None, ids: Sequence[str] | None = None,
    *, sample: int = 20_000, seed: int = 0, progress: Advance | None = None,
) -> MemoryStore:  # fmt: skip
    """Write a store anew: in another form, only some items, or without the room of replaced ones.

    Run again after an interruption, it goes on.

    Args:
        source: the store to be copied.
        output: a new folder, or one that an interrupted export began.
        form: fp32, bf16, fp16, int8, pq or prq; None keeps the source's.
        ids: only these, in this order; None takes all.
        sample: memories (of all, whatever `ids` says) on which pq and prq are trained; an export without
            ids makes an empty store with a trained codec, into which other stores can be merged.
        seed: of the training of pq and prq.
        progress: called with the number of items just written.

    Raises:
        StoreError: an id is not there, or the output is a store of something else.
    """
    with MemoryStore(source) as store:
        slots = store.table.live() if ids is None else store.slots(ids)
        _create_like(store, Path(output), form, sample, seed)
        with StoreWriter(output) as writer:
            _copy(store, slots, writer, progress)
    return MemoryStore(output)


def merge_stores(
    sources: Sequence[str | Path], output: str | Path, on_conflict: OnConflict = "refuse",
    progress: Advance | None = None,
) -> MemoryStore:  # fmt: skip
    """Add the items of several stores of one encoder to one, which is made if it is new (first's form).

    Raises:
        StoreError: different encoders or sizes, or an id with two contents under "refuse".
    """
    if on_conflict not in get_args(OnConflict):
        raise ValueError(f"on_conflict {on_conflict!r}: give one of {', '.join(get_args(OnConflict))}")
    stores = [MemoryStore(source) for source in sources]
    try:
        _check_alike(stores)
        if not is_store(output):
            _create_like(stores[0], Path(output), None)
        with StoreWriter(output) as writer:
            check_encoder(Path(output), writer.info.encoder.fingerprint, stores[0].info.encoder.fingerprint)
            for store in stores:
                _copy(store, _wanted(store, writer, on_conflict), writer, progress)
    finally:
        for store in stores:
            store.close()
    return MemoryStore(output)


def import_bank(path: str | Path, output: str | Path, form: str = "bf16") -> MemoryStore:
    """A one-file bank (`comem encode`) as a store.

    Such a bank says nothing of its items' contents: a build with `by_id` keeps them, any other encodes anew.
    """
    from comem.memory.bank import MemoryBank

    bank = MemoryBank.load(path)
    _, queries, width = bank.embeddings.shape
    create_store(output, PLAIN_FORMS[form](queries, width), EncoderInfo(bank.fingerprint))
    with StoreWriter(output) as writer:
        new = [row for row, item_id in enumerate(bank.ids) if writer.content(item_id) is None]
        for start in range(0, len(new), _BLOCK):
            rows = new[start : start + _BLOCK]
            memories = bank.embeddings[rows].float().numpy()
            writer.append([bank.ids[row] for row in rows], [bytes(16)] * len(rows), memories)
    return MemoryStore(output)


def bank_of(source: str | Path, ids: Sequence[str] | None = None) -> MemoryBank:
    """A store (or some of its items) in RAM, in its form's own type."""
    from comem.bank.serve import as_tensor
    from comem.memory.bank import MemoryBank

    with MemoryStore(source) as store:
        slots = store.table.live() if ids is None else store.slots(ids)
        names = tuple(store.table.ids(slots))
        return MemoryBank(as_tensor(store.form, store.rows(slots)), names, store.info.encoder.fingerprint)


def _create_like(
    store: MemoryStore, output: Path, name: str | None, sample: int = 20_000, seed: int = 0
) -> None:
    """An empty store for these memories; quantised forms are trained on a sample of all of them."""
    info, name = store.info, name or store.info.form
    if is_store(output):
        with MemoryStore(output, info.encoder.fingerprint, info.width) as found:
            if found.info.form != name:
                raise StoreError(f"{output}: holds a store of form {found.info.form}, not {name}")
        return
    form, sha256 = store.form, info.codec_sha256
    if name in QUANTIZED_FORMS:
        if name != info.form:
            form = train_codec(name, _sample(store, sample, seed), seed)
        if isinstance(form, Quantized):
            sha256 = write_codec(output, form)
    else:
        form, sha256 = PLAIN_FORMS[name](info.queries, info.width), None
    create_store(output, form, info.encoder, codec_sha256=sha256)


def _sample(store: MemoryStore, count: int, seed: int) -> np.ndarray:
    """float32 `(n, q, d)` of at most `count` items, spread at random."""
    chosen = np.random.default_rng(seed).permutation(store.table.live())[:count]
    return store.form.unpack(store.rows(np.sort(chosen)))


def _copy(store: MemoryStore, slots: np.ndarray, writer: StoreWriter, progress: Advance | None) -> None:
    """Append memories; bytes are taken over as they are where both stores have the same form."""
    same = _same_bytes(store.form, writer.form, store.info.codec_sha256 == writer.info.codec_sha256)
    for start in range(0, len(slots), _BLOCK):
        block = [int(slot) for slot in slots[start : start + _BLOCK]]
        named = [(store.table.id_of(entry), entry["content"].tobytes(), slot)
                 for slot in block for entry in [store.table.entry(slot)]]  # fmt: skip
        new = [each for each in named if writer.content(each[0]) != each[1]]
        rows = store.rows([slot for *_, slot in new])
        ids, contents = [item_id for item_id, *_ in new], [content for _, content, _ in new]
        if same:
            writer.append_rows(ids, contents, rows)
        else:
            writer.append(ids, contents, store.form.unpack(rows))
        if progress:
            progress(len(block))


def _same_bytes(first: Form, second: Form, same_codec: bool) -> bool:
    sizes = [(form.name, form.queries, form.width) for form in (first, second)]
    return sizes[0] == sizes[1] and same_codec


def _wanted(store: MemoryStore, writer: StoreWriter, on_conflict: OnConflict) -> np.ndarray:
    """The slots to take over from a store, given what the output holds."""
    wanted = []
    for slot in store.table.live():
        entry = store.table.entry(int(slot))
        item_id = store.table.id_of(entry)
        held = writer.content(item_id)
        if held is not None and held != entry["content"].tobytes():
            if on_conflict == "refuse":
                raise StoreError(
                    f"{store.folder}: {item_id!r} has another content here than in {writer.folder}: choose"
                    " --on-conflict first or last, or give the items ids of their own"
                )
            if on_conflict == "first":
                continue
        if held is None or on_conflict == "last":
            wanted.append(int(slot))
    return np.array(wanted, dtype=np.int64)


def _check_alike(stores: Sequence[MemoryStore]) -> None:
    if not stores:
        raise StoreError("no stores to merge")
    first = stores[0].info
    for store in stores[1:]:
        check_encoder(store.folder, store.info.encoder.fingerprint, first.encoder.fingerprint)
        if (store.info.queries, store.info.width) != (first.queries, first.width):
            raise StoreError(
                f"{store.folder}: memories of {store.info.queries} × {store.info.width}, the first store has"
                f" {first.queries} × {first.width}"
            )
