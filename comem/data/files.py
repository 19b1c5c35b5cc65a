"""The files of a job that makes training records: its settings, its records, its manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comem.records import read_json, run_manifest, sha256_of, write_atomic, write_json

TRAIN, MANIFEST, SETTINGS = "train.jsonl", "manifest.json", "settings.json"


def settle(folder: Path, settings: Mapping[str, Any], free: Sequence[str] = ()) -> None:
    """Note the settings of a new folder; refuse a folder that was begun with others, the `free` ones aside.

    Raises:
        ValueError: they differ; names the settings that do.
    """
    path = folder / SETTINGS
    wanted = json.loads(json.dumps(settings))
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)
        return
    found = read_json(path)
    compared = {*found, *wanted} - {*free}
    if differ := sorted(key for key in compared if found.get(key) != wanted.get(key)):
        raise ValueError(
            f"{folder} was begun with other settings ({', '.join(differ)}); choose another folder"
        )


def write_records(
    folder: Path, records: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write train.jsonl and manifest.json, each as a whole; the manifest."""
    write_atomic(folder / TRAIN, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in records))
    manifest = run_manifest({**facts, "sha256": sha256_of(folder / TRAIN)})
    write_json(folder / MANIFEST, manifest)
    return manifest
