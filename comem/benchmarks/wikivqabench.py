"""WikiVQABench: 344 multiple-choice questions about Wikipedia's pictures that need Wikidata's facts.

A record (parquet, one split, `train`): image (base64), question, correct (the right answer), wrongs (three
others). There are no ids: a record's is its place. The published code puts the options in an order of chance
at each run; here the order hangs on the question, so that it is the same everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from comem.benchmarks.base import Benchmark, Scorer
from comem.benchmarks.files import DataFiles, HubFiles, find_parquet, named_image, question_text, read_parquet
from comem.benchmarks.scoring import Answers, match, mean_report
from comem.io.files import RecordError
from comem.types import Example, Report

LETTERS = "ABCD"
_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))


def parse_choice(answer: str, options: Sequence[str]) -> str:
    """The letter that an answer chooses; "" where it chooses none, or several.

    VLMEvalKit's exact matching: the one option's letter among the words, else the one option whose text is
    in the answer, unless that is more than twice as long as all options together.

    Args:
        answer: what was said.
        options: their texts, in the order in which they were asked.
    """
    words, lower = set(answer.translate(_MARKS).split()), answer.lower()
    said = [letter for letter in LETTERS[: len(options)] if letter in words]
    if len(said) == 1:
        return said[0]
    if len(answer) > 2 * sum(map(len, options)):
        return ""
    named = [at for at, option in zip(LETTERS, options, strict=False) if option.lower() in lower]
    return named[0] if len(named) == 1 else ""


def evaluate(answers: Answers, examples: Mapping[str, Example], benchmark: str = "wikivqabench") -> Report:
    """Accuracy; an answer that chooses no option is wrong, and counted apart."""
    chosen = {name: parse_choice(answers[name], examples[name].choices) for name in match(answers, examples)}
    values = {name: float(letter == examples[name].meta["letter"]) for name, letter in chosen.items()}
    return mean_report(
        benchmark, "accuracy", values, examples, unparsable=sum(not letter for letter in chosen.values())
    )


def load(files: DataFiles) -> Iterator[Example]:
    """Examples of the published file, or its folder."""
    (place, *_) = parts = find_parquet(files.path, files.split or "train")
    for number, row in enumerate(read_parquet(parts, ("image", "question", "correct", "wrongs"))):
        yield _example(row, f"wikivqabench_{number:04d}", place)


def _example(row: dict[str, Any], name: str, file: Any) -> Example:
    question, right = question_text(row, "question", name, file), row["correct"]
    wrong = [str(each) for each in row["wrongs"] or ()]
    if not isinstance(right, str) or not right.strip() or len(wrong) != 3:
        raise RecordError(f"{file}: {name!r} has no right and three wrong answers; fetch it again")
    image = named_image(None, row.pop("image"), file)
    options = [right, *wrong]
    random.Random(question).shuffle(options)
    letter = LETTERS[options.index(right)]
    return Example(
        id=name, question=question, image=image, answers=(right,), choices=tuple(options),
        meta={**row, "letter": letter},
    )  # fmt: skip


ROW = Benchmark(
    name="wikivqabench",
    loader=load,
    scorer=Scorer(
        evaluate,
        "VLMEvalKit's exact matching (IBM's fork): one letter, else one option's text; the rest is wrong, "
        "no language model judges",
    ),
    source="https://huggingface.co/datasets/ibm-research/WikiVQABench, train (344 questions)",
    licence="Apache-2.0; pictures: Wikimedia's, each its own",
    paper="Shbita et al. 2026, arXiv 2605.21479",
    style="letter",
    groups="none: the records name none",
    splits=("train",),
    hub=HubFiles("ibm-research/WikiVQABench"),
    files="data/train-*.parquet of https://huggingface.co/datasets/ibm-research/WikiVQABench",
    images="embedded in the parquet files",
)
