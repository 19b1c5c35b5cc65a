"""Re-scoring a million predictions: `comem evaluate` for every kind of answer, with reading and intervals.

    python benchmarks/score_million.py [--count 1000000] [--scorers official] [--output score_million.json]

For each benchmark: made-up predictions (reasoning, then a boxed answer) and references, written to a
temporary folder; then the command in a process of its own: wall clock, processor time, largest memory.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from comem.io.files import write_json
from comem.io.run_folder import run_manifest

REASONING = "Reasoning Process: the building has a dome and stands on a hill. "
Row = dict[str, Any]


def main() -> None:
    args = _arguments()
    results: dict[str, dict[str, float]] = {}
    for name, make in MAKERS.items():
        with tempfile.TemporaryDirectory() as folder:
            predictions, references = Path(folder) / "predictions.jsonl", Path(folder) / "references.jsonl"
            _write(make(args.count), predictions, references)
            for scorer in args.scorers:
                results[f"{name}, {scorer}"] = found = _measure(name, predictions, references, scorer)
                print(f"{name:12} {scorer:9} {_line(found)}", flush=True)
        if args.output:  # after each benchmark: a busy machine takes its time
            content = {"predictions": args.count, "aim": "under 60 s", "results": results}
            write_json(args.output, {**content, "run": run_manifest()})
    for kind in ("seconds", "cpu_seconds"):
        slowest = max(found[kind] for found in results.values())
        print(f"slowest by {kind}: {slowest:.1f} for {args.count:,} predictions (aim: under 60)")


def _line(found: dict[str, float]) -> str:
    cpu = f"{found['cpu_seconds']:6.1f} s of processor time"
    return f"{found['seconds']:6.1f} s  {cpu}  {found['peak_mib']:7.0f} MiB"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1_000_000, help="predictions (%(default)s)")
    parser.add_argument("--scorers", nargs="+", default=["official", "paper"], metavar="NAME", help="both")
    parser.add_argument("--output", type=Path, help="write the results as JSON here")
    return parser.parse_args()


def _boxed(answer: str) -> str:
    return f"{REASONING}\nFinal answer: \\boxed{{{answer}}}"


def _infoseek(count: int) -> Iterator[tuple[Row, Row]]:
    draw = random.Random(0)
    for i in range(count):
        numerical, value = i % 10 == 0, i % 97 + 1
        accepted: list[Any] = [f"answer {i % 5000}", f"the alias {i % 5000}"]
        if numerical:
            accepted = [{"wikidata": value, "range": [value * 0.9, value * 1.1]}]
        said = str(draw.randrange(1, 99)) if numerical else f"Alias {i % 7000}"
        split = "val_unseen_entity" if i % 5 else "val_unseen_question"
        yield {"data_id": f"d{i}", "prediction": _boxed(said)}, {
            "data_id": f"d{i}", "question": "What is it?", "answer_eval": accepted, "data_split": split,
        }  # fmt: skip


def _okvqa(count: int) -> Iterator[tuple[Row, Row]]:
    draw, words = random.Random(0), ["surfing", "the beach", "two dogs", "isn't", "t-shirt", "10,000", "race"]
    for i in range(count):
        humans = [{"answer_id": j, "answer": draw.choice(words)} for j in range(10)]
        row = {"question_id": i, "question_type": str(i % 8), "answer_type": "other", "answers": humans}
        yield {"question_id": i, "answer": draw.choice(words)}, row


def _viquae(count: int) -> Iterator[tuple[Row, Row]]:
    for i in range(count):
        answers = [f"Person {i % 9000} of Town {i % 700}", f"P. {i % 9000}", f"Count {i % 9000}"]
        yield (
            {"id": f"v{i}", "prediction": _boxed(f"person {i % 8999} of town {i % 700}")},
            {"id": f"v{i}", "output": {"answer": answers}},
        )


def _mrag(count: int) -> Iterator[tuple[Row, Row]]:
    choices = {"A": "Red Maple", "B": "White Oak", "C": "Boeing 707", "D": "Space Needle"}
    for i in range(count):
        said = ("(B)", "The answer is C.", "As its leaves are so red I would say Red Maple")[i % 3]
        row = {"id": i, "gt_choice": "ABCD"[i % 4], "choices": choices, "scenario": str(i % 9)}
        yield {"id": i, "output": said}, row


def _cvqa(count: int) -> Iterator[tuple[Row, Row]]:
    for i in range(count):
        row = {"ID": str(i), "Subset": f"('L{i % 5}', 'C{i % 7}')", "Options": ["uno", "dos", "tres", "diez"]}
        yield {"ID": str(i), "prediction": _boxed("2. dos")}, {**row, "Label": i % 4}


MAKERS: dict[str, Callable[[int], Iterator[tuple[Row, Row]]]] = {
    "infoseek": _infoseek, "okvqa": _okvqa, "viquae": _viquae, "mrag_bench": _mrag, "cvqa": _cvqa,
}  # fmt: skip


def _write(pairs: Iterator[tuple[Row, Row]], predictions: Path, references: Path) -> None:
    with predictions.open("w") as first, references.open("w") as second:
        for prediction, reference in pairs:
            first.write(json.dumps(prediction) + "\n")
            second.write(json.dumps(reference) + "\n")


def _measure(name: str, predictions: Path, references: Path, scorer: str) -> dict[str, float]:
    command = [sys.executable, "-m", "comem", "evaluate", name, "--scorer", scorer]
    command += ["--predictions", str(predictions), "--references", str(references)]
    command += ["--output", str(predictions.parent / "report.json")]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = _wait(process)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    seconds, cpu = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    return {
        "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "peak_mib": round(usage.ru_maxrss / 1024),
    }  # fmt: skip


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, int, resource.struct_rusage]:
    """The process's end, and what it used (not what an earlier one did)."""
    import os

    return os.wait4(process.pid, 0)


if __name__ == "__main__":
    main()
