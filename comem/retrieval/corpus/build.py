"""From the sources of a corpus to its folder: shards read in parallel, joined, with a manifest."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from comem.config import as_dict
from comem.io.console import Advance, Progress, quiet
from comem.io.files import RecordError, one_writer, read_json, storage_errors, sweep, write_json
from comem.io.images import ImageError, image_bytes
from comem.retrieval.corpus.rules import CorpusError, CorpusItem, CorpusRules, CorpusStats, CutShardError
from comem.retrieval.corpus.sources import CorpusSettings, Source
from comem.retrieval.corpus.table import choose_rows, join_parts, row_key, write_part
from comem.retrieval.knowledge import MANIFEST, KnowledgeBase

logger = logging.getLogger(__name__)

PARTS, LOCK = "parts", ".lock"


def build_corpus(settings: CorpusSettings, progress: Progress = quiet) -> KnowledgeBase:
    """Reads sources and writes `items.parquet` with its manifest; a second call goes on.

    Each source is read by one process into a part of its own; parts that are whole are not read again
    while their source and the rules stay the same. Images are not opened (their bytes are hashed where
    `same_image` is "content").

    Example:
        >>> base = build_corpus(CorpusSettings(sources=("my-images",), output=Path("mine")))
        >>> base.items([0])[0].text
        'Eiffel Tower: A tower in Paris.'

    Raises:
        CorpusError: a source is not what it should be; what could be read of the others stays as parts.
        CutShardError: a source ends too early, and `keep_partial` is not set. Where no older corpus is in the
            way, what could be read is there, marked as incomplete.
        StorageError: the disk is full, or another process builds in this folder.
    """
    folder, rules, sources = settings.output, settings.rules, settings.find_sources()
    with one_writer(folder / LOCK):
        with storage_errors(folder):
            (folder / PARTS).mkdir(exist_ok=True)
        sweep(folder)  # what killed processes left
        sweep(folder / PARTS)
        parts = [_part(folder, source, rules) for source in sources]
        pairs = zip(sources, parts, strict=True)
        todo = [pair for pair in pairs if not _is_done(*pair, settings.keep_partial)]
        _read_all(todo, rules, folder, settings.workers, progress)
        records = [read_json(part.with_suffix(".json")) for part in parts]
        cut = None if settings.keep_partial else next(filter(None, (each["error"] for each in records)), None)
        if cut is not None and (folder / MANIFEST).is_file():
            raise CutShardError(cut)
        base = _join(parts, records, rules, folder)
        if cut is not None:
            raise CutShardError(cut)
        for part in (folder / PARTS).iterdir():
            part.unlink()
        (folder / PARTS).rmdir()
    return base


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
    todo: Sequence[tuple[Source, Path]], rules: CorpusRules, folder: Path, workers: int, progress: Progress
) -> None:
    """Reads the sources, several at a time; the first fault is raised after the others are done."""
    if not todo:
        return
    with progress(f"reading {len(todo)} sources", unit="rows") as advance:
        if workers <= 1 or len(todo) == 1:
            faults = [read_part(*pair, rules, folder, advance) for pair in todo]
        else:
            context = get_context("spawn")
            counter = context.Value("Q", 0)
            with ProcessPoolExecutor(min(workers, len(todo)), context, _start_worker, (counter,)) as pool:
                jobs = [pool.submit(read_part, *pair, rules, folder, _count) for pair in todo]
                faults = _collect(jobs, counter, advance)
    faults = [fault for fault in faults if fault]
    if faults:
        raise CorpusError(faults[0] + (f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""))


def _collect(jobs: Sequence[Future[str]], counter: Any, advance: Advance) -> list[str]:
    faults, waiting, shown = list[str](), set(jobs), 0
    while waiting:
        done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
        try:
            faults += [future.result() for future in done]
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker process was killed (was there too little memory?); run the same command again: the "
                "sources that were read to their end are kept; --workers 1 reads them one at a time"
            ) from error
        advance(int(counter.value) - shown)
        shown = int(counter.value)
    return faults


_counter: Any = None  # rows read by all workers of a pool


def _start_worker(counter: Any) -> None:
    global _counter  # noqa: PLW0603 (one a process)
    _counter = counter
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker at once, without a traceback


def _count(rows: int) -> None:
    with _counter.get_lock():
        _counter.value += rows


def read_part(
    source: Source, part: Path, rules: CorpusRules, folder: Path, advance: Callable[[int], Any]
) -> str:
    """Reads one source into its part, with a record beside it that is written last.

    Returns:
        The fault of a source that is no corpus; "" where all went well or the source was only cut (the
        record then says so).
    """
    stats, error, stamp = CorpusStats(), None, source.stamp()
    part.with_suffix(".json").unlink(missing_ok=True)
    try:
        for rows in write_part(_items(source, rules, stats, folder), part, folder):
            advance(rows)
    except CutShardError as cut:
        error = str(cut)
        logger.warning("%s", error)
    except (CorpusError, RecordError) as fault:
        part.unlink(missing_ok=True)
        return str(fault)
    except OSError as fault:  # without what cannot travel between processes
        logger.debug("%s", traceback.format_exc())
        raise type(fault)(*fault.args) if fault.filename is None else fault from None
    record = {"source": source.describe(), "stamp": stamp, "rows": vars(stats), "error": error}
    write_json(part.with_suffix(".json"), record)
    return ""


def _items(
    source: Source, rules: CorpusRules, stats: CorpusStats, folder: Path
) -> Iterator[tuple[CorpusItem, int]]:
    for item in source.items(rules, stats, folder):
        yield item, row_key(item, _same_image(item, rules, stats), rules.unique)


def _same_image(item: CorpusItem, rules: CorpusRules, stats: CorpusStats) -> str:
    """What two rows with the same image share."""
    if rules.same_image == "content" and item.image:
        try:
            return hashlib.sha256(image_bytes(item.image)).hexdigest()
        except (ImageError, OSError):
            stats.repair("image not there: told apart by its address", item.image)
    return item.image_url or item.image


def _join(
    parts: Sequence[Path], records: Sequence[dict[str, Any]], rules: CorpusRules, folder: Path
) -> KnowledgeBase:
    """Parts to table."""
    stats = CorpusStats()
    for record in records:
        stats.add(record["rows"])
    names = ", ".join(str(record["source"]["name"]) for record in records[:3])
    names += f" and {len(records) - 3} more" if len(records) > 3 else ""
    if not stats.kept:
        if not stats.read:
            raise CorpusError(f"{names}: nothing in it; name a table with rows, or a folder of images")
        how = "; --names-as-titles reads images by their file names" if stats.dropped["no text"] else ""
        raise CorpusError(
            f"{names}: none of the {stats.read} rows was kept; dropped: {dict(stats.dropped) or 'none'}{how}"
        )
    try:
        masks, dropped = choose_rows(parts, rules.on_duplicate == "drop")
    except CorpusError as error:
        raise CorpusError(f"{names}: {error}") from error
    stats.dropped.update(dropped)
    stats.kept = int(sum(mask.sum() for mask in masks))
    sources = [{**each["source"], "rows": each["rows"], "error": each["error"]} for each in records]
    whole = not any(record["error"] for record in records)
    about = {"complete": whole, "sources": sources, "settings": as_dict(rules), "rows": vars(stats)}
    return join_parts(parts, masks, folder, about)
