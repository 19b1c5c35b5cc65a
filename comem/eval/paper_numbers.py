"""The paper's printed numbers, from `paper_numbers.tsv` (arXiv 2505.17670, camera-ready tables).

They were computed by the authors' scorers, over the questions answered, without intervals or seeds. InfoSeek,
OK-VQA, A-OKVQA and ViQuAE are exact match as coded there (see `comem.benchmarks`), so that they compare
with `--scorer paper`, not with official scores. Tables 7 to 9 are of parts of COCO, MMMU and MathVista that
the paper does not name.

`field_numbers.tsv` has what others print about knowledge-based VQA, each with its source: their models,
splits and columns differ, so they are beside ours, not below one measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Q, E, ALL = "unseen_question_score.score", "unseen_entity_score.score", "final_score"


@dataclass(frozen=True)
class Printed:
    """One printed number: which table, for which benchmark, metric, mode and model, in percent."""

    table: str
    benchmark: str
    metric: str
    mode: str
    model: str
    value: float


def _printed(line: str) -> Printed:
    table, benchmark, metric, mode, model, value = line.split("\t")
    return Printed(table, benchmark, metric, mode, model, float(value))


_LINES = Path(__file__).with_name("paper_numbers.tsv").read_text(encoding="utf-8").splitlines()[1:]
#: Every number once: Table 2 prints those of baseline and rag again.
PRINTED = tuple(map(_printed, _LINES))


@dataclass(frozen=True)
class FieldNumber:
    """One number that others print, in percent: who, for which benchmark and metric, and what differs."""

    source: str
    benchmark: str
    metric: str
    model: str
    value: float
    note: str


def _of_field(line: str) -> FieldNumber:
    source, benchmark, metric, model, value, note = line.split("\t")
    return FieldNumber(source, benchmark, metric, model, float(value), note)


_FIELD = Path(__file__).with_name("field_numbers.tsv").read_text(encoding="utf-8").splitlines()[1:]
FIELD = tuple(map(_of_field, _FIELD))


def of_field(benchmark: str) -> list[FieldNumber]:
    """What the field prints of a benchmark; InfoSeek's filtered split is the one that most of it means."""
    name = "infoseek" if benchmark == "infoseek_filtered" else benchmark
    return [row for row in FIELD if row.benchmark == name]


def printed(benchmark: str, metric: str) -> list[Printed]:
    """The printed numbers of a benchmark's metric; OVEN's two sets are parts of one benchmark there."""
    name = "oven" if benchmark.startswith("oven_") else benchmark
    return [row for row in PRINTED if row.benchmark == name and row.metric == metric]
