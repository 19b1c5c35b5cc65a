"""Training records as they stand in their files: read and checked, and moved with their paths."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from comem.io.files import RecordError, read_jsonl, sha256_of, unique, write_atomic, write_json
from comem.io.images import allow_images, image_ref
from comem.io.run_folder import run_manifest
from comem.training.data import parse_example
from comem.types import KnowledgeItem

_IMAGES = ("image", "image_path", "images")


def read_records(
    path: str | Path, table: Mapping[str, KnowledgeItem] | None = None
) -> dict[str, dict[str, Any]]:
    """The records of a training file by id, each checked.

    Raises:
        RecordError: one breaks the schema, or an id comes twice; names file and record.
        ValueError: the file holds none.
    """
    path = Path(path)
    found = {str(row["id"]): row for row in unique(map(_named, read_jsonl(path)), "id", path)}
    for number, row in enumerate(found.values(), start=1):
        try:
            parse_example(row, path.parent, table)
        except ValueError as error:
            raise RecordError(f"{path}: record {number}: {error}; see comem data check") from error
    if not found:
        raise ValueError(f"{path} holds no question; one JSON record a line is expected")
    return found


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """The record with its id under the name `id`."""
    name = next((row[key] for key in ("id", "data_id", "question_id") if row.get(key) is not None), None)
    return {"id": name, **{key: value for key, value in row.items() if key != "id"}}


def rebased(row: Mapping[str, Any], source: Path, target: Path) -> dict[str, Any]:
    """The record with its images' paths relative to another folder.

    Raises:
        ValueError: an image lies where the record may not reach.
    """

    def move(value: Any) -> Any:
        if isinstance(value, list):
            return [move(one) for one in value]
        if not isinstance(value, str):
            return value
        ref = image_ref(value, source)
        if ref is not None and ref.fault.startswith("outside"):  # not to be allowed by moving it
            raise ValueError(f"{ref.path}: {ref.fault}")
        return value if ref is None or ref.path is None or ref.fault else os.path.relpath(ref.path, target)

    def moved(part: Any) -> Any:
        if not isinstance(part, Mapping):
            return part
        return {key: move(value) if key in _IMAGES else value for key, value in part.items()}

    found: dict[str, Any] = moved(row)
    for key in ("conversations", "knowledge"):
        if isinstance(row.get(key), list):
            found[key] = [moved(part) for part in row[key]]
    return found


def image_paths(row: Mapping[str, Any]) -> Iterator[str]:
    """The texts that stand where a record, its turns and its items name images."""
    for part in (row, *(each for key in ("conversations", "knowledge") for each in row.get(key) or ())):
        if isinstance(part, Mapping):
            named = [part.get(key) for key in _IMAGES]
            values = (one for value in named for one in (value if isinstance(value, list) else [value]))
            yield from (value for value in values if isinstance(value, str) and value)


TRAIN, MANIFEST, SETTINGS = "train.jsonl", "manifest.json", "settings.json"


def write_records(
    folder: Path, records: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write train.jsonl and manifest.json, each as a whole; the manifest."""
    allow_images(folder, itertools.chain.from_iterable(map(image_paths, records)))
    write_atomic(folder / TRAIN, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in records))
    manifest = run_manifest({**facts, "sha256": sha256_of(folder / TRAIN)})
    write_json(folder / MANIFEST, manifest)
    return manifest


def kept_lines(manifest: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    """What a manifest says of the records kept and dropped, and where they are."""
    return [
        ("candidates", f"{manifest['candidates']:,}"),
        ("kept", f"{manifest['kept']:,}"),
        *((f"dropped: {reason}", f"{count:,}") for reason, count in manifest["dropped"].items()),
        ("records", str(folder / TRAIN)),
        ("manifest", str(folder / MANIFEST)),
    ]
