"""Every fault of a file of training records, with its line, field and remedy."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from comem.config import option, take_paths
from comem.io.console import Progress, print_facts, print_line, print_table, quiet
from comem.io.files import DAMAGED, open_binary, write_atomic
from comem.io.images import why_not
from comem.io.page import render
from comem.training.data import TrainingExample, load_knowledge, parse_example, parsed
from comem.types import ImageRef

if TYPE_CHECKING:
    from comem.training.collator import Collator

_SHOWN = 50  # faults
_SIDE = 160  # pixels of a thumbnail


@dataclass(frozen=True)
class CheckSettings:
    """Looking through a file of training records, described field by field in docs/training_data.md.

    Attributes:
        file: JSONL, or .jsonl.gz.
        knowledge: items for knowledge_ids: JSONL, TSV.
        model: lengths are counted in its tokens (default: in characters), and what a training with it would
            pass over is a fault.
        max_tokens: longest question with answer, in the model's tokens, as train's.
        html: a page with samples, to be written.
        samples: questions on the page.
        seed: draws them.
        images: open the images, each file once.
    """

    file: Path = option(positional=True, metavar="FILE")
    knowledge: Path | None = option(None, metavar="FILE")
    model: str = option("", metavar="NAME")
    max_tokens: int = 32768
    html: Path | None = option(None, metavar="FILE")
    samples: int = 20
    seed: int = 0
    images: bool = option(True, also=("--pictures",))

    def __post_init__(self) -> None:
        take_paths(self)
        if self.samples < 0:
            raise ValueError(f"samples {self.samples}: give 0 or more")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens {self.max_tokens}: give 1 or more")


#: What an error's text is about: pattern, field, remedy (empty where the text says it).
_FIELDS = (
    (r"field 'id'", "id", "give every record an id of its own"),
    (r"id .* is there already", "id", "rename or remove one of the two"),
    (r"^needs 'question'|^the question ", "question", "give a non-empty text without chat markup"),
    (
        r"^turns |^a turn |^'conversations'",
        "conversations",
        "see the table of fields in docs/training_data.md",
    ),
    (r"^the (id|language|source) must be", r"\1", "give a text, such as a name or a code"),
    (r"^the answer ", "answer", "give a non-empty text without chat markup"),
    (r"knowledge_ids|knowledge id", "knowledge_ids", "give --knowledge FILE with these ids"),
    (r"knowledge item", "knowledge", "give each item 'id' and 'text' or 'image'"),
    (r"<image> marks", "image", "give each mark its image, or take the mark out"),
    (
        r"an image is a path|an image's dict|one image is expected",
        "image",
        "give a path relative to the file's folder",
    ),
)


@dataclass(frozen=True)
class Fault:
    """What is wrong in a file: line (from 1), field ("" for the whole line), what, and what to do."""

    line: int
    field: str
    problem: str
    remedy: str


@dataclass
class Check:
    """What a file holds: its readable questions, its faults, lengths (`length_statistics`), and counts."""

    path: Path
    examples: list[TrainingExample] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    records: int = 0
    repaired: int = 0
    lengths: dict[str, dict[str, float]] = field(default_factory=dict)

    def counts(self) -> dict[str, Any]:
        """Records, readable and repaired ones, by language, source and items; images, dialogues, items."""
        items = Counter(len(example.items) for example in self.examples)
        return {
            "records": self.records,
            "readable": len(self.examples),
            "faults": len(self.faults),
            "repaired": self.repaired,
            "languages": dict(Counter(example.language for example in self.examples).most_common()),
            "sources": dict(Counter(example.source for example in self.examples).most_common()),
            "items_a_question": dict(sorted(items.items())),
            "distinct_items": len({item.id for example in self.examples for item in example.items}),
            "with_picture": sum(bool(example.images) for example in self.examples),
            "dialogues": sum(len(example.turns) > 1 for example in self.examples),
        }


def check(settings: CheckSettings, progress: Progress = quiet) -> Check:
    """Read a file of training records to its end, whatever is wrong with it; write the page, if wanted.

    Raises:
        ValueError: the file holds no record.
        OSError: it cannot be read.
    """
    result = Check(settings.file)
    length = _tokens_of(settings.model) if settings.model else len
    table = load_knowledge(settings.knowledge) if settings.knowledge else None
    opened: dict[ImageRef, str] = {}
    collator = _collator(settings) if settings.model and settings.images else None
    with progress("checking", unit="records") as advance:
        for line in parsed(_lines(result), lambda row: parse_example(row, result.path.parent, table)):
            result.records += 1
            result.repaired += line.repaired
            if line.record is None:
                result.faults.append(_fault(line.number, line.problem))
            else:
                result.examples.append(line.record)
                faults = list(_image_faults(line.number, line.record, opened)) if settings.images else []
                if collator is not None and not faults:
                    faults = [Fault(line.number, *said) for said in _passed_over(collator, line.record)]
                result.faults.extend(faults)
            advance()
    if not result.records:
        raise ValueError(f"{settings.file} holds no question; one JSON record a line is expected")
    result.lengths = length_statistics(result.examples, length)
    if settings.html:
        write_atomic(settings.html, page(result, settings.samples, settings.seed))
    return result


def _tokens_of(model: str) -> Callable[[str], int]:
    """How many tokens of a backbone a text has."""
    from comem.backbones.specs import load_processor, resolve_backbone

    tokenizer = load_processor(resolve_backbone(model).source, "AutoTokenizer")
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _collator(settings: CheckSettings) -> Collator:
    """What a training with the model reads records with; the model itself is not loaded."""
    from comem.training.plan import meta_backbone
    from comem.training.run import build_collator, knowledge_format
    from comem.training.settings import TrainSettings

    given = TrainSettings(model=settings.model, data=str(settings.file), max_tokens=settings.max_tokens)
    backbone = meta_backbone(settings.model)
    return build_collator(given, backbone, knowledge_format(given, backbone))


def _passed_over(collator: Collator, example: TrainingExample) -> Iterator[tuple[str, str, str]]:
    """Field, problem and remedy of what a training could not read."""
    for said in collator.readable([example])[1]:
        what, _, problem = said.partition(": ")
        field = "knowledge" if what.startswith("item ") else ""
        yield field, problem, "comem train passes it over"


def _lines(result: Check) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank; where a compressed file is damaged, that is the last fault."""
    line = 0
    try:
        with open_binary(result.path) as file:
            for line, raw in enumerate(file, start=1):
                if raw.strip():
                    yield line, raw
    except DAMAGED as error:
        result.faults.append(Fault(line + 1, "", f"damaged gzip file ({error})", "copy it again"))


def _fault(line: int, problem: str) -> Fault:
    if problem.startswith("not JSON"):
        return Fault(
            line, "", problem.removesuffix("; repair or remove the line"), "repair or remove the line"
        )
    for pattern, name, remedy in _FIELDS:
        if match := re.search(pattern, problem):
            return Fault(line, match.expand(name), problem, remedy)
    return Fault(line, "", problem, "see the table of fields in docs/training_data.md")


def _image_faults(line: int, example: TrainingExample, opened: dict[ImageRef, str]) -> Iterator[Fault]:
    """Images that do not open: of the turns, and of the items."""
    named = [("image", image) for image in example.images]
    named += [(f"knowledge[{at}].image", item.image) for at, item in enumerate(example.items) if item.image]
    for name, image in named:
        if image not in opened:
            opened[image] = why_not(image)
        if problem := opened[image]:
            yield Fault(line, name, problem, "put the image there, or take it out of the record")


def length_statistics(
    examples: list[TrainingExample], length: Callable[[str], int]
) -> dict[str, dict[str, float]]:
    """Lengths of questions, answers and passages (each item once): count, mean, median, 95 %, longest."""
    passages = {item.id: item.text for example in examples for item in example.items}
    turns = list(itertools.chain(*(example.turns for example in examples)))
    texts = {
        "questions": [question for question, _ in turns],
        "answers": [answer for _, answer in turns],
        "passages": [text for text in passages.values() if text],
    }
    return {name: _summary(sorted(map(length, values))) for name, values in texts.items() if values}


def _summary(lengths: list[int]) -> dict[str, float]:
    def rank(part: float) -> int:
        return lengths[min(len(lengths) - 1, int(part * len(lengths)))]

    return {
        "count": len(lengths), "mean": round(fmean(lengths), 1), "median": rank(0.5), "p95": rank(0.95),
        "max": lengths[-1],
    }  # fmt: skip


def page(check: Check, samples: int = 20, seed: int = 0) -> str:
    """HTML with the counts, the faults and a seeded sample of the questions; images are embedded."""
    chosen = random.Random(seed).sample(check.examples, min(samples, len(check.examples)))
    faults = [astuple(fault) for fault in check.faults]
    shown = {"counts": check.counts(), "faults": faults, "samples": chosen, "side": _SIDE}
    return render("check", title=check.path.name, **shown)


def show_check(found: Check, settings: CheckSettings) -> int:
    """Print counts, lengths and faults; 1 if there are faults."""
    print_facts([(name.replace("_", " "), str(value)) for name, value in found.counts().items()])
    unit = "tokens" if settings.model else "characters"
    rows = [
        (name, *(f"{number:,}" for number in summary.values())) for name, summary in found.lengths.items()
    ]
    print_table((f"{unit} in", "count", "mean", "median", "95 %", "longest"), rows)
    for fault in found.faults[:_SHOWN]:
        where = f"{found.path}:{fault.line}:" + (f" {fault.field}:" if fault.field else "")
        print_line(f"{where} {fault.problem}; {fault.remedy}")
    if (more := len(found.faults) - _SHOWN) > 0:
        print_line(f"… and {more:,} more; --html FILE shows all")
    if settings.html:
        print_facts([("page", str(settings.html))])
    return 1 if found.faults else 0
