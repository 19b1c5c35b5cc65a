"""The tables of scorers: how a benchmark's files are scored, officially and as the paper's authors did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from comem.evaluation import aokvqa, cvqa, evqa, infoseek, infoseek_counts, mrag_bench, oven, squad, vqa
from comem.evaluation.files import ScoreFiles
from comem.evaluation.paper import scorers as paper
from comem.evaluation.paper.warnings import WARNINGS
from comem.tables import Table
from comem.types import Report

if TYPE_CHECKING:
    from comem.evaluation.statistics import Combine


@dataclass(frozen=True)
class Scorer:
    """How a benchmark's files are scored.

    Args:
        evaluate: from files to report.
        definition: the definition, in a line, with its source.
        headline: the metrics that a table shows first.
        parts: the parts that predictions and references come in ("" for one file).
        combined: numbers made of the groups' means, for their intervals.
        missing_wrong: the metrics count missing predictions as wrong, and so do their intervals.
        rows: from whole outputs and reference rows by id, and a name, to report; only the paper's scorers
            have it, whose answers are not extracted beforehand.
        warning: what is wrong with the numbers.
    """

    evaluate: Callable[[ScoreFiles], Report]
    definition: str
    headline: tuple[str, ...]
    parts: tuple[str, ...] = ("",)
    combined: Mapping[str, Combine] = field(default_factory=dict)
    missing_wrong: bool = False
    rows: Callable[[Mapping[str, str], paper.Rows, str], Report] | None = None
    warning: str = ""


_LIKE_INFOSEEK = (
    "infoseek", "infoseek_bg", "infoseek_zh", "infoseek_pt", "infoseek_ru", "infoseek_es", "flags", "toy",
)  # fmt: skip
_INFOSEEK = (
    "edchengg/infoseek_eval: exact match, or number in range (IoU >= 0.5); harmonic mean of the unseen splits"
)
_INFOSEEK_HEADLINE = ("final_score", "unseen_question_score", "unseen_entity_score", "accuracy")
_OVEN_HEADLINE = ("final_score", "query_score", "entity_score")


def _infoseek(evaluate: Callable[..., Report], name: str, definition: str, **facts: Any) -> Scorer:
    scored = partial(evaluate, benchmark=name)
    return Scorer(scored, definition, _INFOSEEK_HEADLINE, combined=infoseek_counts.COMBINED, **facts)


SCORERS: Table[Scorer] = Table(
    "benchmark",
    {
        **{name: _infoseek(infoseek.evaluate_files, name, _INFOSEEK) for name in _LIKE_INFOSEEK},
        "oven": Scorer(
            oven.evaluate_files,
            "edchengg/oven_eval: Wikidata id accuracy; harmonic means of seen/unseen and of query/entity",
            _OVEN_HEADLINE,
            parts=oven.PARTS,
            combined=oven.COMBINED,
        ),
        "okvqa": Scorer(
            vqa.evaluate_files, "GT-Vision-Lab/VQA: soft accuracy with its answer processing", ("overall",)
        ),
        "aokvqa": Scorer(
            aokvqa.evaluate_files,
            "allenai/aokvqa: direct answer min(count/3, 1), multiple choice accuracy; missing ones earn 0",
            aokvqa.TASKS,
            missing_wrong=True,
        ),
        "viquae": Scorer(
            squad.evaluate_files, "PaulLerner/ViQuAE: SQuAD exact match and F1", ("exact_match", "f1")
        ),
        "mrag_bench": Scorer(
            mrag_bench.evaluate_files, "MRAG-Bench: rule-based multiple-choice parser, no judge", ("overall",)
        ),
        "cvqa": Scorer(
            cvqa.evaluate_files,
            "afaji/cvqa: multiple-choice accuracy over all questions, and by country-language pair",
            ("overall", "macro"),
        ),
        "evqa": Scorer(
            evqa.evaluate_files,
            "google-research/encyclopedic_vqa without BEM: exact match; lists from an IoU of 0.5 on",
            ("exact_match",),
        ),
    },
)

_AUTHORS = "as the authors' code (WenyiWU0111/CoMEM) computes it"


def _paper(evaluate: Callable[..., Report], name: str, rows: Callable[..., Report]) -> Scorer:
    official = SCORERS[name]
    headline = tuple(each for each in official.headline if each not in ("multiple_choice", "f1"))
    return Scorer(evaluate, _AUTHORS, headline, rows=rows, warning=WARNINGS[name])


def _paper_infoseek(name: str) -> Scorer:
    facts = {"rows": paper.infoseek_rows, "warning": WARNINGS["infoseek"]}
    return _infoseek(paper.infoseek_files, name, _AUTHORS, **facts)


#: Encyclopedic-VQA has none: the authors trained on it alone.
PAPER_SCORERS: Table[Scorer] = Table(
    "benchmark",
    {
        **{name: _paper_infoseek(name) for name in _LIKE_INFOSEEK},
        "oven": replace(
            SCORERS["oven"], evaluate=paper.oven_files, definition=_AUTHORS, warning=WARNINGS["oven"]
        ),
        "okvqa": _paper(paper.okvqa_files, "okvqa", paper.okvqa_rows),
        "aokvqa": _paper(paper.aokvqa_files, "aokvqa", paper.aokvqa_rows),
        "viquae": _paper(paper.viquae_files, "viquae", paper.viquae_rows),
        "mrag_bench": _paper(paper.mrag_files, "mrag_bench", paper.mrag_rows),
        "cvqa": _paper(paper.cvqa_files, "cvqa", paper.cvqa_rows),
    },
)

#: The two tables by name.
SCORER_SETS: Table[Table[Scorer]] = Table("scorer", {"official": SCORERS, "paper": PAPER_SCORERS})
