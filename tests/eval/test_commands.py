"""`comem evaluate` on every benchmark's files: both scorers, comparisons, splits, bad input, no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from comem.cli import run_command

ROOT = Path(__file__).resolve().parents[2]
OPTIONS: dict[str, dict[str, str]] = {
    "infoseek": {
        "predictions": "predictions.jsonl", "references": "references.jsonl",
        "question-types": "question_types.jsonl",
    },
    "oven": {
        f"{kind}-{part}": f"{kind}_{part}.jsonl"
        for kind in ("predictions", "references") for part in ("query", "entity")
    },
    "okvqa": {"predictions": "predictions.json", "references": "annotations.json"},
    "aokvqa": {"predictions": "predictions.json", "references": "references.json"},
    "viquae": {"predictions": "predictions.jsonl", "references": "references.jsonl"},
    "mrag_bench": {"predictions": "predictions.jsonl"},
}  # fmt: skip
#: A metric by which each benchmark's runs are compared.
METRIC = {
    "infoseek": "accuracy", "oven": "accuracy", "okvqa": "overall", "aokvqa": "multiple_choice",
    "viquae": "f1", "mrag_bench": "overall",
}  # fmt: skip


def arguments(golden: Path, name: str) -> list[str]:
    folder = golden / "scores" / name
    return [name, *(f"--{option}={folder / file}" for option, file in OPTIONS[name].items())]


def command(*words: str) -> int:
    return run_command("evaluate", list(words))


def report(tmp_path: Path, *words: str) -> dict[str, Any]:
    output = tmp_path / "report.json"
    assert command(*words, f"--output={output}") == 0
    return json.loads(output.read_text())


@pytest.mark.parametrize("name", OPTIONS)
def test_both_scorers_say_who_they_are(
    golden_dir: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    official = report(tmp_path, *arguments(golden_dir, name))
    assert official["scorer"] == "official" and not any("scorer is not" in note for note in official["notes"])
    capsys.readouterr()
    paper = report(tmp_path, *arguments(golden_dir, name), "--scorer=paper")
    assert paper["scorer"] == "paper"
    assert any("the paper scorer is not the benchmark's" in note for note in paper["notes"])
    assert "the paper scorer is not the benchmark's" in " ".join(capsys.readouterr().out.split())
    assert (paper["answered"], paper["total"]) == (official["answered"], official["total"])


@pytest.mark.parametrize("name", OPTIONS)
def test_intervals_hold_the_score(golden_dir: Path, tmp_path: Path, name: str) -> None:
    found = report(tmp_path, *arguments(golden_dir, name))
    intervals = {key: ends for key, ends in found["confidence"].items() if key in found}
    assert intervals
    for metric, (low, high) in intervals.items():
        value = found[metric]["score"] if isinstance(found[metric], dict) else found[metric]
        assert low <= value <= high, metric
        missing_counts = name == "aokvqa" and not metric.endswith("_missing_wrong")
        assert not missing_counts or [low, high] == intervals[f"{metric}_missing_wrong"]
    assert "confidence" not in report(tmp_path, *arguments(golden_dir, name), "--bootstrap=0")


@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_compared_with_itself(golden_dir: Path, tmp_path: Path, name: str) -> None:
    words = arguments(golden_dir, name)
    others = [word.replace("--predictions", "--compare") for word in words if "--predictions" in word]
    found = report(tmp_path, *words, *others)["comparison"][METRIC[name]]
    assert (found["difference"], found["p_value"], found["only_first"]) == (0.0, 1.0, 0)
    assert found["questions"] > 50


def write(path: Path, *rows: Any) -> str:
    content = "".join(json.dumps(row) + "\n" for row in rows) if path.suffix == ".jsonl" else json.dumps(rows)
    path.write_text(content)
    return str(path)


def viquae(tmp_path: Path, predictions: dict[str, str], *words: str, split: str = "") -> dict[str, Any]:
    given = write(tmp_path / "p.jsonl", *({"id": n, "prediction": text} for n, text in predictions.items()))
    rows = [{"id": n, "output": {"answer": ["Rome"]}, "split": "test" if n < "d" else "val"} for n in "abcde"]
    references = write(tmp_path / "r.jsonl", *rows)
    return report(tmp_path, "viquae", f"--predictions={given}", f"--references={references}", *words)


def test_a_better_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write(tmp_path / "o.jsonl", *({"id": n, "prediction": "Oslo"} for n in "abcde"))
    found = viquae(tmp_path, dict.fromkeys("abcde", "Rome"), f"--compare={other}")["comparison"]
    assert found["exact_match"]["only_first"] == 5 and found["exact_match"]["p_value"] == 2 / 2**5
    assert found["exact_match"]["confidence"] == [100.0, 100.0]
    assert "paired comparison" in capsys.readouterr().out


def test_only_a_split(tmp_path: Path) -> None:
    found = viquae(tmp_path, {"a": "Rome", "e": "Oslo"}, "--split=test")
    assert (found["exact_match"], found["answered"], found["total"]) == (100.0, 1, 3)
    with pytest.raises(ValueError, match="no reference is in split 'tset'; the file has test, val"):
        viquae(tmp_path, {"a": "Rome"}, "--split=tset")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scorer=papre"], "unknown scorer 'papre'; did you mean paper"),
        (["--bootstrap=-1"], "samples -1"),
        (["--level=100"], "a level between 0 and 100"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        viquae(tmp_path, {"a": "Rome"}, *words)


LONG = "word " * 20_000
REFERENCES: dict[str, dict[str, Any]] = {
    "infoseek": {"data_id": "a", "answer_eval": ["Rome"], "data_split": "val_unseen_entity"},
    "okvqa": {"question_id": "a", "answers": [{"answer": "rome", "answer_id": i} for i in range(10)]},
    "aokvqa": {
        "question_id": "a", "choices": ["Rome", "Oslo"], "correct_choice_idx": 0, "direct_answers": ["Rome"],
    },
    "viquae": {"id": "a", "output": {"answer": ["Rome"]}},
    "mrag_bench": {"id": "a", "gt_choice": "A", "choices": {"A": "Rome"}},
    "cvqa": {"ID": "a", "Subset": "('Spanish', 'Spain')", "Options": ["Rome"], "Label": 0},
}  # fmt: skip
BAD: list[tuple[list[Any], str]] = [
    ([{"id": "a", "prediction": None}], "the prediction of 'a' is null; write text"),
    ([{"id": "a", "prediction": 7}], "the prediction of 'a' is int 7"),
    ([{"id": "a", "prediction": ["Rome"]}], "the prediction of 'a' is list"),
    ([{"id": "a", "prediction": "x"}] * 2, "id 'a' comes twice"),
    ([{"id": "b", "prediction": "x"}], "none of the 1 predictions belongs to one of the 1 references"),
    ([], r"p.jsonl.*: none of the 0 predictions belongs"),
    ([{"prediction": "x"}], "record 1 has none of data_id"),
]


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("scorer", ["official", "paper"])
@pytest.mark.parametrize(("rows", "message"), BAD)
def test_bad_predictions_are_named(
    tmp_path: Path, name: str, scorer: str, rows: list[Any], message: str
) -> None:
    predictions = write(tmp_path / "p.jsonl", *rows)
    references = write(tmp_path / "r.jsonl", REFERENCES[name])
    with pytest.raises(ValueError, match=message):
        command(name, f"--predictions={predictions}", f"--references={references}", f"--scorer={scorer}")


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("scorer", ["official", "paper"])
def test_a_prediction_of_100_kb_is_wrong_and_no_more(tmp_path: Path, name: str, scorer: str) -> None:
    predictions = write(tmp_path / "p.jsonl", {"id": "a", "prediction": LONG})
    references = write(tmp_path / "r.jsonl", REFERENCES[name])
    found = report(
        tmp_path, name, f"--predictions={predictions}", f"--references={references}", f"--scorer={scorer}"
    )
    assert (found["answered"], found["total"]) == (1, 1)
    first = next(
        found[key] for key in ("accuracy", "overall", "direct_answer", "exact_match") if key in found
    )
    assert first == 0.0


@pytest.mark.parametrize("name", REFERENCES)
def test_references_that_are_no_file(tmp_path: Path, name: str) -> None:
    predictions = write(tmp_path / "p.jsonl", {"id": "a", "prediction": "Rome"})
    with pytest.raises(ValueError, match=r"gone.jsonl: no such file; check the path"):
        command(name, f"--predictions={predictions}", f"--references={tmp_path / 'gone.jsonl'}")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(ValueError, match="there are no references; check the reference file and the split"):
        command(name, f"--predictions={predictions}", f"--references={empty}")


def test_scoring_imports_neither_torch_nor_transformers(golden_dir: Path, tmp_path: Path) -> None:
    """Every benchmark, by both scorers, through the real command in a process of its own."""
    words = [
        [*arguments(golden_dir, name), f"--scorer={scorer}", f"--output={tmp_path / 'o.json'}"]
        for name in OPTIONS
        for scorer in ("official", "paper")
    ]
    program = (
        "import sys; from comem.cli import main\n"
        f"assert all(main(['evaluate', *words]) == 0 for words in {words!r})\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'faiss', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
