"""From the sources of a corpus to its folder: shards read in parallel, joined, with a manifest."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from comem.config import as_dict
from comem.io.files import one_writer, storage_errors, write_json
from comem.io.images import ImageError
from comem.io.jsonl import RecordError, read_json, sha256_of
from comem.io.manifest import run_manifest
from comem.retrieval.corpus.rules import (
    CorpusError,
    CorpusItem,
    CorpusRules,
    CorpusStats,
    CutShardError,
    make_item,
)
from comem.retrieval.corpus.sources import Source
from comem.retrieval.corpus.table import choose_rows, join_parts, row_key, write_part
from comem.retrieval.knowledge import FORMAT, ITEMS, MANIFEST, ROW_GROUP, KnowledgeBase, tail_checksum

logger = logging.getLogger(__name__)

PARTS, LOCK = "parts", ".lock"


def build_corpus(
    sources: Sequence[Source],
    output: str | Path,
    rules: CorpusRules | None = None,
    *,
    workers: int = 1,
    keep_partial: bool = False,
    progress: bool = True,
) -> KnowledgeBase:
    """Reads the sources and writes `items.parquet` with its manifest; a second call goes on.

    Each source is read by one process into a part of its own; parts that are whole are not read again
    while their source and the rules stay the same. Pictures are not opened (their bytes are hashed where
    `rules.same_image` is "content").

    Args:
        workers: processes that read at the same time.
        keep_partial: take over what could be read of a source that is cut, instead of stopping there.

    Raises:
        CorpusError: a source is not what it should be; what could be read of the others stays as parts.
        StorageError: the disk is full, or another process builds in this folder.
    """
    rules, folder = rules or CorpusRules(), Path(output)
    if not sources:
        raise CorpusError("no source was given: name files, folders or data sets (hf:NAME)")
    with one_writer(folder / LOCK):
        with storage_errors(folder):
            (folder / PARTS).mkdir(exist_ok=True)
        parts = [_part(folder, source, rules) for source in sources]
        todo = [
            pair for pair in zip(sources, parts, strict=True) if not _is_done(pair[0], pair[1], keep_partial)
        ]
        _read_all(todo, rules, folder, workers, progress)
        _check(parts, keep_partial)
        return _join(sources, parts, rules, folder)


def _part(folder: Path, source: Source, rules: CorpusRules) -> Path:
    """Where the part of a source lies: named by what decides its content."""
    decisive = {**as_dict(rules), "on_duplicate": None, "source": asdict(source)}
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()
    return folder / PARTS / f"{digest[:16]}.parquet"


def _is_done(source: Source, part: Path, keep_partial: bool) -> bool:
    """Whether an earlier call read this source to its end, and it is still the same."""
    record = part.with_suffix(".json")
    if not record.is_file() or not part.is_file():
        return False
    found = read_json(record)
    return found["stamp"] == source.stamp() and (found["error"] is None or keep_partial)


def _read_all(
    todo: list[tuple[Source, Path]], rules: CorpusRules, folder: Path, workers: int, progress: bool
) -> None:
    """Reads the sources, several at a time; the first fault is raised after the others are done."""
    from tqdm import tqdm

    if not todo:
        return
    context = get_context("spawn")
    counter = context.Value("Q", 0)
    with tqdm(desc=f"reading {len(todo)} sources", unit=" rows", disable=not progress) as bar:
        if workers <= 1 or len(todo) == 1:
            faults = [
                fault
                for source, part in todo
                if (fault := read_part(source, part, rules, folder, bar.update))
            ]
        else:
            pool = ProcessPoolExecutor(min(workers, len(todo)), context, _start_worker, (counter,))
            with pool:
                waiting: set[Future[str]] = {
                    pool.submit(_read_in_worker, source, part, rules, folder) for source, part in todo
                }
                faults = _collect(waiting, counter, bar)
    if faults:
        raise CorpusError(faults[0] + (f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""))


def _collect(waiting: set[Future[str]], counter: Any, bar: Any) -> list[str]:
    faults: list[str] = []
    while waiting:
        done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
        faults += [fault for future in done if (fault := future.result())]
        bar.update(int(counter.value) - bar.n)
    return faults


_counter: Any = None  # rows read by all workers of a pool


def _start_worker(counter: Any) -> None:
    global _counter
    _counter = counter
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker at once, without a traceback


def _read_in_worker(source: Source, part: Path, rules: CorpusRules, folder: Path) -> str:
    def count(rows: int) -> None:
        with _counter.get_lock():
            _counter.value += rows

    return read_part(source, part, rules, folder, count)


def read_part(source: Source, part: Path, rules: CorpusRules, folder: Path, count: Any) -> str:
    """Reads one source into its part, with a record beside it that is written last.

    Returns:
        The fault of a source that is no corpus; "" where all went well or the source was only cut (the
        record then says so).
    """
    stats, error = CorpusStats(), None
    part.with_suffix(".json").unlink(missing_ok=True)
    stamp = source.stamp()
    try:
        for rows in write_part(_items(source, rules, stats, folder), part, folder):
            count(rows)
    except CutShardError as cut:
        error = str(cut)
        logger.warning("%s", error)
    except (CorpusError, RecordError) as fault:
        part.unlink(missing_ok=True)
        return str(fault)
    except OSError as fault:
        logger.debug("%s", traceback.format_exc())
        raise type(fault)(*fault.args) if fault.filename is None else fault from None
    write_json(
        part.with_suffix(".json"),
        {"source": source.describe(), "stamp": stamp, "rows": vars(stats), "error": error},
    )
    return ""


def _items(
    source: Source, rules: CorpusRules, stats: CorpusStats, folder: Path
) -> Iterator[tuple[CorpusItem, int]]:
    images = Path(source.images)
    for raw in source.rows(stats):
        item = make_item(raw, rules, stats, images, folder)
        if item is not None:
            yield item, row_key(item, _picture(item, rules, stats, raw[0]), rules.unique)


def _picture(item: CorpusItem, rules: CorpusRules, stats: CorpusStats, where: str) -> str:
    """What two rows with the same picture share."""
    if rules.same_image == "address" or not item.image:
        return item.image_url or item.image
    try:
        return picture_checksum(item.image)
    except ImageError:
        stats.repair("picture not there: told apart by its address", where)
        return item.image_url or item.image


def picture_checksum(path: str) -> str:
    """SHA-256 of a picture file, remembered for the last few: rows of one picture often stand together."""
    try:
        return sha256_of(path)
    except (RecordError, OSError) as error:
        raise ImageError(f"{path}: cannot be read") from error


def _check(parts: Sequence[Path], keep_partial: bool) -> None:
    """Stops at a cut source unless the user wants to go on without its rest."""
    errors = [error for part in parts if (error := read_json(part.with_suffix(".json"))["error"])]
    if errors and not keep_partial:
        raise CutShardError(errors[0])


def _join(
    sources: Sequence[Source], parts: Sequence[Path], rules: CorpusRules, folder: Path
) -> KnowledgeBase:
    """Parts to table, and the manifest, which comes last: it says that all is there."""
    records = [read_json(part.with_suffix(".json")) for part in parts]
    stats = CorpusStats()
    for record in records:
        stats.add(record["rows"])
    if not stats.kept:
        raise CorpusError(f"none of the {stats.read} rows was kept; dropped: {dict(stats.dropped) or 'none'}")
    chosen = choose_rows(parts, rules.on_duplicate == "drop")
    partial = folder / f".{ITEMS}.{os.getpid()}.part"
    try:
        with storage_errors(folder / ITEMS):
            count, checksum = join_parts(parts, chosen.masks, partial)
        size = partial.stat().st_size
        sums = {"sha256": sha256_of(partial), "tail_sha256": tail_checksum(partial)}
        (folder / MANIFEST).unlink(missing_ok=True)
        os.replace(partial, folder / ITEMS)
    finally:
        partial.unlink(missing_ok=True)
    stats.dropped.update(chosen.dropped)
    stats.kept = count
    write_json(folder / MANIFEST, {
        "format": FORMAT, "count": count, "bytes": size, "row_group": ROW_GROUP, "ids_sha256": checksum,
        "complete": not any(record["error"] for record in records), **sums,
        **run_manifest({
            "sources": [{**each["source"], "rows": each["rows"], "error": each["error"]} for each in records],
            "settings": as_dict(rules), "rows": vars(stats),
        }),
    })  # fmt: skip
    for part in (folder / PARTS).iterdir():
        part.unlink()
    (folder / PARTS).rmdir()
    return KnowledgeBase(folder)
