"""The files that scorers read: predictions and references as the benchmarks publish them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem.benchmarks.files import is_in_split
from comem.benchmarks.text import extract_answer
from comem.io.files import RecordError, listed, read_json, read_jsonl, unique
from comem.types import Report, Score

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

log = logging.getLogger(__name__)

#: A published record; records, and answers, by their id.
Row = Mapping[str, Any]
Rows = Mapping[str, Row]
Answers = Mapping[str, str]
#: The names under which benchmarks keep an example's id, and a model's answer.
ID_KEYS = ("data_id", "question_id", "example_id", "id", "ID")
TEXT_KEYS = ("prediction", "answer", "output", "text")


@dataclass(frozen=True)
class ScoreFiles:
    """What `comem evaluate` was given.

    Args:
        predictions: one file, or by part ("query", "entity") where a benchmark has several.
        references: likewise.
        question_types: InfoSeek's separate file of question types.
        whole: compare answers as they stand, without taking them out of boxes and final-answer lines.
        split: only the references of this split; all of them without one.
    """

    predictions: Mapping[str, Path]
    references: Mapping[str, Path]
    question_types: Path | None = None
    whole: bool = False
    split: str | None = None

    def path(self, kind: str, part: str = "") -> Path:
        """The file of a kind ("predictions", "references").

        Raises:
            ValueError: it was not given; names the option.
        """
        found = {"predictions": self.predictions, "references": self.references}[kind].get(part)
        if found is None:
            option = f"--{kind}-{part}" if part else f"--{kind}"
            raise ValueError(f"this benchmark is scored with {option} FILE; it is missing")
        return found

    def answers(self, part: str = "") -> dict[str, str]:
        """The predictions by id (see `read_predictions`)."""
        return read_predictions(self.path("predictions", part), whole=self.whole)

    def reference_rows(
        self, key: str | None = None, part: str = "", rows: Iterable[dict[str, Any]] | None = None
    ) -> dict[str, dict[str, Any]]:
        """The references of the split by their id (see `keyed`).

        Raises:
            RecordError: an id twice or missing, or no reference is in the split; names those that there are.
        """
        path = self.path("references", part)
        return in_split(keyed(path, key, rows=rows), self.split, path)


def read_files(files: ScoreFiles, key: str | None = None) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Answers and reference rows by id, from files of records; `key` names the references' id."""
    return files.answers(), files.reference_rows(key)


def in_split(
    rows: Mapping[str, dict[str, Any]], split: str | None, path: str | Path
) -> dict[str, dict[str, Any]]:
    """The rows of a split: `val_unseen_entity` is in the splits val_unseen_entity, unseen_entity and val.

    Raises:
        RecordError: no row is in it; names the splits that there are.
    """
    if split is None:
        return dict(rows)
    there = {name: str(row.get("data_split", row.get("split", ""))) for name, row in rows.items()}
    found = {name: rows[name] for name, of in there.items() if is_in_split(of, split)}
    if not found:
        known = ", ".join(sorted({of or "no split" for of in there.values()})) or "no references"
        raise RecordError(f"{path}: no reference is in split {split!r}; the file has {known}")
    return found


def read_rows(path: str | Path, *, torn_tail: bool = False) -> Iterator[dict[str, Any]]:
    """The rows of a JSON-lines file, or of a JSON file with a list; logs of lmms-eval, too."""
    name = str(path).removesuffix(".gz")
    if not name.endswith(".json"):
        for row in read_jsonl(path, tolerate_torn_tail=torn_tail):
            yield row if "filtered_resps" not in row else of_log(row, path)
        return
    rows = read_json(path)
    if not isinstance(rows, list):
        raise RecordError(f"{path}: expected a JSON list of objects, found {type(rows).__name__}")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise RecordError(f"{path}: record {number} is {type(row).__name__}; expected an object")
        yield row


def of_log(row: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """A line of lmms-eval's `--log_samples`: the document's fields, and what was answered as its prediction.

    Raises:
        RecordError: it has no document or no answer.
    """
    doc, said = row.get("doc"), row["filtered_resps"]
    if not isinstance(doc, dict) or not isinstance(said, list) or not said:
        raise RecordError(f"{path}: a line of a log of lmms-eval without doc or filtered_resps")
    text = said[0][0] if isinstance(said[0], list) and said[0] else said[0]
    name = doc.get("data_id", doc.get("id", row.get("doc_id")))
    return {**doc, "data_id": name, "doc_id": row.get("doc_id"), "prediction": text}


def key_of(row: Mapping[str, Any], keys: tuple[str, ...], path: str | Path, number: int) -> str:
    """The first of the `keys` that a row has."""
    for key in keys:
        if key in row:
            return key
    raise RecordError(f"{path}: record {number} has none of {', '.join(keys)}; it has {listed(row)}")


def keyed(
    path: str | Path,
    key: str | None = None,
    *,
    torn_tail: bool = False,
    rows: Iterable[dict[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """The rows of a file by their id, each id once; without a `key`, the first row says which it is.

    Args:
        path: the file.
        key: the field with the id.
        torn_tail: pass over a last line that a crash cut short.
        rows: the rows, where they were read already; `path` is then for messages.
    """
    rows = iter(rows) if rows is not None else read_rows(path, torn_tail=torn_tail)
    first = next(rows, None)
    if first is None:
        return {}
    key = key or key_of(first, ID_KEYS, path, 1)
    return {str(row[key]): row for row in unique(chain([first], rows), key, path)}


def read_predictions(path: str | Path, *, whole: bool = False) -> dict[str, str]:
    """Answer text by example id.

    Args:
        path: JSON lines or a JSON list of objects with an id and an answer.
        whole: the texts as they stand; otherwise the answers in them (`extract_answer`).

    Raises:
        RecordError: an id twice, no id, or an answer that is not text.
    """
    answers: dict[str, str] = {}
    key = None
    for number, (name, row) in enumerate(keyed(path, torn_tail=True).items(), start=1):
        key = key if key is not None and key in row else key_of(row, TEXT_KEYS, path, number)
        answers[name] = checked_text(row[key], name, path)
    return answers if whole else {name: extract_answer(text) for name, text in answers.items()}


def checked_text(value: object, name: str, path: str | Path) -> str:
    """A prediction as text.

    Raises:
        RecordError: null, a number, a list: nothing that a scorer may guess about.
    """
    if not isinstance(value, str):
        kind = "null" if value is None else f"{type(value).__name__} {value!r:.40}"
        raise RecordError(f'{path}: the prediction of {name!r} is {kind}; write text ("" for no answer)')
    return value


def match(predictions: Mapping[str, Any], references: Mapping[str, Any]) -> list[str]:
    """The ids that both have, in the order of the references; strangers are logged.

    Raises:
        ValueError: there is nothing to score.
    """
    if not references:
        raise ValueError("there are no references; check the reference file and the split")
    both = [name for name in references if name in predictions]
    if not both:
        raise ValueError(
            f"none of the {len(predictions)} predictions belongs to one of the {len(references)} references "
            f"(predicted {_some(predictions)}; expected {_some(references)}); check split and benchmark"
        )
    strangers = len(predictions) - len(both)
    if strangers:
        log.warning("%d predictions belong to no reference and are passed over", strangers)
    return both


def _some(names: Mapping[str, Any]) -> str:
    listed = [repr(name) for name, _ in zip(names, range(2), strict=False)]
    return ", ".join(listed) + (", …" if len(names) > 2 else "") if listed else "nothing"


_TINY = 1e-12


def harmonic_means(parts: Sequence[Array]) -> Array:
    """`harmonic_mean` of arrays, element by element."""
    import numpy as np

    inverse = sum((1.0 / np.where(part == 0, _TINY, part) for part in parts), np.zeros_like(parts[0]))
    return np.asarray(len(parts) / inverse)


def harmonic_mean(values: Sequence[float]) -> float:
    """The harmonic mean; a zero counts as 1e-12, as officially."""
    return len(values) / sum(1.0 / (value or _TINY) for value in values)


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn.

    Args:
        samples: draws; 0 for no intervals.
        level: the interval's coverage, in percent.
        seed: of the random numbers; the same seed gives the same interval.

    Raises:
        ValueError: a negative number of draws, or a level outside 0 to 100.
    """

    samples: int = 1000
    level: float = 95.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 0 or not 0 < self.level < 100 or self.seed < 0:
            raise ValueError(
                f"bootstrap: samples {self.samples}, level {self.level:g}, seed {self.seed}; give samples "
                "and seed of 0 or more, and a level between 0 and 100"
            )

    def means(self, values: Iterable[float], stream: int = 0) -> Array:
        """Means of the values drawn again and again, `(samples,)`; nothing but zeros without values."""
        import numpy as np

        counts = Counter(values)
        total = sum(counts.values())
        if not total:
            return np.zeros(self.samples)
        distinct = sorted(counts)
        shares = np.array([counts[value] for value in distinct], dtype=np.float64) / total
        generator = np.random.default_rng([self.seed, stream])
        drawn = generator.multinomial(total, shares / shares.sum(), size=self.samples)
        return np.asarray(drawn @ np.array(distinct, dtype=np.float64) / total)

    def interval(self, means: Array) -> list[float]:
        """The middle `level` percent of the drawn means, in percent, with two digits."""
        import numpy as np

        tail = (100 - self.level) / 2
        return [round(float(end), 2) for end in np.percentile(100 * means, [tail, 100 - tail])]


#: From the drawn means of every group, `(samples,)` each, to those of a number made of them, or None.
Combine = Callable[[Mapping[str, "Array"]], "Array | None"]


def scores_of(
    values: Mapping[str, float],
    names: Iterable[str],
    group: Callable[[str], str] | None = None,
    language: Callable[[str], str] | None = None,
) -> list[Score]:
    """A score for every question; those without a value were not answered.

    Args:
        values: what each answered question earned, by id.
        names: the ids of all questions, in order.
        group: from an id to its group (split, scenario, …).
        language: from an id to its language.
    """
    return [
        Score(
            name, values.get(name, 0.0), group(name) if group else "", language(name) if language else "",
            name in values,
        )
        for name in names
    ]  # fmt: skip


def means_by(values: Mapping[str, float], key: Callable[[str], str]) -> dict[str, float]:
    """The mean of the questions' values in percent, by what `key` says of their ids; sorted."""
    groups: dict[str, list[float]] = {}
    for name, value in values.items():
        groups.setdefault(key(name), []).append(value)
    return {group: 100 * sum(part) / len(part) for group, part in sorted(groups.items())}


def mean_report(
    benchmark: str,
    metric: str,
    values: Mapping[str, float],
    names: Collection[str],
    group: Callable[[str], str] | None = None,
    language: Callable[[str], str] | None = None,
    **more: Any,
) -> Report:
    """The report whose metric is the mean of what the answered questions earned, in percent.

    Args:
        benchmark: its name.
        metric: the metric's name; with `_missing_wrong` behind it, the mean over all questions.
        values: what each answered question earned, by id.
        names: the ids of all questions, in order.
        group: from an id to its group.
        language: from an id to its language.
        more: further metrics.
    """
    total = sum(values.values())
    metrics = {
        metric: 100 * total / len(values), **more, f"{metric}_missing_wrong": 100 * total / len(names),
        "answered": len(values), "total": len(names),
    }  # fmt: skip
    return Report(benchmark, metrics, len(names), {metric: scores_of(values, names, group, language)})


def with_statistics(
    report: Report,
    bootstrap: Bootstrap,
    combined: Mapping[str, Combine] | None = None,
    missing_wrong: bool = False,
) -> Report:
    """The report with intervals and tables by group and language.

    Args:
        report: with the questions' scores.
        bootstrap: how intervals are drawn.
        combined: numbers that are made of the groups' means (InfoSeek's and OVEN's final score).
        missing_wrong: the metrics themselves count missing predictions as wrong (A-OKVQA's official ones).
    """
    if not report.scores:
        return report
    metrics = dict(report.metrics)
    if bootstrap.samples:
        scores: Mapping[str, Sequence[Score]] = report.scores
        if missing_wrong:
            scores = {
                name: [replace(score, answered=True) for score in given] for name, given in scores.items()
            }
        metrics["confidence"] = {
            "level": bootstrap.level, "samples": bootstrap.samples, "seed": bootstrap.seed,
            **_intervals(scores, bootstrap, combined or {}),
        }  # fmt: skip
    for name, key in (("by_group", _group), ("by_language", _language)):
        table = _table(report.scores, key, bootstrap)
        if len(table) > 1:
            metrics[name] = table
    return replace(report, metrics=metrics)


def _group(score: Score) -> str:
    return score.group


def _language(score: Score) -> str:
    return score.language


def _intervals(
    scores: Mapping[str, Sequence[Score]], bootstrap: Bootstrap, combined: Mapping[str, Combine]
) -> dict[str, Any]:
    """Intervals of the metrics, over the questions answered and with missing ones as wrong."""
    found: dict[str, Any] = {}
    for metric, given in scores.items():
        found[metric] = bootstrap.interval(bootstrap.means(s.value for s in given if s.answered))
        found[f"{metric}_missing_wrong"] = bootstrap.interval(bootstrap.means(s.value for s in given))
    first = next(iter(scores.values()))
    groups = _parted([score for score in first if score.answered], _group)
    drawn = {
        name: bootstrap.means((score.value for score in part), stream)
        for stream, (name, part) in enumerate(sorted(groups.items()), start=1)
    }
    made = {name: combine(drawn) for name, combine in combined.items()}
    return found | {name: bootstrap.interval(means) for name, means in made.items() if means is not None}


def _parted(scores: Iterable[Score], key: Callable[[Score], str]) -> dict[str, list[Score]]:
    parts: dict[str, list[Score]] = {}
    for score in scores:
        parts.setdefault(key(score), []).append(score)
    return parts


def _table(
    scores: Mapping[str, Sequence[Score]], key: Callable[[Score], str], bootstrap: Bootstrap
) -> dict[str, dict[str, Any]]:
    """Counts, scores and their intervals by group."""
    rows: dict[str, dict[str, Any]] = {}
    for metric, given in scores.items():
        for name, part in sorted(_parted(given, key).items()):
            answered = [score.value for score in part if score.answered]
            row = rows.setdefault(name, {"total": len(part), "answered": len(answered)})
            row[metric] = round(100 * sum(answered) / len(answered), 2) if answered else 0.0
            row[f"{metric}_missing_wrong"] = round(100 * sum(answered) / len(part), 2)
            if bootstrap.samples:
                row[f"{metric}_confidence"] = bootstrap.interval(bootstrap.means(answered))
    return rows
