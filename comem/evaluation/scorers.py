"""The table of scorers: which function scores a benchmark's files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from comem.evaluation import aokvqa, infoseek, mrag_bench, oven, squad, vqa
from comem.evaluation.files import ScoreFiles
from comem.tables import Table
from comem.types import Report


@dataclass(frozen=True)
class Scorer:
    """How a benchmark's files are scored.

    Args:
        evaluate: from files to report.
        definition: the official definition, in a line, with its source.
        headline: the metrics that a table shows first.
        parts: the parts that predictions and references come in ("" for one file).
    """

    evaluate: Callable[[ScoreFiles], Report]
    definition: str
    headline: tuple[str, ...]
    parts: tuple[str, ...] = ("",)


_INFOSEEK = (
    "edchengg/infoseek_eval: exact match, or number in range (IoU >= 0.5); harmonic mean of the unseen splits"
)


def _infoseek(name: str) -> Scorer:
    headline = ("final_score", "unseen_question_score", "unseen_entity_score", "accuracy")
    return Scorer(partial(infoseek.evaluate_files, benchmark=name), _INFOSEEK, headline)


_LIKE_INFOSEEK = (
    "infoseek", "infoseek_bg", "infoseek_zh", "infoseek_pt", "infoseek_ru", "infoseek_es", "flags", "toy",
)

_OTHERS = {
    "oven": Scorer(
        oven.evaluate_files,
        "edchengg/oven_eval: Wikidata id accuracy; harmonic means of seen and unseen, of query and entity",
        ("final_score", "query_score", "entity_score"),
        parts=oven.PARTS,
    ),
    "okvqa": Scorer(
        vqa.evaluate_files, "GT-Vision-Lab/VQA: soft accuracy with its answer processing", ("overall",)
    ),
    "aokvqa": Scorer(
        aokvqa.evaluate_files,
        "allenai/aokvqa: direct answer min(count/3, 1), multiple choice accuracy; missing ones earn 0",
        aokvqa.TASKS,
    ),
    "viquae": Scorer(
        squad.evaluate_files, "PaulLerner/ViQuAE: SQuAD exact match and F1", ("exact_match", "f1")
    ),
    "mrag_bench": Scorer(
        mrag_bench.evaluate_files, "MRAG-Bench: rule-based multiple-choice parser, no judge", ("overall",)
    ),
}

SCORERS: Table[Scorer] = Table(
    "benchmark", {**{name: _infoseek(name) for name in _LIKE_INFOSEEK}, **_OTHERS}
)
