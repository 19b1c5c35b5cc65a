"""Questions to train on: one JSONL record a question.

A record::

    {"id": "q1", "language": "en", "image": "images/q1.png",
     "question": "When was it built?", "answer": "1889", "answers": ["1889", "in 1889"],
     "knowledge": [{"id": "w7", "text": "The tower …", "image": "images/w7.png", "language": "en"}]}

| field | also written | meaning |
|---|---|---|
| id | data_id, question_id | unique in the file |
| question + answer(s) | conversations | one turn, or a list of turns `{"question", "answer"}`, or LLaVA's `{"from": "human" or "gpt", "value"}` |
| image | image_path, images | a path, or several; relative ones start at the file's folder; may be absent; a turn of `conversations` may have an `image` of its own |
| answers | answer | accepted strings; the first is the one trained on |
| knowledge | | items, best first |
| knowledge_ids | | their ids instead, looked up in a knowledge file |
| language | | a code; en when absent |
| source | origin | where the record comes from; counted by comem data check |

Only the first `max_items` readable items of a question are used (see the collator).
"""  # noqa: E501

from __future__ import annotations

import gzip
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comem.records import RecordError, read_jsonl
from comem.training.lessons import Lesson
from comem.types import ImageRef, KnowledgeItem, Message

_SPECIAL = re.compile(r"<\|[a-z_]+\|>")
_IMAGE_MARK = re.compile(r"\n?<image>\n?")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


@dataclass(frozen=True)
class TrainingExample:
    """A question with its answer (or a dialogue), each turn's pictures, and the items, best first.

    `lesson` is how the step teaches it; as it is read, by its answer alone.
    """

    id: str
    turns: tuple[tuple[str, str], ...]
    pictures: tuple[tuple[ImageRef, ...], ...] = ()
    items: tuple[KnowledgeItem, ...] = ()
    answers: tuple[str, ...] = ()
    language: str = "en"
    lesson: Lesson = Lesson()
    source: str = ""

    def messages(self, last_answer: bool = True) -> list[Message]:
        """The dialogue as chat turns, pictures first; without the last answer for generation."""
        turns: list[Message] = []
        for number, (question, answer) in enumerate(self.turns):
            pictures = self.pictures[number] if number < len(self.pictures) else ()
            turns.append(Message("user", (*pictures, question)))
            turns.append(Message("assistant", (answer,)))
        return turns if last_answer else turns[:-1]

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """The pictures of all turns, in order."""
        return tuple(itertools.chain(*self.pictures))


def load_examples(path: str | Path, knowledge: str | Path | None = None) -> list[TrainingExample]:
    """Read a file of questions.

    Args:
        path: JSONL (or .jsonl.gz) of the records above.
        knowledge: file in which `knowledge_ids` are looked up, see `load_knowledge`.

    Raises:
        RecordError: naming file and line, for a record that breaks the schema or repeats an id.
        ValueError: for an empty file.
    """
    path = Path(path)
    table = load_knowledge(knowledge) if knowledge else None
    examples: dict[str, TrainingExample] = {}
    for number, row in enumerate(read_jsonl(path), start=1):
        with _placed(path, number):
            example = parse_example(row, path.parent, table)
            if example.id in examples:
                raise ValueError(f"the id {example.id!r} is there already; ids are unique in a file")
            examples[example.id] = example
    if not examples:
        raise ValueError(f"{path} holds no question; one JSON record a line is expected")
    return list(examples.values())


def load_knowledge(path: str | Path) -> dict[str, KnowledgeItem]:
    """Knowledge items by id, from JSONL `{"id", "text", "image", "language"}` or a WIT TSV (.tsv[.gz])."""
    path = Path(path)
    if ".tsv" in path.suffixes:
        from comem.retrieval.corpus import read_wit

        return {item.id: item for item in read_wit(path)}
    items: dict[str, KnowledgeItem] = {}
    for number, row in enumerate(read_jsonl(path), start=1):
        with _placed(path, number):
            item = _item(row, path.parent)
            if item.id in items:
                raise ValueError(f"the id {item.id!r} is there already; ids are unique in a file")
            items[item.id] = item
    return items


def parse_example(
    row: Mapping[str, Any], folder: Path, table: Mapping[str, KnowledgeItem] | None = None
) -> TrainingExample:
    """One record as a `TrainingExample`; `ValueError` says what is wrong with it."""
    identifier = _first(row, "id", "data_id", "question_id")
    if identifier is None:
        raise ValueError("no field 'id'")
    answers = _answers(row)
    turns = _turns(row, answers)
    images = _first(row, "image", "image_path", "images")
    return TrainingExample(
        id=_plain(identifier, "id"),
        turns=turns,
        pictures=(tuple(_image(one, folder) for one in _list(images)), *_later_pictures(row, folder)),
        items=tuple(_items(row, folder, table)),
        answers=answers or (turns[-1][1],),
        language=_plain(row.get("language", "en"), "language"),
        source=_plain(_first(row, "origin", "source") or "", "source"),
    )


def _turns(row: Mapping[str, Any], answers: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The (question, answer) pairs of a record in any of the three notations."""
    conversations = row.get("conversations")
    if conversations is None:
        if "question" not in row or not answers:
            raise ValueError("needs 'question' with 'answer' or 'answers', or 'conversations'")
        pairs = [(row["question"], answers[0])]
    elif not isinstance(conversations, list) or not conversations:
        raise ValueError("'conversations' must be a non-empty list of turns")
    elif all(isinstance(turn, dict) and "from" in turn for turn in conversations):
        pairs = _llava_pairs(conversations)
    elif all(isinstance(turn, dict) and {"question", "answer"} <= turn.keys() for turn in conversations):
        pairs = [(turn["question"], turn["answer"]) for turn in conversations]
    else:
        raise ValueError("a turn has 'question' and 'answer', or 'from' and 'value'")
    return tuple((_text(question, "question"), _text(answer, "answer")) for question, answer in pairs)


def _later_pictures(row: Mapping[str, Any], folder: Path) -> Iterator[tuple[ImageRef, ...]]:
    """The pictures of the second and later turns; the first turn's stand in the record itself."""
    for turn in (row.get("conversations") or ())[1:]:
        if "question" in turn:
            yield tuple(_image(one, folder) for one in _list(turn.get("image")))


def _llava_pairs(conversations: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Any]]:
    """LLaVA's alternating human and gpt turns as pairs."""
    roles = [_ROLES.get(str(turn["from"])) for turn in conversations]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError(f"turns must alternate human, gpt; got {[turn['from'] for turn in conversations]}")
    values = [turn.get("value") for turn in conversations]
    return list(zip(values[::2], values[1::2], strict=True))


def _items(
    row: Mapping[str, Any], folder: Path, table: Mapping[str, KnowledgeItem] | None
) -> Iterator[KnowledgeItem]:
    """The knowledge of a record: inline items, then looked-up ones."""
    for item in _list(row.get("knowledge")):
        yield _item(item, folder)
    for identifier in _list(row.get("knowledge_ids")):
        if table is None:
            raise ValueError("has 'knowledge_ids' but no knowledge file was given; set knowledge=FILE")
        if str(identifier) not in table:
            raise ValueError(f"the knowledge id {identifier!r} is not in the knowledge file")
        yield table[str(identifier)]


def _item(row: Any, folder: Path) -> KnowledgeItem:
    """One knowledge item of a record."""
    if not isinstance(row, dict) or "id" not in row:
        raise ValueError(f"a knowledge item is an object with 'id', 'text', 'image'; got {row!r:.80}")
    text, image = row.get("text") or "", row.get("image")
    if not isinstance(text, str):
        raise ValueError(f"the text of the knowledge item {row['id']!r} is no text: {text!r:.80}")
    if not text.strip() and not image:
        raise ValueError(f"the knowledge item {row['id']!r} has neither text nor image")
    ref = _image(image, folder) if image else None
    language, source = (
        _plain(row.get(name, usual), name) for name, usual in (("language", "en"), ("source", ""))
    )
    return KnowledgeItem(_plain(row["id"], "id"), text, ref, source, language)


def _image(value: Any, folder: Path) -> ImageRef:
    """A path of a record, relative to the file's folder."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"an image is a path; got {value!r:.80}")
    return ImageRef(path=str(folder / value))


def _text(value: Any, name: str) -> str:
    """A question or answer without image marks; chat markup in it would break the labels."""
    if not isinstance(value, str) or not _IMAGE_MARK.sub("", value).strip():
        raise ValueError(f"the {name} must be a non-empty string; got {value!r:.80}")
    if found := _SPECIAL.search(value):
        raise ValueError(f"the {name} contains the chat markup {found.group()!r}; remove it")
    return _IMAGE_MARK.sub("", value).strip()


def _answers(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The accepted answers, the one to train on first."""
    given = [*_list(row.get("answer")), *_list(row.get("answers"))]
    return tuple(dict.fromkeys(_plain(answer, "answer") for answer in given))


def _plain(value: Any, name: str) -> str:
    """A text, or a number as one; what else stands in a file was not meant."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"the {name} must be a text; got {value!r:.80}")
    return str(value)


def _first(row: Mapping[str, Any], *names: str) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


@contextmanager
def _placed(path: Path, record: int) -> Iterator[None]:
    """Turn a ValueError inside into a RecordError that starts with file:line."""
    try:
        yield
    except RecordError:
        raise
    except ValueError as error:
        raise RecordError(f"{path}:{_line_of(path, record)}: {error}") from error


def _line_of(path: Path, record: int) -> int:
    """The line on which the record stands; counted only for an error, since blank lines are skipped."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
        filled = (line for line, raw in enumerate(file, start=1) if raw.strip())
        return next(itertools.islice(filled, record - 1, None), record)
