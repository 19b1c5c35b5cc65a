"""Corpora from the datasets library: on the hub, in a local folder, or saved to disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from comem.retrieval.corpus.base import CorpusError, CorpusStats, RawRows

SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves


def dataset_rows(name: str, split: str, stats: CorpusStats) -> RawRows:
    """Rows of a data set, streamed; pictures stay as they are encoded.

    Rows with WIT's texts nested by page, as in wikimedia/wit_base (`wit_features`), become one a page.

    Args:
        name: a name on the hub, a folder that `load_dataset` understands, or one made by `save_to_disk`.
        split: which part of it.

    Raises:
        CorpusError: no such data set or split.
    """
    for number, row in enumerate(_open(name, split), start=1):
        for page, flat in enumerate(pages(row)):
            stats.read += 1
            flat.setdefault("id", f"{split}/{number}" + (f"/{page}" if page else ""))
            yield f"{name}:{split}:{number}", flat


def _open(name: str, split: str) -> Any:
    import datasets

    folder = Path(name)
    try:
        if any((folder / mark).is_file() for mark in SAVED):
            data = datasets.load_from_disk(name)
            if isinstance(data, datasets.DatasetDict):
                data = data[split]
        else:
            data = datasets.load_dataset(name, split=split, streaming=True)
    except (ValueError, OSError, KeyError, RuntimeError, ConnectionError) as error:
        raise CorpusError(f"data set {name!r}, split {split!r}: cannot be opened: {error}") from error
    for column, feature in (data.features or {}).items():
        if isinstance(feature, datasets.Image):
            data = data.cast_column(column, datasets.Image(decode=False))
    return data


def pages(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The row itself, or one row for each of the pages nested in it."""
    nested = row.get("wit_features")
    if not nested:
        yield dict(row)
        return
    shared = {name: value for name, value in row.items() if name not in ("wit_features", "embedding")}
    if isinstance(nested, Mapping):  # the library turns a list of dicts into a dict of lists
        nested = [dict(zip(nested, values, strict=True)) for values in zip(*nested.values(), strict=True)]
    for page in nested:
        flat = {**shared, **page}
        url = hashlib.sha256(str(shared.get("image_url")).encode()).hexdigest()[:12]
        flat["id"] = f"{flat.get('page_url') or flat.get('page_title') or ''}#{url}"
        yield flat
