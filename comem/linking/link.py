"""From a file of predictions to the same rows with the entity that each answer names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from comem.benchmarks.scoring import TEXT_KEYS, checked_text, key_of, keyed
from comem.benchmarks.text import extract_answer
from comem.io.files import JsonlAppender, RecordError, read_json, write_json
from comem.io.run_folder import check_same, run_manifest
from comem.linking.index import Match, TitleIndex

Row = Mapping[str, Any]
_BATCH = 256


@dataclass(frozen=True)
class LinkSettings:
    """What decides which entity an answer gets.

    Attributes:
        whole: search for texts as they stand, not for the answers in them (boxes, final-answer lines).
        max_chars: only the first so many characters (the authors: 50); 0 for all, as the official script.
        keep: how many candidates to note.

    Raises:
        ValueError: a value out of range.
    """

    whole: bool = False
    max_chars: int = 0
    keep: int = 1

    def __post_init__(self) -> None:
        if self.max_chars < 0 or self.keep < 1:
            raise ValueError(f"max_chars {self.max_chars}, keep {self.keep}: give at least 0 and 1")

    def query(self, text: str) -> str:
        """What is searched for."""
        answer = text if self.whole else extract_answer(text)
        return answer[: self.max_chars] if self.max_chars else answer


@dataclass(frozen=True)
class LinkCounts:
    """How a call of `link_file` ended: rows in all, linked before, linked now, now without any entity."""

    total: int
    resumed: int
    linked: int
    empty: int


def link_file(
    index: TitleIndex, predictions: str | Path, output: str | Path, settings: LinkSettings | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> LinkCounts:  # fmt: skip
    """Append every prediction with its `pred_entity_id` to a file; a second call goes on where one stopped.

    Beside the output stands `<name>.manifest.json` with index and settings. An answer that shares no token
    with any title gets the id "", which scores as wrong.

    Args:
        index: the titles.
        predictions: rows with an id and a text, as `comem predict` writes them or the official files.
        output: JSON lines, in the order of the predictions.
        settings: what is searched for; as the official script by default, but for boxed answers.
        advance: called with the number of rows after each batch.

    Raises:
        ValueError: the output is the input, belongs to another index, other settings or other predictions.
        RecordError: a broken file of predictions, an id twice, an answer that is not text.
        StorageError: no space left; what is written stays.
    """
    settings = settings or LinkSettings()
    source, target = Path(predictions), Path(output)
    if source.resolve() == target.resolve():
        raise ValueError(f"{target}: the output would overwrite the predictions; choose another file")
    rows = keyed(source, torn_tail=True)
    texts = _texts(rows, source)
    with JsonlAppender(target, durable=False) as file:
        manifest = _settle(target, index, settings)
        done = _check_done(target, texts)
        pending = [name for name in texts if name not in done]
        empty = 0
        for batch in _batches(pending):
            found = index.search([settings.query(texts[name]) for name in batch], settings.keep)
            for name, matches in zip(batch, found, strict=True):
                file.write({**rows[name], **_linked(matches, settings.keep)})
                empty += not matches
            advance(len(batch))
    counts = LinkCounts(len(texts), len(done), len(pending), empty)
    write_json(_manifest_path(target), {**manifest, "counts": asdict(counts)})
    return counts


def _texts(rows: Mapping[str, Row], path: Path) -> dict[str, str]:
    """Answer text by id."""
    texts, key = {}, None
    for number, (name, row) in enumerate(rows.items(), start=1):
        key = key if key is not None and key in row else key_of(row, TEXT_KEYS, path, number)
        texts[name] = checked_text(row[key], name, path)
    return texts


def _batches(names: Sequence[str]) -> Iterator[list[str]]:
    source = iter(names)
    while batch := list(islice(source, _BATCH)):
        yield batch


def _linked(matches: Sequence[Match], keep: int) -> dict[str, Any]:
    """The fields that linking adds to a row."""
    top = matches[0].entity if matches else None
    fields: dict[str, Any] = {
        "pred_entity_id": top.id if top else "", "pred_entity_title": top.title if top else "",
    }  # fmt: skip
    if keep > 1:
        fields["candidates"] = [[*match.entity, round(match.score, 6)] for match in matches]
    return fields


def _manifest_path(output: Path) -> Path:
    return output.with_suffix(".manifest.json")


def _settle(output: Path, index: TitleIndex, settings: LinkSettings) -> dict[str, Any]:
    """The output's manifest: what is there when it says the same, else new.

    Raises:
        ValueError: the output was made with another index or other settings.
    """
    made = {name: index.manifest.get(name) for name in ("titles_sha256", "tokenizer", "vocabulary_sha256")}
    config = {**asdict(settings), **made}
    path = _manifest_path(output)
    if path.exists() and output.stat().st_size:
        manifest = dict(read_json(path))
        lead, remedy = "was made with other settings", "choose another file or remove it"
        check_same(output, manifest.get("config", {}), config, lead=lead, remedy=remedy)
        return manifest
    if output.stat().st_size:
        raise ValueError(f"{output} holds rows of an unknown run (no {path.name}); choose another file")
    manifest = run_manifest({"config": config, "index": str(index.folder)})
    write_json(path, manifest)
    return manifest


def _check_done(output: Path, texts: Mapping[str, str]) -> set[str]:
    """The ids in the output.

    Raises:
        RecordError: an answer there is not the one that the predictions have.
    """
    if not output.stat().st_size:
        return set()
    done = _texts(keyed(output), output)
    for name, text in done.items():
        if texts.get(name) != text:
            raise RecordError(f"{output}: {name!r} has another answer than the predictions; remove the file")
    return set(done)
