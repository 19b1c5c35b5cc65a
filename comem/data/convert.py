"""LLaVA-style JSON and the authors' MDS folders as our JSONL (see `comem.training.data`).

The authors' records have `conversations` (LLaVA's turns), `knowledge_image` (one path or encoded image an
item) and `knowledge_conversations` (two entries an item: the prompt, the passage); their retrieval
results have `question`, `answer_eval` and `retrieval_info` (passage and image of each item).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from comem.config import option, take_paths
from comem.data.records import image_paths
from comem.io.console import Progress, print_facts, print_line, quiet
from comem.io.files import (
    RecordError,
    exact,
    is_missing,
    listed,
    numbered_lines,
    parse_json,
    parse_line,
    read_json,
    write_atomic,
)
from comem.io.images import allow_images, image_ref
from comem.training.data import NOT_CARRIED, parse_example

logger = logging.getLogger(__name__)

_SHOWN = 50  # faults
_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "str": lambda data: data.decode("utf-8"),
    "json": lambda data: parse_json(data)[0],
    "int": lambda data: struct.unpack("<q", data)[0],
    "bytes": bytes,
    "jpeg": bytes,  # encoded images stay encoded
    "png": bytes,
}


def read_mds(folder: str | Path) -> Iterator[dict[str, Any]]:
    """The samples of an MDS folder, in the order written.

    Raises:
        RecordError: no index, a pickled or unknown column, a compressed or damaged shard; says what to do.
    """
    folder = Path(folder)
    index = read_json(folder / "index.json")
    shards = index.get("shards") if isinstance(index, dict) else None
    if not isinstance(shards, list):
        raise RecordError(f"{folder / 'index.json'}: no list of shards; this is not an MDS folder")
    for shard in shards:
        _refuse(shard, folder)
    for shard in shards:
        yield from _samples(folder, shard)


def _refuse(shard: Mapping[str, Any], folder: Path) -> None:
    """Shards that cannot be read, before the first sample is."""
    if shard.get("format") != "mds":
        raise RecordError(f"{folder}: a shard has the format {shard.get('format')!r}; only 'mds' is read")
    columns = dict(zip(shard["column_names"], shard["column_encodings"], strict=True))
    for name, encoding in columns.items():
        if encoding == "pkl":
            raise RecordError(
                f"{folder}: the column {name!r} is pickled; unpickling runs code of whoever wrote it, so it "
                "is refused. Where you trust the file, rewrite the column as 'json', 'str' or 'jpeg'"
            )
        if encoding not in _DECODERS:
            raise RecordError(
                f"{folder}: the column {name!r} is encoded as {encoding!r}; read are {', '.join(_DECODERS)}"
            )
    if not (folder / shard["raw_data"]["basename"]).is_file():
        packed = (shard.get("zip_data") or {}).get("basename")
        remedy = f"unpack {packed} ({shard.get('compression')}) first" if packed else "copy the folder again"
        raise RecordError(f"{folder}: no file {shard['raw_data']['basename']}; {remedy}")


def _samples(folder: Path, shard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    path = folder / shard["raw_data"]["basename"]
    if path.parent.resolve() != folder.resolve():
        raise RecordError(f"{path}: a shard lies outside its folder")
    data, number = path.read_bytes(), -1
    try:
        (count,) = struct.unpack_from("<I", data)
        if count != shard["samples"]:
            raise ValueError(f"{count} samples where the index says {shard['samples']}")
        offsets = struct.unpack_from(f"<{count + 1}I", data, 4)
        for number in range(count):
            if not offsets[number] <= offsets[number + 1] <= len(data):
                raise ValueError("the file is cut short")
            yield _sample(data[offsets[number] : offsets[number + 1]], shard)
    except (struct.error, ValueError) as error:
        raise RecordError(f"{path}: sample {number + 1}: damaged ({error}); copy it again") from error


def _sample(data: bytes, shard: Mapping[str, Any]) -> dict[str, Any]:
    fixed = shard["column_sizes"]
    free = sum(1 for size in fixed if not size)
    sizes = iter(struct.unpack_from(f"<{free}I", data))
    at, row = 4 * free, {}
    for name, encoding, size in zip(shard["column_names"], shard["column_encodings"], fixed, strict=True):
        end = at + (size or next(sizes))
        if end > len(data):
            raise ValueError(f"the column {name!r} is cut short")
        row[name], at = _DECODERS[encoding](data[at:end]), end
    return row


@dataclass(frozen=True)
class ImageFiles:
    """Where images come from and go to: paths stay where they are, encoded ones become files.

    Args:
        source: the folder that relative paths start at.
        output: the JSONL file; its paths are relative to its folder.
    """

    source: Path
    output: Path

    def path(self, value: Any) -> str:
        """An image as a path relative to the output's folder."""
        ref = image_ref(value, self.source)
        if ref is None:
            raise ValueError("an image is empty; give a path, or an encoded image")
        if ref.fault:
            raise ValueError(f"{ref.path}: {ref.fault}")
        if ref.data is not None:
            return self.store(ref.data)
        return os.path.relpath(str(ref.path), self.output.parent)

    def store(self, data: bytes) -> str:
        """Write an encoded image under its checksum, once."""
        folder = self.output.parent / f"{self.output.name.partition('.')[0]}_images"
        suffix = ".png" if data.startswith(b"\x89PNG") else ".jpg"
        path = folder / (hashlib.sha256(data).hexdigest()[:24] + suffix)
        if not path.exists():
            write_atomic(path, data)
        return os.path.relpath(path, self.output.parent)


@dataclass(frozen=True)
class ConvertSettings:
    """LLaVA-style JSON or an MDS folder as our JSONL.

    Attributes:
        source: JSON (a list), JSONL, or an MDS folder.
        output: the JSONL file.
        images: where paths of images start (default: the source's folder).
        skip_faults: leave out what cannot be converted, instead of refusing all of it.
    """

    source: Path = option(positional=True, metavar="PATH")
    output: Path = option(metavar="FILE")
    images: Path | None = option(None, metavar="DIR")
    skip_faults: bool = False

    def __post_init__(self) -> None:
        take_paths(self)


class Converted(NamedTuple):
    """The number of records written, and by "record N" why others were not."""

    records: int
    faults: dict[str, str]


def convert(settings: ConvertSettings, progress: Progress = quiet) -> Converted:
    """Write a file of another format as our JSONL, atomically.

    Raises:
        ValueError: a source that is none of these, or a record that cannot be converted (its number).
    """
    source, output = settings.source, settings.output
    if source.resolve() == output.resolve():
        raise ValueError(f"{output} is the source itself; choose another output")
    root = settings.images or (source if source.is_dir() else source.parent)
    files, lines, faults = ImageFiles(root, output), [], {}  # type: ImageFiles, list[str], dict[str, str]
    taken, paths, repaired, lost = set[str](), set[str](), Counter[str](), set[str]()
    with progress("converting", unit="records") as advance:
        for number, found in enumerate(_read(source), start=1):
            try:
                row = _record(found, repaired)
                record = convert_record(row, number, files, repaired)
                parse_example(record, output.parent)
            except ValueError as error:
                if not settings.skip_faults:
                    raise RecordError(f"{source}: record {number}: {error}") from error
                faults[f"record {number}"] = str(error)
            else:
                _name_anew(record, taken, repaired)
                paths.update(image_paths(record))
                lost.update(map(str, row.keys() - _FIELDS))
                lines.append(json.dumps(record, ensure_ascii=False) + "\n")
            advance()
    if not lines:
        why = f": {next(iter(faults.values()))}" if faults else ""
        raise ValueError(f"{source} holds no record that can be converted{why}")
    for what, count in (+repaired).items():
        logger.warning("%s: %d records: %s", source, count, what)
    if lost:
        logger.warning("%s: fields that our records do not have, left out: %s", source, listed(sorted(lost)))
    allow_images(output.parent, paths)
    write_atomic(output, "".join(lines))
    return Converted(len(lines), faults)


def show_converted(found: Converted, settings: ConvertSettings) -> None:
    """Print how many records were written, and what was left out."""
    facts = [("written", f"{found.records:,}"), ("left out", f"{len(found.faults):,}")]
    print_facts([*facts, ("file", str(settings.output))])
    for name, fault in list(found.faults.items())[:_SHOWN]:
        print_line(f"{name}: {fault}")


def _read(source: Path) -> Iterator[Any]:
    """Records, or what stands in their place; of JSONL its lines."""
    if source.is_dir():
        yield from read_mds(source)
    elif source.suffix in (".pkl", ".pickle"):
        raise ValueError(f"{source} is pickled; unpickling runs code of whoever wrote it, so it is refused")
    elif ".jsonl" in source.suffixes:
        yield from (line for _, line in numbered_lines(source))
    else:
        rows = read_json(source)
        if not isinstance(rows, list):
            raise ValueError(f"{source} is not a list of records, as LLaVA's files are")
        yield from rows


def _record(row: Any, repaired: Counter[str]) -> Mapping[str, Any]:
    """What was read as a record.

    Raises:
        ValueError: it is none.
    """
    if isinstance(row, bytes):
        row, changed = parse_line(row)
        repaired["text that is not Unicode was replaced"] += changed
    if not isinstance(row, Mapping):
        raise ValueError(f"expected a JSON object, found {type(row).__name__}")
    return row


_IDS, _IMAGES = ("id", "data_id", "question_id"), ("image", "image_path", "images")


_KEPT = ("origin", "source", "value", "knowledge_ids")
#: What is read of a record.
_FIELDS = {
    *_IDS, *_IMAGES, *NOT_CARRIED, *_KEPT, "language", "conversations", "question", "answer", "answers",
    "answer_eval", "knowledge", "retrieval_info", "knowledge_image", "knowledge_conversations",
}  # fmt: skip


def convert_record(
    row: Mapping[str, Any], number: int, files: ImageFiles, repaired: Counter[str]
) -> dict[str, Any]:
    """One record of theirs as one of ours; records without an id are named by their number.

    Args:
        row: theirs.
        number: which one it is.
        files: where its images go.
        repaired: counts what was changed on the way.

    Raises:
        ValueError: it holds what ours cannot: a video, sound, turns of other roles.
    """
    name, given = _first(row, _IDS), _first(row, _IMAGES)
    language = exact(row.get("language")) or "en"
    record: dict[str, Any] = {"id": str(number if name is None else name), "language": language}
    record |= {key: row[key] for key in _KEPT if not is_missing(row.get(key))}
    if lost := next((key for key in NOT_CARRIED if _first(row, [key]) is not None), None):
        raise ValueError(f"it has {lost!r}, which our records do not carry; --skip-faults leaves it out")
    if given is not None:
        record["image"] = [files.path(one) for one in (given if isinstance(given, list) else [given])]
    if row.get("conversations") is not None:
        record["conversations"] = _turns(_plain(row["conversations"]), repaired)
        if given is None and "<image>" in str(record["conversations"]):
            repaired["an <image> mark without an image counts for nothing"] += 1
    else:
        record["question"] = row.get("question")
        answers = row.get("answers", row.get("answer_eval", row.get("answer")))
        record["answers"] = answers if isinstance(answers, list) else [] if answers is None else [answers]
    if knowledge := list(_knowledge(row, record["id"], files)):
        record["knowledge"] = knowledge
    return record


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if not is_missing(row.get(name)) and row[name] != []), None)


def _name_anew(record: dict[str, Any], taken: set[str], repaired: Counter[str]) -> None:
    """Give the record an id of its own, where the file has its id before; its items are named by it."""
    name, count = record["id"], 1
    while record["id"] in taken:
        count += 1
        record["id"] = f"{name}_{count}"
    taken.add(record["id"])
    if count > 1:
        repaired["the id was there before and got a number"] += 1
        for place, item in enumerate(record.get("knowledge", ())):
            item["id"] = f"{record['id']}_k{place}"


def _turns(turns: Any, repaired: Counter[str]) -> Any:
    """LLaVA's turns without a system turn; what stands in them for video or sound is refused.

    Raises:
        ValueError: a mark of what our records do not carry.
    """
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        return turns  # the reader says what is wrong
    words = [str(turn.get("value")) for turn in turns]
    if found := next((mark[0] for text in words if (mark := _LOST_MARKS.search(text))), None):
        raise ValueError(f"it has {found}, which our records do not carry; --skip-faults leaves it out")
    spoken = [turn for turn in turns if turn.get("from") != "system"]
    if len(spoken) < len(turns):
        repaired["a system turn was left out"] += 1
    if any(_AMID.search(text) for text in words):
        repaired["an image amid a text goes before it"] += 1
    return spoken


_LOST_MARKS = re.compile(r"<(video|audio|speech|sound)>")
_AMID = re.compile(r"[^\s>]\s*<image>")


def _plain(value: Any) -> Any:
    """What MDS columns of the encoding 'str' hold may be JSON."""
    if isinstance(value, str):
        try:
            return parse_json(value)[0]
        except ValueError as error:
            raise ValueError(f"a list as text: {error}") from error
    return value


def _knowledge(row: Mapping[str, Any], name: str, files: ImageFiles) -> Iterator[dict[str, Any]]:
    """The items of a record: its own, or the authors', which had no ids and are named by question and place.

    Raises:
        ValueError: they are written in another way.
    """
    own, found = _listed(row, "knowledge", Mapping), _listed(row, "retrieval_info", Mapping)
    yield from ({**item, **_shown(item.get("image"), files)} for item in own)
    pairs = [(item.get("passage_content"), item.get("image")) for item in found]
    if not pairs:
        images, turns = _listed(row, "knowledge_image"), _listed(row, "knowledge_conversations")
        if len(turns) != 2 * len(images):
            raise ValueError(
                f"{len(images)} knowledge_image but {len(turns)} knowledge_conversations; two are expected "
                "for each image, a prompt and the passage"
            )
        pairs = list(zip(map(_said, turns[1::2]), images, strict=True))
    for place, (text, image) in enumerate(pairs, start=len(own)):
        item = {"id": f"{name}_k{place}", "text": "" if is_missing(text) else str(text).strip()}
        yield item | _shown(image, files)


def _listed(row: Mapping[str, Any], name: str, kind: type = object) -> list[Any]:
    value = _plain(row.get(name)) if not is_missing(row.get(name)) else []
    if not isinstance(value, list) or not all(isinstance(one, kind) for one in value):
        raise ValueError(f"{name!r} is a list{' of objects' if kind is Mapping else ''}; got {value!r:.80}")
    return value


def _shown(image: Any, files: ImageFiles) -> dict[str, str]:
    return {} if is_missing(image) else {"image": files.path(image)}


def _said(turn: Any) -> Any:
    return turn.get("value") if isinstance(turn, Mapping) else turn
