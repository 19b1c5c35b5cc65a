"""MRAG-Bench: 1,353 multiple-choice questions that a second view of the thing would help to answer.

A record (parquet, one split, `test`): id, aspect, scenario, image, gt_images, question, A, B, C, D,
answer_choice (a letter), answer (its text), image_type, source, retrieved_images. Pictures are embedded;
gt_images and retrieved_images (nine tenths of the 4.7 GB) are not read: knowledge comes from the retriever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from comem.benchmarks.base import Benchmark, Scorer, authors_scorer
from comem.benchmarks.files import DataFiles, HubFiles, parquet_rows, question_text
from comem.benchmarks.scoring import (
    Answers,
    Rows,
    ScoreFiles,
    checked_text,
    in_split,
    keyed,
    match,
    mean_report,
    means_by,
)
from comem.benchmarks.text import extract_answer, normalize
from comem.io.files import RecordError
from comem.types import Example, Report

LETTERS = ("A", "B", "C", "D")
_STRIPPED = ",.!?;:'"


def parse_choice(output: str, choices: Mapping[str, str]) -> str | None:
    """The letter that an output chooses, or None.

    Args:
        output: what the model said.
        choices: text by letter.
    """
    text = output.strip()
    for mark in _STRIPPED:
        text = text.strip(mark)
    text = f" {text} "
    for pattern in ("({})", " {} "):
        found = {letter: text.rfind(pattern.format(letter)) for letter in LETTERS}
        if max(found.values()) >= 0:
            return max(found, key=lambda letter: found[letter])
    if len(text.split()) <= 5:
        return None
    lower = text.lower()
    found = {letter: lower.rfind(choice.lower()) for letter, choice in choices.items()}
    best = max(found, key=lambda letter: found[letter], default=None)
    return best if best is not None and found[best] >= 0 else None


NOTE = "overall: MRAG-Bench's rules, a letter. overall_named: an option named by its text counts, too"


def evaluate(outputs: Answers, rows: Rows, benchmark: str = "mrag_bench") -> Report:
    """Score outputs by id against rows with gt_choice, choices and scenario.

    The official pipeline gives what its rules cannot parse to a language model, which would accept the
    text of an option: `overall_named` does so for texts that are equal after normalisation.
    """
    names = match(outputs, rows)
    chosen = {name: parse_choice(outputs[name], rows[name]["choices"]) for name in names}
    named = {name: choice or _named(outputs[name], rows[name]["choices"]) for name, choice in chosen.items()}
    values, with_texts = (
        {name: float(each[name] == rows[name]["gt_choice"]) for name in names} for each in (chosen, named)
    )
    unparsable = sum(choice is None for choice in chosen.values())
    more = {"overall_named": 100 * sum(with_texts.values()) / len(names), "notes": [NOTE]}
    return report_of(values, rows, benchmark, unparsable, **more)


def _named(text: str, choices: Mapping[str, str]) -> str | None:
    """The letter whose option is this text."""
    said = normalize(text)
    return next((letter for letter, choice in choices.items() if said and normalize(choice) == said), None)


def evaluate_as_authors(outputs: Answers, rows: Rows, benchmark: str = "mrag_bench") -> Report:
    """As coded: the output's first character; where it is no letter A to D, wrong (no judge)."""
    chosen = {name: outputs[name].strip()[:1] for name in match(outputs, rows)}
    values = {name: float(letter == rows[name]["gt_choice"]) for name, letter in chosen.items()}
    return report_of(values, rows, benchmark, sum(letter not in LETTERS for letter in chosen.values()))


def report_of(
    values: Mapping[str, float], rows: Rows, benchmark: str, unparsable: int, **more: Any
) -> Report:
    """The report over what each answered question earned."""

    def scenario(name: str) -> str:
        return str(rows[name].get("scenario", ""))

    more |= {"by_scenario": means_by(values, scenario), "unparsable": unparsable}
    return mean_report(benchmark, "overall", values, rows, scenario, **more)


def read(files: ScoreFiles) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Outputs and references by id; official result files carry their references.

    Raises:
        RecordError: an output that is not text, or a reference without choices or right choice.
    """
    path = files.path("predictions")
    said = keyed(path, torn_tail=True)
    outputs = {
        name: checked_text(row.get("output", row.get("prediction")), name, path) for name, row in said.items()
    }
    apart = "" in files.references
    rows = files.reference_rows() if apart else in_split(said, files.split, path)
    source = files.path("references") if apart else path
    for name, row in rows.items():
        if not isinstance(row.get("choices"), Mapping) or row.get("gt_choice") not in LETTERS:
            remedy = "expected choices {A: …} and gt_choice" if apart else "give --references FILE"
            raise RecordError(f"{source}: {name!r} has no choices or no gt_choice; {remedy}")
    return outputs if files.whole else {n: extract_answer(text) for n, text in outputs.items()}, rows


_COLUMNS = ("id", "scenario", "question", *LETTERS, "answer_choice")
_OPTIONAL = ("aspect", "answer", "image_type", "source")


def load(files: DataFiles) -> Iterator[Example]:
    """Examples of the parquet files; the group is the scenario."""
    for row, name, image, place in parquet_rows(files.path, files.split or "test", "id", _COLUMNS, _OPTIONAL):
        letter = str(row["answer_choice"])
        if letter not in LETTERS:
            raise RecordError(f"{place}: {name!r} has answer_choice {letter!r}; expected A, B, C, D")
        choices = {each: str(row.pop(each)) for each in LETTERS}
        yield Example(
            id=name,
            question=question_text(row, "question", name, place),
            image=image,
            answers=(choices[letter],),
            choices=tuple(choices.values()),
            group=str(row["scenario"]),
            meta={**row, "choices": choices, "gt_choice": letter},
        )


ROW = Benchmark(
    name="mrag_bench",
    loader=load,
    scorer=Scorer(evaluate, "MRAG-Bench: rule-based multiple-choice parser, no judge"),
    authors=authors_scorer(
        evaluate_as_authors,
        'the first character is the answer ("Based on…" is B, "Answer: C" is A); where it is none of A '
        "to D the authors asked gpt-4o-mini, here it is wrong",
    ),
    reader=read,
    source="https://huggingface.co/datasets/uclanlp/MRAG-Bench, test (1,353 questions)",
    licence="CC BY 4.0",
    paper="Hu et al. 2024, arXiv 2410.08182",
    style="letter",
    groups="scenario: nine, from Angle to Others",
    headline=("overall", "overall_named"),
    splits=("test",),
    hub=HubFiles("uclanlp/MRAG-Bench", "data/test-*"),
    files="data/test-*.parquet of https://huggingface.co/datasets/uclanlp/MRAG-Bench",
)
