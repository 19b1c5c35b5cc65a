"""A bank by several Ray workers: each encodes slices into stores of its own; then all are one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem.io.files import write_json
from comem.io.jsonl import read_json
from comem.io.parallel import Engine, run_shards
from comem.retrieval.knowledge import KnowledgeBase

if TYPE_CHECKING:
    from comem.memory.encoder import MemoryEncoder
    from comem.types import KnowledgeItem

PARTS = ".parts"
Loader = Callable[[], "MemoryEncoder"]


def build_divided(
    base: KnowledgeBase, loader: Loader, output: str | Path, form: str = "bf16", batch_size: int = 16, *,
    part_items: int = 4096, skip_faults: bool = False, engine: Engine = "ray", workers: int = 2,
    gpus: float = 0.0, progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Encodes the items of a knowledge base, a part of them a task, and merges the parts into `output`.

    Parts lie in `output.parts/` until all are done; a second call goes on with those that are not. Items
    that the output holds as they are now are not encoded.

    Args:
        loader: makes the encoder, once in each worker.
        part_items: items a task; a multiple of the batch size, so that the batches are those of one process.
        gpus: of each worker.
        progress: called with the number of items of each part that is finished.

    Returns:
        The counts of `build_store`, added up.

    Raises:
        ShardsFailedError: some parts could not be made; the others stay, and the output is as it was.
    """
    from comem.bank.transfer import merge_stores

    output = Path(output)
    folder = output.with_name(output.name + PARTS)
    part_items = max(1, part_items // batch_size) * batch_size
    starts = range(0, len(base), part_items)
    wanted = {"ids_sha256": base.manifest["ids_sha256"], "part_items": part_items, "form": form}
    _start_over_if_changed(folder, wanted)
    totals: dict[str, Any] = {"items": 0, "encoded": 0, "unchanged": 0, "faults": {}}

    def job(number: int) -> Callable[[], dict[str, Any]]:
        stop = min(starts[number] + part_items, len(base))
        return partial(
            _encode_part, loader, base.folder, output, folder, number, (starts[number], stop), form,
            batch_size, skip_faults,
        )  # fmt: skip

    for number, counts in run_shards(job, range(len(starts)), engine=engine, workers=workers, gpus=gpus):
        for name in ("items", "encoded", "unchanged"):
            totals[name] += counts[name]
        totals["faults"] |= counts["faults"]
        if progress:
            progress(min(part_items, len(base) - starts[number]))
    parts = sorted(path for path in folder.glob("part-*") if path.is_dir())
    if parts:
        merge_stores(parts, output, on_conflict="last").close()
    shutil.rmtree(folder)
    return totals


def _start_over_if_changed(folder: Path, wanted: dict[str, Any]) -> None:
    plan = folder / "plan.json"
    if folder.is_dir() and (not plan.is_file() or read_json(plan) != wanted):
        shutil.rmtree(folder)
    write_json(plan, wanted)


@lru_cache(maxsize=1)
def _load_once(key: str) -> MemoryEncoder:
    return _LOADERS[key]()


_LOADERS: dict[str, Loader] = {}


def _encode_part(
    loader: Loader, base_folder: Path, output: Path, folder: Path, number: int, span: tuple[int, int],
    form: str, batch_size: int, skip_faults: bool,
) -> dict[str, Any]:  # fmt: skip
    """One task: its items into its own store, and its record last."""
    from comem.bank.build import build_store

    record = folder / f"part-{number:05d}.json"
    if record.is_file():
        counts: dict[str, Any] = read_json(record)
        return counts
    key = repr(loader)
    _LOADERS[key] = loader
    fresh, known = _new_items(KnowledgeBase(base_folder), span, output)
    counts = {"items": span[1] - span[0], "encoded": 0, "unchanged": known, "faults": {}}
    if fresh:
        made = build_store(
            _load_once(key), fresh, folder / f"part-{number:05d}", form, batch_size, max(batch_size, 256),
            skip_faults=skip_faults,
        )  # fmt: skip
        counts |= {"encoded": made.encoded, "faults": made.faults}
    write_json(record, counts)
    return counts


def _new_items(base: KnowledgeBase, span: tuple[int, int], output: Path) -> tuple[list[KnowledgeItem], int]:
    """The items of a part that the output does not hold as they are, and how many it does."""
    from comem.bank.format import content_hash, is_store
    from comem.bank.reader import MemoryStore

    items = base.items(range(*span))
    if not is_store(output):
        return items, 0
    with MemoryStore(output) as store:
        fresh = list(_changed(items, store, content_hash))
    return fresh, len(items) - len(fresh)


def _changed(
    items: list[KnowledgeItem], store: Any, content_hash: Callable[[KnowledgeItem], bytes]
) -> Iterator[KnowledgeItem]:
    for item in items:
        slot = store.table.slot(item.id)
        try:
            same = slot >= 0 and store.table.entry(slot)["content"].tobytes() == content_hash(item)
        except ValueError:  # its picture cannot be read: the build says so
            same = False
        if not same:
            yield item
