"""Where a benchmark's files and images lie."""

from __future__ import annotations

import logging
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comem.io.files import RecordError, listed, parse_json, unique, write_atomic
from comem.types import ImageRef

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".JPEG", ".png", ".jpeg", ".JPG", ".webp")


@dataclass(frozen=True)
class DataFiles:
    """Where a loader finds a benchmark's questions.

    Args:
        path: the published file, or the folder that holds it under its published name.
        images: where images lie that the file names by id; None for none.
        split: only this split; None for the one that is evaluated first, or all.
        question_types: a file of question types, where the benchmark has one.
    """

    path: Path
    images: Path | None = None
    split: str | None = None
    question_types: Path | None = None


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


def _ref(value: Any, folder: str | Path) -> ImageRef | None:
    from comem.io.images import image_ref  # here: scoring needs no Pillow

    return image_ref(value, folder)


def image_by_id(folder: str | Path, image_id: str) -> ImageRef:
    """The image called `image_id` in a folder, whatever its suffix.

    A missing image is found out when it is opened, where the run can record it and go on.
    """
    refs = [ref for suffix in IMAGE_SUFFIXES if (ref := _ref(f"{image_id}{suffix}", folder)) is not None]
    return next((ref for ref in refs if not ref.fault and os.path.isfile(str(ref.path))), refs[0])


def named_image(folder: str | Path | None, name: object, file: str | Path) -> ImageRef | None:
    """The image of this name, in the folder or else beside the data file; None without a name.

    What `image_ref` reads may stand in the name's place: a data URI, a dict, bytes. A missing image is found
    out when it is opened, where the run can record it and go on.
    """
    return _ref(name, Path(folder) if folder is not None else Path(file).parent)


def row_image(row: Mapping[str, Any], file: Path, folder: Path | None) -> ImageRef | None:
    """A row's image: its `image_path` in the folder or beside the file, else its `image_id` in the folder."""
    if (ref := named_image(folder, row.get("image_path"), file)) is not None:
        return ref
    return image_by_id(folder, str(row["image_id"])) if folder is not None and row.get("image_id") else None


def question_text(row: Mapping[str, Any], key: str, name: str, file: str | Path) -> str:
    """A record's question.

    Raises:
        RecordError: it has none; names the file and the record.
    """
    asked = row.get(key)
    if not isinstance(asked, str) or not asked.strip():
        raise RecordError(f"{file}: {name!r} has no question text")
    return asked


def is_in_split(name: str, split: str) -> bool:
    """`val_unseen_entity` is in the splits val_unseen_entity, unseen_entity and val."""
    return name == split or name.startswith(f"{split}_") or name.endswith(f"_{split}")


def of_split(
    rows: Iterable[dict[str, Any]],
    file: Path,
    split: str | None,
    key: str = "data_split",
    is_in: Callable[[str, str], bool] = is_in_split,
) -> Iterator[dict[str, Any]]:
    """The rows of a split, or all.

    Raises:
        RecordError: (at the end) there are none; names the splits that there are.
    """
    seen: dict[str, None] = {}
    nothing = True
    for row in rows:
        name = str(row.get(key, ""))
        seen[name] = None
        if split is None or is_in(name, split):
            nothing = False
            yield row
    if not seen:
        raise RecordError(f"{file}: the file has no questions; is it the right one, and whole?")
    if nothing:
        there = ", ".join(map(repr, seen))
        raise RecordError(f"{file}: no question is in split {split!r}; the file has {there}")


def tar_rows(path: Path, images: Path | None) -> Iterator[dict[str, Any]]:
    """The samples of WebDataset archives (ReflectiVA's `val-0000.tar` …), as rows of InfoSeek's form.

    Pictures are unpacked once into the images' folder, under their archive's and sample's names.

    Args:
        path: an archive, or the folder that holds them.
        images: where pictures go.

    Raises:
        ValueError: no folder for the pictures was named, or there are no archives.
        RecordError: a damaged archive, or a sample without a question; names it.
    """
    if images is None:
        raise ValueError(f"{path}: its pictures lie in archives; say where they go: --images DIR")
    files = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: no .tar archives in it")
    for file in files:
        try:
            with tarfile.open(file) as archive:
                yield from (_sample(key, parts, images, file) for key, parts in _samples(archive))
        except (tarfile.TarError, EOFError, UnicodeDecodeError) as error:
            raise RecordError(f"{file}: not a whole archive ({error}); fetch it again") from error


def _samples(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Members that follow each other and share their name up to the first dot: key, content by the rest."""
    key, parts = "", dict[str, bytes]()
    for member in archive:
        if not member.isfile():
            continue
        name, _, kind = Path(member.name).name.partition(".")
        if name != key and parts:
            yield key, parts
            parts = {}
        key = name
        parts[kind] = archive.extractfile(member).read()  # type: ignore[union-attr]  # is a file
    if parts:
        yield key, parts


def _sample(key: str, parts: dict[str, bytes], images: Path, file: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"data_id": key}
    for kind, data in parts.items():
        if kind.lower().endswith(("jpg", "jpeg", "png", "webp")):
            place = images / f"{file.stem}_{key}.{kind.rpartition('.')[2]}"  # keys may come again elsewhere
            if not place.is_file():
                write_atomic(place, data)
            row["image_path"] = place.name
            continue
        text = data.decode("utf-8").strip()
        try:
            value, _ = parse_json(text)
        except ValueError:
            value = text
        row |= value if isinstance(value, dict) else {kind.removesuffix(".json").removesuffix(".txt"): value}
    if not isinstance(row.get("question"), str):
        raise RecordError(f"{file}: sample {key!r} has no question; it has {', '.join(sorted(parts))}")
    return row


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
                    raise RecordError(f"{file}: no column {', '.join(missing)}; it has {listed(there)}")
                wanted = [*columns, *(name for name in optional if name in there)]
                for batch in table.iter_batches(batch_size=_ROWS, columns=wanted):
                    yield from batch.to_pylist()
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise RecordError(
                f"{file}: not a whole parquet file ({_first(error)}); fetch it again"
            ) from error


def parquet_rows(
    path: Path, split: str, key: str, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[dict[str, Any], str, ImageRef, Path]]:
    """A split's rows without their images: the row, its id, its image, and its file for messages.

    Raises:
        ValueError: as `find_parquet`, `read_parquet` and `embedded_image`; or an id comes twice.
    """
    files = find_parquet(path, split)
    file = files[0]

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal file
        for file in files:
            yield from read_parquet([file], ("image", *columns), optional)

    for row in unique(rows(), key, files[0].parent):
        name = str(row[key])
        yield row, name, embedded_image(row.pop("image"), file, name), file


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def embedded_image(cell: Any, file: str | Path, name: str) -> ImageRef:
    """An image cell, `{"bytes": …, "path": …}` as the `datasets` library writes it.

    Raises:
        RecordError: there is no picture in it.
    """
    if (ref := _ref(cell, Path(file).parent)) is not None:
        return ref
    raise RecordError(f"{file}: {name!r} has no picture; the published file embeds one, fetch it again")


@dataclass(frozen=True)
class HubFiles:
    """A data set's files on the hub.

    Args:
        repo: its id.
        pattern: the files of a split; `{split}` is replaced.
        revision: branch, tag or commit.
    """

    repo: str
    pattern: str = "data/{split}-*.parquet"
    revision: str = "main"

    def fetch(self, split: str) -> Path:
        """The folder that holds the split's files; what is in the cache is not fetched again.

        Raises:
            ValueError: the hub cannot be reached, or refuses; names the files and where to put them.
        """
        from huggingface_hub import snapshot_download

        pattern = self.pattern.format(split=split)
        logger.info("fetching %s of %s from the hub", pattern, self.repo)
        try:
            folder = snapshot_download(
                self.repo, repo_type="dataset", revision=self.revision, allow_patterns=[pattern]
            )
        except Exception as error:  # the hub, its HTTP library and the disk raise many kinds
            reason = _first(error).strip().rstrip(".")
            raise ValueError(f"{self.repo} cannot be fetched ({reason}). {self.remedy(split)}") from error
        return Path(folder)

    def remedy(self, split: str) -> str:
        """How to get the files by hand."""
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
        here = " (HF_HUB_OFFLINE is set: unset it to download here)" if offline else ""
        return (
            f"Where there is a network{here}, run: hf download {self.repo} --repo-type dataset "
            f"--include '{self.pattern.format(split=split)}' --local-dir DIR; then give --data DIR"
        )
