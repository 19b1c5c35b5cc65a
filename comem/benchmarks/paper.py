r"""The normaliser and the extractor of the authors' scorers, and what is wrong with them.

The normaliser cuts a text behind "is", "the", "of" and "by" wherever these letters stand, also inside
words: "Paris" becomes "", "Netherlands" "rlands", "island" "land". The extractor takes the first
`\boxed{…}` up to its first closing brace, so `\boxed{\text{Paris}}` gives "textparis", hence "" again;
without a box it takes what follows the last colon.

Source: WenyiWU0111/CoMEM, CoMEM-inference (the same functions stand in five of its files).
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from comem.benchmarks import aokvqa, cvqa, infoseek, mrag_bench, oven
from comem.benchmarks import okvqa as vqa
from comem.benchmarks import viquae as squad
from comem.benchmarks.infoseek import Question, Rules, matches, read_number
from comem.benchmarks.score_files import ScoreFiles, match, read_predictions
from comem.benchmarks.statistics import harmonic_mean
from comem.types import Report

_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_BOX = "\\boxed{"
_CUT_BEHIND = ("is", "the", "of", "by")
_CACHED_LENGTH = 200


def normalize(text: str) -> str:
    """The authors' normaliser: lower case, no ASCII punctuation, cut, no articles, single spaces."""
    text = text.lower().translate(_DELETE_PUNCTUATION)
    for letters in _CUT_BEHIND:
        text = text.rpartition(letters)[2]
    return " ".join(_ARTICLES.sub(" ", text).split())


def boxed(text: str) -> str | None:
    """The first box up to its first closing brace, on one line."""
    for line in text.split("\n"):
        _, box, rest = line.partition(_BOX)
        content, brace, _ = rest.partition("}")
        if box and brace:
            return content
    return None


def after_colon(text: str) -> str:
    """What follows the last colon; everything without one."""
    return text.rpartition(":")[2]


def extract(text: str) -> str:
    """The authors' short answer: boxed or behind the last colon, normalised."""
    return _extract(text) if len(text) > _CACHED_LENGTH else _cached(text)


def _extract(text: str) -> str:
    content = boxed(text)
    return normalize(after_colon(text) if content is None else content)


_cached = lru_cache(maxsize=200_000)(_extract)


def right(answer: str, kind: str, accepted: tuple[str, ...], numbers: tuple[float, float]) -> bool:
    """Whether an InfoSeek answer is right as coded there.

    It is cut behind its last colon before its box is looked for. Times are right when one text lies in
    the other.

    Args:
        answer: the whole output.
        kind: string, time or numerical.
        accepted: the accepted answers, through `extract`.
        numbers: the accepted range.
    """
    cut = after_colon(answer)
    if kind == "numerical":
        return matches(read_number(cut), numbers)
    said = extract(cut)
    if kind == "time":
        return any(said and text and (said in text or text in said) for text in accepted)
    return said in accepted


_CUTS = (
    'its normaliser cuts texts behind "is", "the", "of" and "by" even inside words ("Paris" becomes "", '
    '"Netherlands" becomes "rlands") and its box ends at the first closing brace'
)
_ONE_SIDED = (
    f"only the prediction is normalised, so no accepted answer with a capital or a hyphen matches; {_CUTS}"
)
_MISSING = "missing predictions are left out"

WARNINGS: dict[str, str] = {
    "infoseek": (
        f"{_CUTS}, in predictions and accepted answers alike, so that different answers become equal: always "
        'answering "Paris" scores 3.59 % of the textual questions where 0.21 % is right; times match by '
        f'substring ("19" is 1990); text before the last colon is dropped; {_MISSING}'
    ),
    "oven": (
        "a part without unseen answers counts its seen score twice; scores are rounded before averaging; "
        f"answers are linked through the normaliser: {_CUTS}; {_MISSING} (100 right of 3,291 score 100.0)"
    ),
    "okvqa": (
        f"exact match with any of the ten answers, not VQA accuracy; {_ONE_SIDED}; accepted answers with an "
        f"apostrophe fall apart; {_MISSING}"
    ),
    "aokvqa": (
        "exact match with any direct answer, difficult ones too, not min(count/3, 1); no multiple choice; "
        f"{_ONE_SIDED}; {_MISSING}"
    ),
    "viquae": f"no F1; text before the last colon is dropped; {_ONE_SIDED}; {_MISSING}",
    "mrag_bench": (
        'the first character is the answer ("Based on…" is B, "Answer: C" is A); where it is none of A to D '
        f"the authors asked gpt-4o-mini, here it is wrong; {_MISSING}"
    ),
    "cvqa": (
        'the box, or what follows the last colon, must be the bare number: "\\boxed{ 2 }", "Respuesta final: '
        f'2" and "\\boxed{{2. perro}}" are wrong; {_MISSING}'
    ),
}


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
