"""Parquet files as the hub publishes data sets: shards of a split, pictures embedded as bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from comem.records import RecordError
from comem.types import ImageRef

_ROWS = 32  # in one read: a row holds a picture
_SHARD = re.compile(r"^(?P<split>.+?)-(?P<number>\d{5,})-of-(?P<count>\d{5,})(?:-[0-9a-f]+)?\.parquet$")


def find_parquet(path: str | Path, split: str) -> list[Path]:
    """The files of a split, in order: `path` itself, or those that lie in the folder.

    Looked for are `data/test-00000-of-00002.parquet` (as published), the same without `data/`,
    `test.parquet`, and the hub's own conversion `default/test/0000.parquet`.

    Raises:
        ValueError: there are none (names the splits that are there), or a shard is missing.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path}: no such file or folder; give the benchmark's parquet file or its folder")
    for pattern in (f"data/{split}-*.parquet", f"{split}-*.parquet", f"{split}.parquet", f"{split}/*.parquet",
                    f"default/{split}/*.parquet"):  # fmt: skip
        files = sorted(path.glob(pattern))
        if files:
            _check_complete(files)
            return files
    others = sorted({_split_of(file) for file in path.glob("**/*.parquet")})
    there = f"it has the splits {', '.join(others)}" if others else "it has no parquet files"
    raise ValueError(f"{path}: no parquet file of split {split!r}; {there}")


def _split_of(file: Path) -> str:
    shard = _SHARD.match(file.name)
    if shard is not None:
        return shard["split"]
    return file.parent.name if file.stem.isdigit() else file.stem


def _check_complete(files: Sequence[Path]) -> None:
    """Scores over half a split look like scores over all of it: a missing shard must not go unnoticed."""
    shards = [match for match in (_SHARD.match(file.name) for file in files) if match is not None]
    if not shards:
        return
    count = int(shards[0]["count"])
    missing = sorted(set(range(count)) - {int(shard["number"]) for shard in shards})
    if missing:
        raise ValueError(
            f"{files[0].parent}: {len(shards)} of {count} shards of {shards[0]['split']}; "
            f"number {missing[0]} is missing, fetch it too"
        )


def read_parquet(
    files: Sequence[Path], columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """The rows of some files, with only these columns.

    Args:
        files: in order.
        columns: must be there.
        optional: read where they are there.

    Raises:
        RecordError: not a parquet file, damaged, or without a column; names the file.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    for file in files:
        try:
            with ParquetFile(file) as table:
                there = table.schema_arrow.names
                missing = [name for name in columns if name not in there]
                if missing:
                    raise RecordError(f"{file}: no column {', '.join(missing)}; it has {', '.join(there)}")
                wanted = [*columns, *(name for name in optional if name in there)]
                for batch in table.iter_batches(batch_size=_ROWS, columns=wanted):
                    yield from batch.to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise RecordError(
                f"{file}: not a whole parquet file ({_first(error)}); fetch it again"
            ) from error


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def embedded_image(cell: Any, file: str | Path, name: str) -> ImageRef:
    """An image cell, `{"bytes": …, "path": …}` as the `datasets` library writes it.

    Raises:
        RecordError: there is no picture in it.
    """
    if isinstance(cell, Mapping):
        if cell.get("bytes"):
            return ImageRef(data=bytes(cell["bytes"]))
        if cell.get("path"):
            return ImageRef(path=str(Path(file).parent / str(cell["path"])))
    raise RecordError(f"{file}: {name!r} has no picture; the published file embeds one, fetch it again")
