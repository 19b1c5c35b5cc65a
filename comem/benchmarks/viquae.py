"""ViQuAE: trivia about named entities that only a picture shows (1,257 in test, 1,250 in validation).

A record (JSON lines, `test.jsonl`): id, input (the question), image (a file name), url, output (`answer`:
the accepted ones, `original_answer`), kilt_id, wikidata_id, original_question, meta. The pictures are an
archive of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from comem.benchmarks.base import Benchmark
from comem.benchmarks.files import locate, named_image, question_text
from comem.benchmarks.hub import HubFiles
from comem.evaluation import squad
from comem.records import RecordError, read_jsonl, unique
from comem.types import Example, Report


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
            answers=tuple(squad.accepted_answers(row, name)),
            group=split,
            meta=row,
        )
    if not count:
        raise RecordError(f"{file}: holds no questions; fetch it again")


def score(predictions: Mapping[str, str], examples: Sequence[Example]) -> Report:
    """SQuAD exact match and F1, the best over the accepted answers."""
    return squad.evaluate(predictions, {example.id: example.answers for example in examples})


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
