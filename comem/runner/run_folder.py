"""The run folder's files, and whether a folder holds the run that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comem.records import done_ids, read_json, run_manifest, write_json

PREDICTIONS, ERRORS, RUN, METRICS = "predictions.jsonl", "errors.jsonl", "run.json", "metrics.json"


def open_run(folder: Path, config: Mapping[str, Any], resume: bool) -> dict[str, Any]:
    """The content of run.json: of the folder's run when it is the same one, else new.

    Raises:
        ValueError: the folder holds another run (names the keys that differ), or holds predictions
            and `resume` is off.
    """
    path = folder / RUN
    if not path.exists():
        if (folder / PREDICTIONS).stat().st_size:
            raise ValueError(f"{folder} holds predictions of an unknown run (no {RUN}); use another folder")
        run = run_manifest({"config": dict(config)})
        write_json(path, run)
        return run
    run = read_json(path)
    if not resume and done_ids(folder / PREDICTIONS, "data_id"):
        raise ValueError(f"{folder} holds predictions already; resume, or choose another folder")
    old, new = _flat(run.get("config", {})), _flat(config)
    differing = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if differing:
        lines = "; ".join(f"{key}: {old.get(key)!r} there, {new.get(key)!r} now" for key in differing)
        raise ValueError(f"{folder} holds another run ({lines}); use the same values or another folder")
    return run


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`, tuples as lists, as JSON gives them back."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
