"""Small data sets in exactly the hub's form, written without the library that wrote the real ones."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

WriteParquet = Callable[..., Path]


def png(colour: int = 0) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (colour % 256, 10, 20)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def picture() -> Callable[[int], dict[str, Any]]:
    """An image cell as the hub's parquet files have it."""
    return lambda colour=0: {"bytes": png(colour), "path": f"{colour}.png"}


@pytest.fixture
def write_parquet() -> WriteParquet:
    """`write_parquet(folder, split, rows, shards=1)` writes `data/SPLIT-00000-of-00001.parquet` …"""

    def write(folder: Path, split: str, rows: Sequence[dict[str, Any]], shards: int = 1) -> Path:
        import pyarrow
        from pyarrow.parquet import write_table

        (folder / "data").mkdir(parents=True, exist_ok=True)
        image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        for number in range(shards):
            part = list(rows[number::shards])
            table = pyarrow.Table.from_pylist(part)
            for name in table.column_names:
                pictures = name in ("image", "gt_images", "retrieved_images")
                if pictures and not any(isinstance(row[name], str) for row in part):
                    kind = image if name == "image" else pyarrow.list_(image)
                    column = pyarrow.array([row[name] for row in part], kind)
                    table = table.set_column(table.column_names.index(name), name, column)
            write_table(table, folder / "data" / f"{split}-{number:05d}-of-{shards:05d}.parquet")
        return folder

    return write
