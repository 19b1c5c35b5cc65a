"""ViQuAE's score: SQuAD exact match and F1 (PaulLerner/ViQuAE, meerqat/train/metrics.py).

Both compare after normalisation and take the best over the accepted answers; a benchmark's number is the
mean in percent over the questions answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from comem.evaluation.files import ScoreFiles, match, read_predictions
from comem.evaluation.statistics import scores_of
from comem.evaluation.text import normalize
from comem.records import RecordError
from comem.types import Report


def f1(prediction: str, accepted: str) -> float:
    """The harmonic mean of precision and recall over normalised words, each counted as often as it occurs."""
    return _f1(normalize(prediction), normalize(accepted))


def _f1(prediction: str, accepted: str) -> float:
    """`f1` of normalised texts."""
    said, wanted = prediction.split(), accepted.split()
    words, accepted_words = set(said), set(wanted)
    common = len(words & accepted_words)
    if not common:
        return 0.0
    if len(words) < len(said) or len(accepted_words) < len(wanted):  # a word comes twice
        common = sum((Counter(said) & Counter(wanted)).values())
    precision, recall = common / len(said), common / len(wanted)
    return (2 * precision * recall) / (precision + recall)


def evaluate(
    predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]], benchmark: str = "viquae"
) -> Report:
    """Score short answers by id against the accepted answers by id."""
    names = match(predictions, answers)
    earned: dict[str, dict[str, float]] = {"exact_match": {}, "f1": {}}
    for name in names:
        said, accepted = normalize(predictions[name]), [normalize(answer) for answer in answers[name]]
        earned["exact_match"][name] = float(said in accepted)
        earned["f1"][name] = max(_f1(said, answer) for answer in accepted)
    return report_of(earned, answers, benchmark)


def report_of(earned: Mapping[str, Mapping[str, float]], names: Collection[str], benchmark: str) -> Report:
    """The report over what each answered question earned, by metric."""
    metrics: dict[str, Any] = {}
    for key, values in earned.items():
        total = 0.0
        for value in values.values():  # one by one, in the references' order: equal to the last digit
            total += value
        metrics[key] = 100.0 * (total / len(values))
        metrics[f"{key}_missing_wrong"] = 100.0 * (total / len(names))
        metrics |= {"answered": len(values), "total": len(names)}
    scores = {key: scores_of(values, names) for key, values in earned.items()}
    return Report(benchmark, metrics, len(names), scores)


def accepted_answers(row: Mapping[str, Any], name: str) -> list[str]:
    """The accepted answers of a ViQuAE record, `{"output": {"answer": […]}}`."""
    output = row.get("output")
    answers = output.get("answer") if isinstance(output, Mapping) else None
    if not isinstance(answers, list) or not answers:
        raise RecordError(f'reference {name!r} has no answers; expected {{"output": {{"answer": […]}}}}')
    return [str(answer) for answer in answers]


def read_answers(files: ScoreFiles) -> dict[str, list[str]]:
    """The accepted answers by id."""
    return {name: accepted_answers(row, name) for name, row in files.reference_rows().items()}


def evaluate_files(files: ScoreFiles) -> Report:
    """Score the official files as they stand."""
    answers = read_answers(files)
    return evaluate(read_predictions(files.path("predictions"), whole=files.whole), answers)
