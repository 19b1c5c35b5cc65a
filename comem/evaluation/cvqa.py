"""CVQA's score: multiple-choice accuracy for each country-language pair, and over all questions (micro).

The data set (afaji/cvqa, arXiv 2406.05967) asks in the language of each pair; a record has ID, Subset
("('Spanish', 'Spain')"), Options and Label, the index of the right option counted from 0. Its paper scores
by accuracy and leaves the reading of answers open. Read here, in this order: the option's number as it is
printed in the question (from 1), its letter (A for the first), its text, the only option text that occurs.
What cannot be read is wrong.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from comem.evaluation.files import ScoreFiles, match, read_predictions
from comem.evaluation.statistics import scores_of
from comem.records import RecordError
from comem.types import Report, Score

#: A conclusion stands in so many last characters.
_TAIL = 200
_EDGES = " \t\r\n.,;:!?\"'`*()[]{}。，；：！？、「」“”«»"
_WORDS = "option|answer|opción|respuesta|opção|resposta|вариант|ответ|опция|отговор|选项|答案|第"
_LINKS = r"[:：=]|\b(?:is|es|é|е)\b|是|为"
#: "2", "Option 2", "the answer is 2", "B" at the end of a text whose edges are trimmed.
_ENDING = re.compile(rf"^(?:.*(?:{_WORDS}|{_LINKS})[\s(\[*\"']*)?(\d|[A-Z])$", re.DOTALL | re.IGNORECASE)
#: "2. perro", "2) perro", "(B) perro"; not "2.5", not "A dog".
_LEADING = re.compile(r"^[(\[*\s]*(\d|[A-Z])\s*[.):：、\]]+(?!\d)")


def parse_option(output: str, options: Sequence[str]) -> int | None:
    """The index of the option that an answer chooses, or None.

    Args:
        output: the short answer (see `comem.evaluation.text.extract_answer`).
        options: their texts, in the order in which they were asked.
    """
    trimmed = output.strip(_EDGES)
    if len(trimmed) == 1 and trimmed.isdecimal() and (index := _index(trimmed, len(options))) is not None:
        return index
    said, texts = _fold(output), [_fold(option) for option in options]
    if said in texts:
        return texts.index(said)
    for hit in (_LEADING.match(output), _ENDING.match(trimmed[-_TAIL:])):
        if hit is not None and (index := _index(hit[1], len(options))) is not None:
            return index
    inside = {index for index, text in enumerate(texts) if text and text in said}
    longest = {i for i in inside if not any(texts[i] != texts[j] and texts[i] in texts[j] for j in inside)}
    return longest.pop() if len(longest) == 1 else None


def _index(mark: str, count: int) -> int | None:
    """The option of a number from 1 or a letter from A, where there is such an option."""
    index = int(mark) - 1 if mark.isdecimal() else ord(mark.upper()) - ord("A")
    return index if 0 <= index < count else None


def _fold(text: str) -> str:
    return " ".join(text.casefold().strip(_EDGES).split())


def pair_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """Language and country of a record, from its Subset, "('Spanish', 'Spain')" or a list.

    Raises:
        RecordError: the record has none.
    """
    subset = row.get("Subset")
    if isinstance(subset, str) and subset.startswith("("):
        try:
            subset = ast.literal_eval(subset)
        except (ValueError, SyntaxError):
            subset = None
    if isinstance(subset, (list, tuple)) and len(subset) == 2:
        return str(subset[0]), str(subset[1])
    raise RecordError(
        f"question {row.get('ID')!r} has Subset {row.get('Subset')!r}; expected \"('Language', 'Country')\""
    )


def right_option(row: Mapping[str, Any], name: str) -> int:
    """The index of the right option.

    Raises:
        RecordError: the record has no options, or its Label is not the index of one.
    """
    options, label = row.get("Options"), row.get("Label")
    if not isinstance(options, list) or not options:
        raise RecordError(f"question {name!r} has no Options; expected the list of its answers")
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(options):
        raise RecordError(f"question {name!r} has Label {label!r}; expected 0 to {len(options) - 1}")
    return label


def evaluate(
    answers: Mapping[str, str], references: Mapping[str, Mapping[str, Any]], benchmark: str = "cvqa"
) -> Report:
    """Score short answers by ID against the records by ID."""
    names = match(answers, references)
    chosen = {name: parse_option(answers[name], references[name]["Options"]) for name in names}
    values = {name: float(chosen[name] == right_option(references[name], name)) for name in names}
    return report_of(values, references, benchmark, sum(choice is None for choice in chosen.values()))


def report_of(
    values: Mapping[str, float], references: Mapping[str, Mapping[str, Any]], benchmark: str, unparsable: int
) -> Report:
    """The report over what each answered question earned."""
    pairs = {name: pair_of(row) for name, row in references.items()}
    scores = scores_of(values, references, lambda name: "-".join(pairs[name]), lambda name: pairs[name][0])
    groups: dict[str, list[Score]] = {}
    for score in scores:
        groups.setdefault(score.group, []).append(score)
    by_pair = {name: _percent(group) for name, group in sorted(groups.items())}
    metrics: dict[str, Any] = {
        "overall": _percent(scores),
        "by_pair": by_pair,
        "macro": sum(by_pair.values()) / len(by_pair),
        "overall_missing_wrong": 100 * sum(values.values()) / len(references),
        "answered": len(values),
        "total": len(references),
        "unparsable": unparsable,
    }
    return Report(benchmark, metrics, len(references), {"overall": scores})


def _percent(scores: Sequence[Score]) -> float:
    """Right answers in percent of those given."""
    answered = [score.value for score in scores if score.answered]
    return 100 * sum(answered) / len(answered) if answered else 0.0


def evaluate_files(files: ScoreFiles) -> Report:
    """Score predictions beside references as JSON lines or a JSON list of the published records."""
    answers = read_predictions(files.path("predictions"), whole=files.whole)
    return evaluate(answers, files.reference_rows())
