"""A benchmark of one's own: questions as JSON lines, and a score that one makes.

A line: {"id": …, "question": …, "image": a file beside this one, "answers": […], "topic": …}

comem predict --plugin examples/plugins/benchmark_own_jsonl.py --benchmark own_jsonl --data my.jsonl …
comem evaluate own_jsonl --plugin examples/plugins/benchmark_own_jsonl.py --references my.jsonl …
"""

from difflib import SequenceMatcher

from comem.benchmarks import BENCHMARKS, Benchmark, per_example
from comem.io.files import read_jsonl, unique
from comem.types import Example, ImageRef


def load(files):
    folder = files.images or files.path.parent
    for row in unique(read_jsonl(files.path), "id", files.path):
        image = ImageRef(path=str(folder / row["image"]))
        answers = tuple(row["answers"])
        yield Example(row["id"], row["question"], image, answers, group=row.get("topic", ""))


def likeness(answer, example):
    """1 for an accepted answer, and the less the more letters differ: a slip of the pen costs little."""
    return max(SequenceMatcher(None, answer.lower(), each.lower()).ratio() for each in example.answers)


BENCHMARKS.register(
    "own_jsonl",
    Benchmark("own_jsonl", load, per_example(likeness, "letters in common with the nearest answer")),
)
