"""The authors' scorers, one for each benchmark, over the same files as the official ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from comem.evaluation import aokvqa, cvqa, infoseek, mrag_bench, oven, squad, vqa
from comem.evaluation.files import ScoreFiles, match, read_predictions
from comem.evaluation.harmonic import harmonic_mean
from comem.evaluation.infoseek import Question, Rules
from comem.evaluation.paper.text import after_colon, boxed, extract, right
from comem.types import Report

Rows = Mapping[str, Mapping[str, Any]]


def _infoseek_right(answer: str, asked: Question) -> bool:
    return right(answer, asked.kind, asked.answers, asked.range)


INFOSEEK_RULES = Rules(extract, _infoseek_right)


def infoseek_rows(
    outputs: Mapping[str, str], rows: Rows, benchmark: str, types: Mapping[str, str] | None = None
) -> Report:
    """InfoSeek as coded."""
    return infoseek.evaluate(outputs, list(rows.values()), types, benchmark, INFOSEEK_RULES)


def infoseek_files(files: ScoreFiles, benchmark: str = "infoseek") -> Report:
    """`infoseek_rows` over the official files."""
    rows, types = infoseek.read_references(files)
    return infoseek_rows(_outputs(files), rows, benchmark, types)


def _outputs(files: ScoreFiles) -> dict[str, str]:
    """Whole outputs: the authors' extractor works on them."""
    return read_predictions(files.path("predictions"), whole=True)


def numpy_answers(answers: Sequence[str]) -> list[str]:
    """The accepted answers as the authors' OK-VQA scorer reads them: printed by numpy, split at "'".

    An answer with an apostrophe falls apart: "don't know" gives `"don` and `t know"`.
    """
    printed = " ".join(map(repr, answers)).replace("[", "").replace("]", "")
    return [part.strip() for part in printed.split("'") if part.strip()]


def okvqa_rows(outputs: Mapping[str, str], rows: Rows, benchmark: str = "okvqa") -> Report:
    """OK-VQA as coded: the normalised output against accepted answers as they stand."""
    values = {}
    for name in match(outputs, rows):
        accepted = numpy_answers([str(each["answer"]) for each in vqa.human_answers(rows[name], name)])
        values[name] = float(extract(outputs[name]) in accepted)
    return vqa.report_of(values, rows, benchmark)


def okvqa_files(files: ScoreFiles) -> Report:
    """`okvqa_rows` over the official files."""
    rows = vqa.read_annotations(files)
    return okvqa_rows(_outputs(files), rows)


def aokvqa_rows(outputs: Mapping[str, str], rows: Rows, benchmark: str = "aokvqa") -> Report:
    """A-OKVQA as coded: any of the direct answers as they stand, difficult ones too, no multiple choice."""
    direct = {name: row for name, row in rows.items() if aokvqa.split_id(name)[1] == "direct_answer"}
    answers = {name: [str(each).strip() for each in row["direct_answers"]] for name, row in direct.items()}
    values = {
        name: float(extract(outputs[name]) in filter(None, answers[name])) for name in match(outputs, answers)
    }
    return squad.report_of({"direct_answer": values}, answers, benchmark)


def aokvqa_files(files: ScoreFiles) -> Report:
    """`aokvqa_rows` over the official files."""
    rows = aokvqa.read_references(files)
    given = aokvqa.read_task_predictions(files.path("predictions"), whole=True)
    return aokvqa_rows(
        {n: tasks["direct_answer"] for n, tasks in given.items() if "direct_answer" in tasks}, rows
    )


def viquae_rows(outputs: Mapping[str, str], rows: Rows, benchmark: str = "viquae") -> Report:
    """ViQuAE as coded: cut behind the last colon, then against accepted answers as they stand; no F1."""
    values = {}
    for name in match(outputs, rows):
        accepted = [answer.strip() for answer in squad.accepted_answers(rows[name], name)]
        values[name] = float(extract(after_colon(outputs[name])) in filter(None, accepted))
    return squad.report_of({"exact_match": values}, rows, benchmark)


def viquae_files(files: ScoreFiles) -> Report:
    """`viquae_rows` over the official files."""
    rows = files.reference_rows()
    return viquae_rows(_outputs(files), rows)


def mrag_rows(outputs: Mapping[str, str], rows: Rows, benchmark: str = "mrag_bench") -> Report:
    """MRAG-Bench as coded: the output's first character; where it is no letter A to D, wrong (no judge)."""
    names = match(outputs, rows)
    chosen = {name: outputs[name].strip()[:1] for name in names}
    values = {name: float(chosen[name] == rows[name]["gt_choice"]) for name in names}
    return mrag_bench.report_of(
        values, rows, benchmark, sum(letter not in tuple("ABCD") for letter in chosen.values())
    )


def mrag_files(files: ScoreFiles) -> Report:
    """`mrag_rows` over the official files."""
    outputs, rows = mrag_bench.read_outputs(files)
    return mrag_rows(outputs, rows)


def cvqa_rows(outputs: Mapping[str, str], rows: Rows, benchmark: str = "cvqa") -> Report:
    """CVQA as coded: the first box, else what follows the last colon, must be the number and no more."""
    values, unparsable = {}, 0
    for name in match(outputs, rows):
        content = boxed(outputs[name])
        said = after_colon(outputs[name]) if content is None else content
        values[name] = float(said == str(cvqa.right_option(rows[name], name) + 1))
        unparsable += said not in {str(number + 1) for number in range(len(rows[name]["Options"]))}
    return cvqa.report_of(values, rows, benchmark, unparsable)


def cvqa_files(files: ScoreFiles) -> Report:
    """`cvqa_rows` over published records."""
    rows = files.reference_rows()
    return cvqa_rows(_outputs(files), rows)


def oven_files(files: ScoreFiles) -> Report:
    """OVEN as coded: the parts' scores are rounded first; a part without unseen answers is its seen score.

    The ids are compared as they are given: the authors' linking begins with their extractor too.
    """
    report = oven.evaluate(*oven.read_parts(files))
    metrics = dict(report.metrics)
    for suffix in ("", "_missing_wrong"):
        for part in oven.PARTS:
            result = metrics[f"{part}_result{suffix}"]
            seen = result.get("seen", 0.0)
            metrics[f"{part}_score{suffix}"] = round(harmonic_mean([seen, result.get("unseen", seen)]), 2)
        final = harmonic_mean([metrics[f"{part}_score{suffix}"] for part in oven.PARTS])
        metrics[f"final_score{suffix}"] = round(final, 2)
    return replace(report, metrics=metrics)
