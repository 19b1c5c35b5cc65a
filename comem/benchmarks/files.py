"""Where a benchmark's files and images lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comem.records import RecordError
from comem.types import ImageRef

IMAGE_SUFFIXES = (".jpg", ".JPEG", ".png", ".jpeg", ".JPG", ".webp")


def locate(path: str | Path, names: Sequence[str]) -> Path:
    """The data file: `path` itself, or in the folder `path` the first of the published names that exists.

    Raises:
        ValueError: there is no such file; lists the names that were looked for.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"{path}: no such file or folder; give the benchmark's data file")
    for name in names:
        for candidate in (path / name, path / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    raise ValueError(f"{path}: holds none of {', '.join(names)} (plain or .gz); give the data file itself")


def image_by_id(folder: str | Path, image_id: str) -> ImageRef:
    """The image called `image_id` in a folder, whatever its suffix.

    A missing image is found out when it is opened, where the run can record it and go on.
    """
    base = Path(folder)
    for suffix in IMAGE_SUFFIXES:
        candidate = base / f"{image_id}{suffix}"
        if candidate.is_file():
            return ImageRef(path=str(candidate))
    return ImageRef(path=str(base / f"{image_id}{IMAGE_SUFFIXES[0]}"))


def named_image(folder: str | Path | None, name: object, file: str | Path) -> ImageRef | None:
    """The image with this file name, in the folder or else beside the data file; None without a name.

    A missing image is found out when it is opened, where the run can record it and go on.
    """
    if not name:
        return None
    return ImageRef(path=str((Path(folder) if folder is not None else Path(file).parent) / str(name)))


def question_text(row: Mapping[str, Any], key: str, name: str, file: str | Path) -> str:
    """A record's question.

    Raises:
        RecordError: it has none; names the file and the record.
    """
    asked = row.get(key)
    if not isinstance(asked, str) or not asked.strip():
        raise RecordError(f"{file}: {name!r} has no question text")
    return asked


def nothing_asked(file: Path, split: str | None, found: Sequence[str]) -> RecordError:
    """The error for a file without a question, or without one in the split that is wanted."""
    if not found:
        return RecordError(f"{file}: the file has no questions; is it the right one, and whole?")
    there = ", ".join(map(repr, found))
    return RecordError(f"{file}: no question is in split {split!r}; the file has {there}")
