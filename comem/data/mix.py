"""Training files as one: so many records of each, drawn by a seed, their paths still right."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comem.config import option, take_paths
from comem.data.records import MANIFEST, SETTINGS, TRAIN, read_records, rebased, write_records
from comem.io.console import Progress, print_facts, quiet
from comem.io.files import sha256_of
from comem.io.run_folder import settle
from comem.training.data import load_knowledge
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


@dataclass(frozen=True)
class MixSettings:
    """Several training files as one.

    Attributes:
        parts: files by name, in the order of the new file, and how many records are wanted of each.
        output: the new folder.
        seed: of the drawing; the same records give the same sample, whatever their order.
        knowledge: items for knowledge_ids: JSONL, TSV.
    """

    parts: tuple[str, ...] = option(positional=True, metavar="NAME=FILE[:N]")
    output: Path = option(metavar="DIR")
    seed: int = 0
    knowledge: Path | None = option(None, metavar="FILE")

    def __post_init__(self) -> None:
        take_paths(self)


def mix(settings: MixSettings, progress: Progress = quiet) -> dict[str, Any]:
    """Mix the files that the settings name, see `mix_parts`; the manifest."""
    named = [parse_part(text) for text in settings.parts]
    if len(dict(named)) < len(named):
        names = ", ".join(name for name, _ in named)
        raise ValueError(f"parts {names}: every part needs a name of its own")
    table = load_knowledge(settings.knowledge) if settings.knowledge else None
    return mix_parts(dict(named), settings.output, settings.seed, table, progress=progress)


def mix_parts(
    parts: Mapping[str, Part],
    folder: str | Path,
    seed: int = 0,
    table: Mapping[str, KnowledgeItem] | None = None,
    about: Mapping[str, Any] | None = None,
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Write `train.jsonl` and `manifest.json` of a folder; each record gets the name of its part as `origin`.

    Args:
        parts: by name, in the order of the file.
        folder: the new folder.
        seed: of the drawing; the same records give the same sample, whatever their order.
        table: knowledge items by id, where the parts name them by `knowledge_ids`.
        about: what else the manifest shall say.
        progress: counts parts.

    Returns:
        The manifest.

    Raises:
        ValueError: a part that cannot be read, an id in two parts, or a folder of another mixture.
    """
    folder = Path(folder)
    files = {
        name: {"file": str(part.file), "sha256": sha256_of(part.file), "target": part.target}
        for name, part in parts.items()
    }
    decisive = {"parts": {name: {**facts, "file": ""} for name, facts in files.items()}, "seed": seed}
    settle(folder / SETTINGS, decisive)
    records: list[dict[str, Any]] = []
    homes: dict[str, str] = {}
    counts: dict[str, dict[str, Any]] = {}
    with progress("mixing", len(parts), unit="files") as advance:
        for name, part in parts.items():
            found = read_records(part.file, table)
            if twice := next((key for key in found if key in homes), None):
                raise ValueError(f"the id {twice!r} is in {homes[twice]} and in {name}; rename those of one")
            homes |= dict.fromkeys(found, name)
            drawn = set(found)
            if part.target is not None and part.target < len(found):
                drawn = set(random.Random(f"{seed}/{name}").sample(sorted(found), part.target))
            records += [
                {**rebased(row, part.file.parent, folder), "origin": name}
                for key, row in found.items() if key in drawn
            ]  # fmt: skip
            counts[name] = {**files[name], "records": len(found), "kept": len(drawn)}
            advance()
    languages = Counter(str(row.get("language", "en")) for row in records)
    mixture = {
        "origin": {name: each["kept"] for name, each in counts.items()},
        "language": dict(languages.most_common()),
    }
    facts = {"kept": len(records), "mixture": mixture, "parts": counts, "seed": seed, **(about or {})}
    return write_records(folder, records, facts)


def show_mixture(manifest: dict[str, Any], settings: MixSettings) -> None:
    """Print how many records each part gave, and where they are."""
    print_facts(mixture_lines(manifest, settings.output))


def mixture_lines(manifest: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    """How many records each part of a mixture gave, and where they are."""
    rows = []
    for name, part in manifest["parts"].items():
        short = (part["target"] or 0) - part["kept"]
        missing = f", {short:,} fewer than asked for" if short > 0 else ""
        rows.append((name, f"{part['kept']:,} records{missing}"))
    places = [("records", str(folder / TRAIN)), ("manifest", str(folder / MANIFEST))]
    return [*rows, ("in all", f"{manifest['kept']:,}"), *places]
