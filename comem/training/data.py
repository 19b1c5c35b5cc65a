"""How a question is taught in one step, past the paper: fewer embeddings, wrong items.

What is drawn is a function of the seed, the step and the question's id: a resumed run, and a run on
other processes, draw the same. Nothing is drawn by default (docs/past_the_paper.md).
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from PIL import Image

from comem.io.files import RecordError, is_missing, numbered_lines, parse_line, short, warn_of_repairs
from comem.io.images import image_ref
from comem.training.settings import TrainSettings
from comem.types import ImageRef, KnowledgeItem, Message, VideoRef

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lesson:
    """How one question is taught.

    Attributes:
        embeddings: how many of each item's embeddings the reader gets, the first ones; 0 for all.
        plain: it learns what the reader says without items, instead of the answer.
    """

    embeddings: int = 0
    plain: bool = False


class Lessons:
    """Draws each question's lesson and items for a step.

    Args:
        settings: of the run.
        examples: the training set; wrong items are drawn from it.
    """

    def __init__(self, settings: TrainSettings, examples: Sequence[TrainingExample]) -> None:
        self.seed, self.max_items = settings.seed, settings.max_items
        self.elastic, self.wrong_items = settings.elastic, settings.wrong_items
        self.stages = settings.vectors
        self.pool: tuple[KnowledgeItem, ...] = ()
        if self.wrong_items:
            self.pool = tuple({item.id: item for example in examples for item in example.items}.values())

    def __call__(self, step: int, example: TrainingExample) -> TrainingExample:
        """The question as it is taught in this step; one without items as it stands."""
        own = example.items[: self.max_items]
        if not own:
            return example
        rng = random.Random(f"lesson/{self.seed}/{step}/{example.id}")
        embeddings = rng.choice(self.elastic) if self.elastic else 0
        if rng.random() < self.wrong_items and (others := self._others(rng, own, len(own))):
            return dataclasses.replace(example, items=others, lesson=Lesson(embeddings, plain=True))
        return dataclasses.replace(example, lesson=Lesson(embeddings))

    def vectors(self, step: int) -> int:
        """How many vectors an item has in a step; 0 for the encoder's own number.

        Where a stage names several, each step draws one of them.
        """
        stages = [stage.split(":") for stage in self.stages]
        counts = [counts for first, counts in stages if int(first) <= step]
        if not counts:
            return 0
        return int(random.Random(f"vectors/{self.seed}/{step}").choice(counts[-1].split("|")))

    def _others(
        self, rng: random.Random, own: Sequence[KnowledgeItem], count: int
    ) -> tuple[KnowledgeItem, ...]:
        """So many items that show and say something else than a question's own; fewer if there are none."""
        found: dict[str, KnowledgeItem] = {}
        for _ in range(20 * count):
            if len(found) == count or not self.pool:
                break
            item = rng.choice(self.pool)
            if not any(_alike(item, other) for other in own):
                found[item.id] = item
        return tuple(found.values())


def _alike(one: KnowledgeItem, other: KnowledgeItem) -> bool:
    """Whether two items share their image or their text, so that one may help where the other does."""
    same_image = one.image is not None and one.image == other.image
    return one.id == other.id or same_image or (bool(one.text) and one.text == other.text)


_SPECIAL = re.compile(r"<\|[a-z_]+\|>")
_IMAGE_MARK = re.compile(r"<image>")
_MARKS = re.compile(r"\s*(?:<image>\s*)+")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


@dataclass(frozen=True)
class TrainingExample:
    """A question with its answer (or a dialogue), each turn's images, and the items, best first.

    `lesson` is how the step teaches it; as it is read, by its answer alone. `values` are, of each turn, the
    words of its answer that the items tell, the rest being wording; empty where nobody says. A `video` stands
    at the front of the first turn.
    """

    id: str
    turns: tuple[tuple[str, str], ...]
    turn_images: tuple[tuple[ImageRef, ...], ...] = ()
    items: tuple[KnowledgeItem, ...] = ()
    answers: tuple[str, ...] = ()
    language: str = "en"
    lesson: Lesson = Lesson()
    source: str = ""
    values: tuple[str, ...] = ()
    video: VideoRef | None = None

    def messages(self, last_answer: bool = True) -> list[Message]:
        """The dialogue as chat turns, images or video first; without the last answer for generation."""
        turns: list[Message] = []
        for number, (question, answer) in enumerate(self.turns):
            images = self.turn_images[number] if number < len(self.turn_images) else ()
            if self.video is not None and not number:
                turns.append(Message("user", (self.video, "\n" + question)))
            else:
                turns.append(Message("user", (*images, question)))
            turns.append(Message("assistant", (answer,)))
        return turns if last_answer else turns[:-1]

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """The images of all turns, in order."""
        return tuple(itertools.chain(*self.turn_images))


_NAMED = 20  # records that are passed over


class _Named(Protocol):
    @property
    def id(self) -> str: ...


Parsed = TypeVar("Parsed", bound=_Named)


@dataclass(frozen=True)
class Line(Generic[Parsed]):
    """What a line of a file holds: a record, or the reason why it cannot be used."""

    number: int
    record: Parsed | None
    problem: str = ""
    repaired: bool = False


def parsed(
    lines: Iterable[tuple[int, bytes]], parse: Callable[[Mapping[str, Any]], Parsed]
) -> Iterator[Line[Parsed]]:
    """What each line holds; of records with the same id, the first can be used."""
    seen: dict[str, int] = {}
    for number, raw in lines:
        repaired = False
        try:
            row, repaired = parse_line(raw)
            record = parse(row)
            if (first := seen.setdefault(record.id, number)) != number:
                raise ValueError(f"the id {record.id!r} is there already, on line {first}")
        except ValueError as error:
            yield Line(number, None, short(str(error), 400), repaired)
        else:
            yield Line(number, record, "", repaired)


def _usable(
    path: Path, parse: Callable[[Mapping[str, Any]], Parsed], passed: list[str] | None
) -> list[Parsed]:
    """The records that can be used; the others are named, and added to `passed`.

    Raises:
        RecordError: there are only others; the file cannot be read.
    """
    lines = list(parsed(numbered_lines(path), parse))
    faults = [f"{path}:{line.number}: {line.problem}" for line in lines if line.record is None]
    found = [line.record for line in lines if line.record is not None]
    pass_over(path, faults, len(lines), passed)
    warn_of_repairs(path, [line.number for line in lines if line.repaired])
    return found


def pass_over(path: str | Path, faults: Sequence[str], count: int, passed: list[str] | None) -> None:
    """Name what cannot be used of a file's records, and add it to `passed`.

    Raises:
        RecordError: there are no others.
    """
    if faults and len(faults) == count:
        more = f" (and {count - 1} more records that cannot be used)" if count > 1 else ""
        raise RecordError(faults[0] + more)
    for fault in faults[:_NAMED]:
        logger.warning("passed over: %s", fault)
    if faults:
        logger.warning(
            "%s: %d of %d records cannot be used and are passed over; comem data check lists all",
            path, len(faults), count,
        )  # fmt: skip
    if passed is not None:
        passed += faults


def load_examples(
    path: str | Path, knowledge: str | Path | None = None, passed: list[str] | None = None
) -> list[TrainingExample]:
    """Read a file of questions; a record that breaks the schema or repeats an id is passed over, and named.

    Args:
        path: JSONL (or .jsonl.gz) of the records above.
        knowledge: file in which `knowledge_ids` are looked up, see `load_knowledge`.
        passed: gets file, line and fault of each record that is passed over.

    Raises:
        RecordError: no record can be used, or the file cannot be read; names file and line.
        ValueError: for an empty file.
    """
    path = Path(path)
    table = load_knowledge(knowledge, passed) if knowledge else None
    found = _usable(path, lambda row: parse_example(row, path.parent, table), passed)
    if not found:
        raise ValueError(f"{path} holds no question; one JSON record a line is expected")
    return found


def load_knowledge(path: str | Path, passed: list[str] | None = None) -> dict[str, KnowledgeItem]:
    """Knowledge items by id, from JSONL `{"id", "text", "image", "language"}` or a WIT TSV (.tsv[.gz]).

    A record that cannot be used is passed over, and named, as in `load_examples`.
    """
    path = Path(path)
    if ".tsv" in path.suffixes:
        from comem.retrieval.corpus.sources import find_sources, read_corpus

        return {item.id: item for item in read_corpus(find_sources([path]))}
    found = _usable(path, lambda row: _item(row, path.parent), passed)
    return {item.id: item for item in found}


#: Fields of others' records that hold what no example here carries.
NOT_CARRIED = ("video", "videos", "audio", "audios", "speech")


def parse_example(
    row: Mapping[str, Any], folder: Path, table: Mapping[str, KnowledgeItem] | None = None
) -> TrainingExample:
    """One record as a `TrainingExample`; `ValueError` says what is wrong with it."""
    identifier = _first(row, "id", "data_id", "question_id")
    if identifier is None:
        raise ValueError("no field 'id'")
    if lost := next((key for key in NOT_CARRIED if not is_missing(row.get(key))), None):
        raise ValueError(
            f"it has {lost!r}, which is not read here; lists of videos train encoder=video_memory"
        )
    answers = _answers(row)
    turns = _turns(row, answers)
    images = _images(_first(row, "image", "image_path", "images"), folder)
    values = _values(row, turns)
    return TrainingExample(
        id=_plain(identifier, "id"),
        turns=turns,
        turn_images=(*_by_marks(row, images), *_later_images(row, folder)),
        items=tuple(_items(row, folder, table)),
        answers=answers or (turns[-1][1],),
        language=_plain(_first(row, "language") or "en", "language"),
        source=_plain(_first(row, "origin", "source") or "", "source"),
        values=values,
    )


def _turns(row: Mapping[str, Any], answers: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The (question, answer) pairs of a record in any of the three notations."""
    conversations = _first(row, "conversations")
    if conversations is None:
        if "question" in row and not answers and ("answer" in row or "answers" in row):
            raise ValueError("the answer must be a text; got None")
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


def _values(row: Mapping[str, Any], turns: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Each turn's `value`, a part of its answer; none at all if no turn has one."""
    rows = _first(row, "conversations") or [row]
    values = tuple(
        _plain(one["value"], "value") if "from" not in one and not is_missing(one.get("value")) else ""
        for one in rows
    )
    if not any(values):
        return ()
    for value, (_, answer) in zip(values, turns, strict=True):
        if value not in answer:
            raise ValueError(f"the value {value!r} does not stand in its answer {answer!r:.80}")
    return values


def _by_marks(row: Mapping[str, Any], images: tuple[ImageRef, ...]) -> Iterator[tuple[ImageRef, ...]]:
    """The record's images, each for the turn with its `<image>` mark; without marks, all for the first."""
    turns = [turn for turn in (_first(row, "conversations") or ())[::2] if "from" in turn]
    marks = [len(_IMAGE_MARK.findall(str(turn.get("value")))) for turn in turns]
    if not sum(marks) or not images:
        yield images
        return
    if sum(marks) != len(images):
        raise ValueError(f"{sum(marks)} <image> marks for {len(images)} images; one each is expected")
    left = iter(images)
    for count in marks:
        yield tuple(itertools.islice(left, count))


def _later_images(row: Mapping[str, Any], folder: Path) -> Iterator[tuple[ImageRef, ...]]:
    """The images of the second and later turns; the first turn's stand in the record itself."""
    for turn in (_first(row, "conversations") or ())[1:]:
        if "question" in turn:
            yield _images(turn.get("image"), folder)


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
    if not isinstance(row, dict) or is_missing(row.get("id")):
        raise ValueError(f"a knowledge item is an object with 'id', 'text', 'image'; got {row!r:.80}")
    text = "" if is_missing(row.get("text")) else row["text"]
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise ValueError(f"the text of the knowledge item {row['id']!r:.80} is no text: {text!r:.80}")
    ref = _image(row.get("image"), folder)
    text = str(text)
    if not text.strip() and ref is None:
        raise ValueError(f"the knowledge item {row['id']!r} has neither text nor image")
    language, source = (
        _plain(_first(row, name) or usual, name) for name, usual in (("language", "en"), ("source", ""))
    )
    return KnowledgeItem(_plain(row["id"], "id"), text, ref, source, language)


def _images(value: Any, folder: Path) -> tuple[ImageRef, ...]:
    """The images of a turn, in any form that `image_ref` reads."""
    return tuple(ref for one in _list(value) if (ref := _image(one, folder)) is not None)


def _image(value: Any, folder: Path) -> ImageRef | None:
    """As `image_ref`, but what is no reference at all breaks the schema."""
    ref = image_ref(value, folder)
    if ref is not None and ref.fault and not isinstance(value, str):
        raise ValueError(f"{ref.path}: {ref.fault}")
    return ref


def _text(value: Any, name: str) -> str:
    """A question or answer without image marks; chat markup in it would break the labels."""
    if not isinstance(value, str) or not _IMAGE_MARK.sub("", value).strip():
        raise ValueError(f"the {name} must be a non-empty string; got {value!r:.80}")
    if found := _SPECIAL.search(value):
        raise ValueError(f"the {name} contains the chat markup {found.group()!r}; remove it")
    return _MARKS.sub(lambda found: "\n" if "\n" in found[0] else " ", value).strip()


def _answers(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The accepted answers, the one to train on first."""
    given = [*_list(row.get("answer")), *_list(row.get("answers"))]
    return tuple(dict.fromkeys(_plain(answer, "answer") for answer in given))


def _plain(value: Any, name: str) -> str:
    """A text, or a number as one; what else stands in a file was not meant."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value != value:
        raise ValueError(f"the {name} must be a text; got {value!r:.80}")
    return str(value)


def _first(row: Mapping[str, Any], *names: str) -> Any:
    return next((row[name] for name in names if not is_missing(row.get(name))), None)


def _list(value: Any) -> list[Any]:
    return [one for one in (value if isinstance(value, (list, tuple)) else [value]) if not is_missing(one)]


QUESTION, IMAGE, ITEM, ITEM_IMAGE = "question", "image", "item", "item's image"
PLAIN, PLAIN_IMAGE = "plain", "plain question's image"


def kinds(examples: Sequence[TrainingExample], max_items: int) -> frozenset[str]:
    """Which of a question, its image, an item, its image, a plain question and its image occur."""
    plain = [example for example in examples if example.lesson.plain]
    items = [item for example in examples for item in example.items[:max_items]]
    held = {
        QUESTION: bool(examples),
        IMAGE: any(example.images for example in examples),
        ITEM: bool(items),
        ITEM_IMAGE: any(item.image is not None for item in items),
        PLAIN: bool(plain),
        PLAIN_IMAGE: any(example.images for example in plain),
    }
    return frozenset(kind for kind, present in held.items() if present)


def fillers(missing: frozenset[str]) -> list[TrainingExample]:
    """One short example that has what is missing; none if nothing is."""
    if not missing:
        return []
    image = ImageRef(data=_gray())
    item = KnowledgeItem("filler", "-", image if ITEM_IMAGE in missing else None)
    lesson = Lesson(plain=bool(missing & {PLAIN, PLAIN_IMAGE}))
    return [
        TrainingExample(
            id="filler",
            turns=(("-", "-"),),
            turn_images=((image,) if missing & {IMAGE, PLAIN_IMAGE} else (),),
            items=(item,) if missing & {ITEM, ITEM_IMAGE} else (),
            answers=("-",),
            lesson=lesson,
        )
    ]


def _gray() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (28, 28), "gray").save(buffer, format="PNG")
    return buffer.getvalue()


def select(examples: Sequence[TrainingExample], settings: TrainSettings) -> list[TrainingExample]:
    """The examples that the settings choose, in the file's order.

    Raises:
        ValueError: a language to leave out that no question is in, or nothing is left.
    """
    there = Counter(example.language for example in examples)
    unknown = [code for code in settings.leave_out_languages if code not in there]
    if unknown:
        raise ValueError(
            f"leave_out_languages: no question is in {', '.join(unknown)}; the file has {', '.join(there)}"
        )
    kept = [example for example in examples if example.language not in settings.leave_out_languages]
    if settings.data_fraction < 1:
        names = sorted(example.id for example in kept)
        random.Random(f"data/{settings.seed}").shuffle(names)
        drawn = set(names[: round(settings.data_fraction * len(names))])
        kept = [example for example in kept if example.id in drawn]
    if not kept:
        raise ValueError(
            f"none of {len(examples)} questions is left (data_fraction={settings.data_fraction}, "
            f"leave_out_languages={list(settings.leave_out_languages)}); choose more"
        )
    return kept
