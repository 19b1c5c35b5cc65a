"""ViQuAE: trivia about named entities that only a picture shows (1,257 in test, 1,250 in validation).

A record (JSON lines, `test.jsonl`): id, input (the question), image (a file name), url, output (`answer`:
the accepted ones, `original_answer`), kilt_id, wikidata_id, original_question, meta. The pictures are an
archive of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from comem.benchmarks.base import Benchmark, Scorer, authors_scorer
from comem.benchmarks.files import DataFiles, HubFiles, locate, named_image, question_text
from comem.benchmarks.scoring import Answers, Row, Rows, match, read_files, scores_of
from comem.benchmarks.text import ONE_SIDED, after_colon, authors_answer, normalize
from comem.io.files import RecordError, read_jsonl, unique
from comem.types import Example, Report


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


def evaluate(answers: Answers, rows: Rows, benchmark: str = "viquae") -> Report:
    """Score short answers by id against the records by id: SQuAD exact match and F1, the best of each."""
    earned: dict[str, dict[str, float]] = {"exact_match": {}, "f1": {}}
    for name in match(answers, rows):
        said = normalize(answers[name])
        accepted = [normalize(answer) for answer in accepted_answers(rows[name], name)]
        earned["exact_match"][name] = float(said in accepted)
        earned["f1"][name] = max(_f1(said, answer) for answer in accepted)
    return report_of(earned, rows, benchmark)


def evaluate_as_authors(outputs: Answers, rows: Rows, benchmark: str = "viquae") -> Report:
    """As coded: cut behind the last colon, then against accepted answers as they stand; no F1."""
    values = {}
    for name in match(outputs, rows):
        accepted = [answer.strip() for answer in accepted_answers(rows[name], name)]
        values[name] = float(authors_answer(after_colon(outputs[name])) in filter(None, accepted))
    return report_of({"exact_match": values}, rows, benchmark)


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


def accepted_answers(row: Row, name: str, file: object = "references") -> list[str]:
    """The accepted answers of a ViQuAE record, `{"output": {"answer": […]}}`."""
    output = row.get("output")
    answers = output.get("answer") if isinstance(output, Mapping) else None
    if not isinstance(answers, list) or not answers:
        raise RecordError(f'{file}: {name!r} has no answers; expected {{"output": {{"answer": […]}}}}')
    return [str(answer) for answer in answers]


def load(files: DataFiles) -> Iterator[Example]:
    """Examples of the JSON lines."""
    split = files.split or "test"
    file = locate(files.path, (f"{split}.jsonl",))
    beside = file.parent / "images"
    folder = files.images if files.images is not None else beside if beside.is_dir() else None
    count = 0
    for row in unique(read_jsonl(file), "id", file):
        name, count = str(row["id"]), count + 1
        yield Example(
            id=name,
            question=question_text(row, "input", name, file),
            image=named_image(folder, row.get("image"), file) if folder is not None else None,
            answers=tuple(accepted_answers(row, name, file)),
            group=split,
            meta=row,
        )
    if not count:
        raise RecordError(f"{file}: holds no questions; fetch it again")


ROW = Benchmark(
    name="viquae",
    loader=load,
    scorer=Scorer(evaluate, "PaulLerner/ViQuAE: SQuAD exact match and F1"),
    authors=authors_scorer(evaluate_as_authors, "no F1; text before the last colon is dropped", ONE_SIDED),
    reader=read_files,
    source="https://huggingface.co/datasets/PaulLerner/viquae_dataset, test (1,257 questions)",
    licence="CC BY 4.0 (annotations); pictures: Wikimedia Commons, each its own",
    paper="Lerner et al. 2022, SIGIR, doi 10.1145/3477495.3531753",
    style="concise",
    headline=("exact_match", "f1"),
    splits=("test", "validation", "train"),
    hub=HubFiles("PaulLerner/viquae_dataset", "{split}.jsonl"),
    files="test.jsonl of https://huggingface.co/datasets/PaulLerner/viquae_dataset",
    images="images.tar.gz of https://huggingface.co/datasets/PaulLerner/viquae_images, unpacked",
)
