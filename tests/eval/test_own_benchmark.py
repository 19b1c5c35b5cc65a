"""A benchmark of one's own, as a plug-in: answered, interrupted, scored, compared and reported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from comem import registry
from comem.benchmarks import BENCHMARKS, Benchmark, per_example
from comem.cli import main
from comem.io.jsonl import read_json, read_jsonl
from comem.types import Example
from tests.eval.conftest import predictions, words

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugins" / "benchmark_own_jsonl.py"


@pytest.fixture
def own(world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The small world's questions in a form of one's own."""
    monkeypatch.setenv("COMEM_PLUGINS", "")  # what this test loads is not for later ones
    monkeypatch.setattr(registry, "_loaded", dict(registry._loaded))
    monkeypatch.setattr(BENCHMARKS, "_rows", dict(BENCHMARKS._rows))
    file = world / "own.jsonl"
    rows = [
        {
            "id": row["data_id"], "question": row["question"], "image": row["image_path"],
            "answers": row["answer"], "topic": row["data_split"],
        }
        for row in read_jsonl(world / "test.jsonl")
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    yield file


def test_from_the_command_line_to_the_score(
    world: Path, model: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, bank, run = str(model.parent / "encoder"), str(tmp_path / "bank"), tmp_path / "run"
    plugin = ("--plugin", str(PLUGIN))
    store = ["bank", "build", "--encoder", encoder, "--index", str(world / "index"), "--output", bank]
    assert main(store) == 0
    command = words(world, model, "comem", run, *plugin, "--bank", bank)
    command[command.index("toy")] = "own_jsonl"
    command[command.index(str(world / "test.jsonl"))] = str(own)
    assert main([*command, "--limit", "1"]) == 0
    first = (run / "predictions.jsonl").read_bytes()
    assert main(command) == 0  # the rest
    assert (run / "predictions.jsonl").read_bytes().startswith(first) and len(predictions(run)) == 3
    assert read_json(run / "run.json")["counts"]["resumed"] == 1
    plain = command.copy()
    plain[plain.index(str(run))] = str(tmp_path / "plain")
    assert main([*plain, "--engine", "transformers"]) == 0
    texts = [
        {r["data_id"]: r["prediction"] for r in predictions(tmp_path / name)} for name in ("run", "plain")
    ]
    assert texts[0] == texts[1]

    metrics = read_json(run / "metrics.json")
    answers = {row["id"]: row["answers"] for row in read_jsonl(own)}
    expected = [
        max(SequenceMatcher(None, row["prediction"].lower(), each.lower()).ratio() for each in answers[key])
        for row in predictions(run)
        if (key := row["data_id"])
    ]
    assert metrics["accuracy"] == pytest.approx(100 * sum(expected) / 3) and metrics["total"] == 3
    assert metrics["scorer"] == "official" and metrics["definition"].startswith("letters in common")
    out = tmp_path / "again.json"
    files = ["--predictions", str(run / "predictions.jsonl"), "--references", str(own)]
    other = ["--compare", str(tmp_path / "plain" / "predictions.jsonl")]
    assert main(["evaluate", "own_jsonl", *plugin, *files, *other, "--output", str(out)]) == 0
    again = read_json(out)
    assert again["accuracy"] == metrics["accuracy"] and again["confidence"] == metrics["confidence"]
    assert again["comparison"]["accuracy"]["difference"] == 0.0
    assert main(["report", str(run), "--output", str(tmp_path / "report")]) == 0
    assert "own_jsonl · accuracy" in capsys.readouterr().out
    assert main(["evaluate", "own_jsonl", *plugin, *files, "--scorer", "paper"]) == 2
    assert "unknown scorer 'paper'; known: official" in capsys.readouterr().err


def test_what_an_answer_earns_is_a_share(world: Path) -> None:
    row = Benchmark("mine", lambda files: iter(()), per_example(lambda answer, example: 2.0))
    with pytest.raises(ValueError, match="mine: the answer to 'q' earns 2; give 0 to 1"):
        row.score({"q": "x"}, [Example("q", "?", None)])
    with pytest.raises(ValueError, match="there is a benchmark 'toy' already"):
        BENCHMARKS.register("toy", row)
