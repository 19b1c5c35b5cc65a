"""From files and options to a report: the scorer, its statistics and its warnings."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from comem.benchmarks import (
    aokvqa,
    cvqa,
    evqa,
    infoseek,
    mrag_bench,
    oven,
    paper,
)
from comem.benchmarks import (
    infoseek as infoseek_counts,
)
from comem.benchmarks import (
    okvqa as vqa,
)
from comem.benchmarks import (
    viquae as squad,
)
from comem.benchmarks.paper import WARNINGS
from comem.benchmarks.score_files import ScoreFiles
from comem.benchmarks.statistics import Bootstrap, with_statistics
from comem.eval.compare import compare
from comem.tables import Table
from comem.types import Report

if TYPE_CHECKING:
    from comem.benchmarks.statistics import Combine

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


def score_files(
    benchmark: str, files: ScoreFiles, scorer: str = "official", bootstrap: Bootstrap | None = None
) -> Report:
    """Score a benchmark's files.

    Args:
        benchmark: a row of the table of scorers.
        files: what there is to score.
        scorer: "official", or "paper" for what the authors' code computed.
        bootstrap: how intervals are drawn; as by default without it.

    Raises:
        ValueError: an unknown benchmark or scorer, or files that cannot be scored.
    """
    row = SCORER_SETS[scorer][benchmark]
    with _no_collection():
        return finished(row.evaluate(files), row, scorer, bootstrap)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without garbage collection: millions of rows stay, and going through them again and again is slow."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def finished(report: Report, row: Scorer, scorer: str, bootstrap: Bootstrap | None = None) -> Report:
    """The report with its statistics, the scorer's name and definition, and what is wrong with it."""
    report = with_statistics(report, bootstrap or Bootstrap(), row.combined, row.missing_wrong)
    notes = list(report.metrics.get("notes", ()))
    if row.warning:
        notes.insert(0, f"the {scorer} scorer is not the benchmark's: {row.warning}")
    facts = {"scorer": scorer, "definition": row.definition, "notes": notes}
    return replace(report, metrics={**report.metrics, **facts})


def comparison(first: Report, second: Report, bootstrap: Bootstrap | None = None) -> dict[str, Any]:
    """Two reports over the same questions, metric by metric (see `comem.eval.compare.Comparison`).

    Raises:
        ValueError: they have no metric or no answered question in common.
    """
    common = [metric for metric in first.scores if metric in second.scores]
    if not common:
        raise ValueError("the two runs have no metric in common; score both by the same scorer")
    drawn = bootstrap or Bootstrap()
    return {
        metric: asdict(compare(first.scores[metric], second.scores[metric], drawn))
        for metric in common
        if any(score.answered for score in second.scores[metric])
    }
