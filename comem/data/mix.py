"""Training files as one: so many records of each, drawn by a seed, their paths still right."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comem.data.files import settle, write_records
from comem.data.rows import read_records, rebased
from comem.records import sha256_of
from comem.types import KnowledgeItem


@dataclass(frozen=True)
class Part:
    """A file, and how many of its records are wanted (None: all)."""

    file: Path
    target: int | None = None

    def __post_init__(self) -> None:
        if self.target is not None and self.target < 1:
            raise ValueError(f"{self.file}: {self.target} records: give at least 1, or none for all")


def parse_part(text: str) -> tuple[str, Part]:
    """Name and part of `NAME=FILE` or `NAME=FILE:TARGET`."""
    name, equals, rest = text.partition("=")
    file, colon, target = rest.rpartition(":")
    if not (colon and target.isdigit()):
        file, target = rest, ""
    if not (name and equals and file):
        raise ValueError(f"part {text!r}: write NAME=FILE, or NAME=FILE:TARGET")
    return name, Part(Path(file), int(target) if target else None)


def mix(
    parts: Mapping[str, Part], folder: str | Path, seed: int = 0,
    table: Mapping[str, KnowledgeItem] | None = None, about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write `train.jsonl` and `manifest.json` of a folder; each record gets the name of its part as `origin`.

    Args:
        parts: by name, in the order of the file.
        folder: the new folder.
        seed: of the drawing; the same records give the same sample, whatever their order.
        table: knowledge items by id, where the parts name them by `knowledge_ids`.
        about: what else the manifest shall say.

    Raises:
        ValueError: a part that cannot be read, an id in two parts, or a folder of another mixture.
    """
    folder = Path(folder)
    files = {
        name: {"file": str(part.file), "sha256": sha256_of(part.file), "target": part.target}
        for name, part in parts.items()
    }
    settle(folder, {"parts": {name: {**facts, "file": ""} for name, facts in files.items()}, "seed": seed})
    records: list[dict[str, Any]] = []
    homes: dict[str, str] = {}
    counts: dict[str, dict[str, Any]] = {}
    for name, part in parts.items():
        found = read_records(part.file, table)
        for key in found:
            if key in homes:
                raise ValueError(f"the id {key!r} is in {homes[key]} and in {name}; rename those of one")
        homes |= dict.fromkeys(found, name)
        drawn = _drawn(list(found), part.target, f"{seed}/{name}")
        records += [
            {**rebased(row, part.file.parent, folder), "origin": name}
            for key, row in found.items() if key in drawn
        ]  # fmt: skip
        counts[name] = {**files[name], "records": len(found), "kept": len(drawn)}
    languages = Counter(str(row.get("language", "en")) for row in records)
    mixture = {
        "origin": {name: each["kept"] for name, each in counts.items()},
        "language": dict(languages.most_common()),
    }
    return write_records(
        folder,
        records,
        {"kept": len(records), "mixture": mixture, "parts": counts, "seed": seed, **(about or {})},
    )


def _drawn(names: list[str], target: int | None, seed: str) -> set[str]:
    if target is None or target >= len(names):
        return set(names)
    return set(random.Random(seed).sample(sorted(names), target))
