"""The file of results: settings, device and a row for each cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comem.profiling.bench import Bench
from comem.profiling.cells import Cell
from comem.profiling.timing import device_name
from comem.records import read_json, run_manifest, write_json

FILE = "profile.json"


class Results:
    """Rows by cell, written whole after each.

    Args:
        path: the JSON file.
        header: what the rows were measured on; results of another header are not gone on with.
        resume: keep the finished cells of an earlier run.

    Raises:
        ValueError: `resume`, and the file is of other settings.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], *, resume: bool = False) -> None:
        self.path, self.header = path, dict(header)
        self.rows: dict[str, dict[str, Any]] = {}
        if resume and path.is_file():
            self._load()

    def finished(self, cell: Cell) -> bool:
        """Whether the cell has figures; one that was skipped is tried again."""
        return "repeats" in self.rows.get(cell.key, {})

    def add(self, cell: Cell, row: dict[str, Any]) -> None:
        """Take a row and write the file."""
        self.rows[cell.key] = row
        self.write()

    def write(self, **more: Any) -> None:
        """Write the file, with further entries at its top from here on."""
        self.header |= more
        write_json(self.path, {**self.header, "cells": list(self.rows.values()), "manifest": run_manifest()})

    def _load(self) -> None:
        found = read_json(self.path)
        other = [
            name
            for name in ("backbone", "settings", "dtype", "device")
            if found.get(name) != self.header[name]
        ]
        if other:
            raise ValueError(
                f"{self.path}: measured with another {' and '.join(other)}: give another --out, or leave "
                "--resume out to measure anew"
            )
        for row in found["cells"]:
            self.rows[cell_of(row).key] = row


def cell_of(row: Mapping[str, Any]) -> Cell:
    """The cell that a row is of."""
    return Cell(row["mode"], row["k"], row["batch"], row["engine"])


def header(backbone: str, bench: Bench) -> dict[str, Any]:
    """What every row of a run shares."""
    return {
        "benchmark": "profile",
        "backbone": backbone,
        "dtype": str(bench.dtype).removeprefix("torch."),
        "device": device_name(bench.device),
        "weights_bytes": bench.weights_bytes(),
        "settings": {**asdict(bench.lengths), "encode_batch": bench.encode_batch},
    }
