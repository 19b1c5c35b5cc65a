"""ViQuAE: trivia about named entities that only a picture shows (1,257 in test, 1,250 in validation).

A record (JSON lines, `test.jsonl`): id, input (the question), image (a file name), url, output (`answer`:
the accepted ones, `original_answer`), kilt_id, wikidata_id, original_question, meta. The pictures are an
archive of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from comem.benchmarks.base import Benchmark
from comem.benchmarks.files import HubFiles, locate, named_image, question_text
from comem.benchmarks.score_files import ScoreFiles, match, read_predictions
from comem.benchmarks.statistics import scores_of
from comem.benchmarks.text import normalize
from comem.io.jsonl import RecordError, read_jsonl, unique
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


def load(
    path: str | Path, *, image_folder: str | Path | None, split: str | None, question_types: str | Path | None
) -> Iterator[Example]:
    """Examples of the JSON lines (see `Benchmark.load`)."""
    split = split or "test"
    file = locate(path, (f"{split}.jsonl",))
    beside = file.parent / "images"
    folder = image_folder if image_folder is not None else beside if beside.is_dir() else None
    count = 0
    for row in unique(read_jsonl(file), "id", file):
        name, count = str(row["id"]), count + 1
        yield Example(
            id=name,
            question=question_text(row, "input", name, file),
            image=named_image(folder, row.get("image"), file) if folder is not None else None,
            answers=tuple(accepted_answers(row, name)),
            group=split,
            meta=row,
        )
    if not count:
        raise RecordError(f"{file}: holds no questions; fetch it again")


def score(predictions: Mapping[str, str], examples: Sequence[Example]) -> Report:
    """SQuAD exact match and F1, the best over the accepted answers."""
    return evaluate(predictions, {example.id: example.answers for example in examples})


ROWS = {
    "viquae": Benchmark(
        name="viquae",
        source="https://huggingface.co/datasets/PaulLerner/viquae_dataset, test (1,257 questions)",
        licence="CC BY 4.0 (annotations); pictures: Wikimedia Commons, each its own",
        paper="Lerner et al. 2022, SIGIR, doi 10.1145/3477495.3531753",
        languages=("en",),
        style="concise",
        loader=load,
        scorer=score,
        headline=("exact_match", "f1"),
        splits=("test", "validation", "train"),
        hub=HubFiles("PaulLerner/viquae_dataset", "{split}.jsonl"),
        files="test.jsonl of https://huggingface.co/datasets/PaulLerner/viquae_dataset",
        images="images.tar.gz of https://huggingface.co/datasets/PaulLerner/viquae_images, unpacked",
    )
}
