"""The plug-ins in examples/, from outside the package: from `comem predict` to the score, and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from comem import registry
from comem.benchmarks import BENCHMARKS, Benchmark, per_example
from comem.cli import main
from comem.memory.encoder import ENCODERS
from comem.memory.injection import INJECTIONS
from comem.modes import MODES
from comem.retrieval.retriever import RETRIEVERS
from comem.types import Example

PLUGINS = Path(__file__).resolve().parent.parent / "examples" / "plugins"
Predict = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.setenv(registry.VARIABLE, "")
    for rows in (MODES, ENCODERS, INJECTIONS, BENCHMARKS, RETRIEVERS):
        monkeypatch.setattr(rows, "_rows", dict(rows._rows))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world with its index."""
    folder = tmp_path_factory.mktemp("world")
    build = ["toy", "build", str(folder / "toy"), "--size", "30", "--languages", "en"]
    index = ["index", "build", "--corpus", str(folder / "toy/wit.tsv.gz"), "--embedder", "toy"]
    assert main(build) == 0 and main([*index, "--output", str(folder / "index")]) == 0
    return folder


@pytest.fixture()
def predict(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Predict:
    """`comem predict` with a plug-in; the answers, after running twice: the second time nothing is left."""

    def run(plugin: str, *words: str, name: str = "run") -> list[str]:
        output = tmp_path / name
        given = ["--plugin", str(PLUGINS / plugin)] if plugin else []
        line = [
            "predict", *given, "--benchmark", "toy", "--data", str(world / "toy/test.jsonl"),
            "--index", str(world / "index"), "-k", "3", "--limit", "6", "--output", str(output), *words,
        ]  # fmt: skip
        assert main(line) == 0
        assert (output / "metrics.json").is_file()
        before = (output / "predictions.jsonl").read_bytes()
        assert main(line) == 0  # resumed: nothing is answered again
        assert (output / "predictions.jsonl").read_bytes() == before
        capsys.readouterr()
        return [json.loads(row)["prediction"] for row in before.decode().splitlines()]

    return run


def bank(world: Path, folder: Path, plugin: str, encoder: str) -> str:
    words = ["--index", str(world / "index"), "--encoder", encoder, "--output", str(folder)]
    assert main(["bank", "build", "--plugin", str(PLUGINS / plugin), *words, "--form", "fp32"]) == 0
    return str(folder)


def test_encoder(world: Path, predict: Predict, tmp_path: Path) -> None:
    """From the bank as from the encoder, by the engine as by transformers."""
    plugin, words = "encoder_mean_pooled.py", ("--mode", "comem", "--encoder", "mean_pooled")
    fresh = predict(plugin, *words)
    assert len(fresh) == 6
    made = bank(world, tmp_path / "store", plugin, "mean_pooled@toy")
    assert predict(plugin, *words, "--bank", made, name="bank") == fresh
    assert predict(plugin, *words, "--engine", "transformers", name="plain") == fresh
    trained = predict("", "--mode", "comem", "--encoder", "toy", name="trained")
    assert trained != fresh


def test_injection(world: Path, predict: Predict, tmp_path: Path) -> None:
    plugin = "injection_after_system.py"
    words = ("--mode", "comem", "--encoder", "toy", "--injection", "after_system")
    moved = predict(plugin, *words)
    assert predict(plugin, *words, "--engine", "transformers", name="plain") == moved
    made = bank(world, tmp_path / "store", plugin, "toy")
    assert predict(plugin, *words, "--bank", made, name="bank") == moved
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["config"]["injection"] == "after_system"


def test_mode(world: Path, predict: Predict, tmp_path: Path) -> None:
    words = ("--mode", "best_raw", "--encoder", "toy")
    answers = predict("mode_best_raw.py", *words)
    assert predict("mode_best_raw.py", *words, "--engine", "transformers", name="plain") == answers
    made = bank(world, tmp_path / "store", "mode_best_raw.py", "toy")
    assert predict("mode_best_raw.py", *words, "--bank", made, name="bank") == answers
    rows = [json.loads(row) for row in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert {row["context_tokens"] for row in rows} == {16}  # of three items two are memory


def test_retriever(world: Path, predict: Predict, tmp_path: Path) -> None:
    """Other items than the index finds; kept, noted, and the same for every reader of them."""
    plugin, words = "retriever_by_words.py", ("--retriever", "by_words")
    answers = predict(plugin, *words, "--mode", "comem", "--encoder", "toy")
    plain = ("--mode", "comem", "--encoder", "toy", "--engine", "transformers")
    assert predict(plugin, *words, *plain, name="plain") == answers
    made = bank(world, tmp_path / "store", plugin, "toy")
    assert predict(plugin, *words, "--mode", "comem", "--bank", made, name="bank") == answers
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["config"]["retriever"] == "by_words"
    noted = json.loads((tmp_path / "run" / "contexts.manifest.json").read_text())
    assert noted["retriever"] == "by_words"
    found = [json.loads(row) for row in (tmp_path / "run" / "contexts.jsonl").read_text().splitlines()]
    assert all(len(row["ids"]) == 3 and row["scores"] == sorted(row["scores"], reverse=True) for row in found)
    predict("", "--mode", "rag", name="index")
    nearest = [json.loads(row) for row in (tmp_path / "index" / "contexts.jsonl").read_text().splitlines()]
    assert [row["ids"] for row in nearest] != [row["ids"] for row in found]


def test_benchmark(world: Path, predict: Predict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked and scored as the file says, scored again from the files, compared and reported."""
    data = world / "toy" / "own.jsonl"
    told = [json.loads(row) for row in (world / "toy/test.jsonl").read_text().splitlines()]
    rows = [
        {"id": row["data_id"], "question": row["question"], "image": row["image_path"],
         "answers": row["answer"], "topic": row["data_split"]}
        for row in told
    ]  # fmt: skip
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plugin, mine = "benchmark_own_jsonl.py", ("--benchmark", "own_jsonl", "--data", str(data))
    shown = ("--mode", "comem", "--encoder", "toy")
    answers = predict(plugin, *mine, *shown)
    assert predict(plugin, *mine, *shown, "--engine", "transformers", name="plain") == answers
    made = bank(world, tmp_path / "store", plugin, "toy")
    assert predict(plugin, *mine, "--mode", "comem", "--bank", made, "--limit", "2", name="part") != answers
    predict(plugin, *mine, "--mode", "comem", "--bank", made, name="part")  # the rest of them
    run = tmp_path / "part"
    lines = map(json.loads, (run / "predictions.jsonl").read_text().splitlines())
    said = {row["data_id"]: row["prediction"] for row in lines}
    assert sorted(said.values()) == sorted(answers)
    earned = [
        max(SequenceMatcher(None, said[row["id"]].lower(), each.lower()).ratio() for each in row["answers"])
        for row in rows
        if row["id"] in said
    ]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["accuracy"] == pytest.approx(100 * sum(earned) / 6) and metrics["total"] == 6
    out, given = tmp_path / "again.json", ["--plugin", str(PLUGINS / plugin)]
    files = ["--predictions", str(run / "predictions.jsonl"), "--references", str(data)]
    other = ["--compare", str(tmp_path / "plain" / "predictions.jsonl"), "--output", str(out)]
    assert main(["evaluate", "own_jsonl", *given, *files, *other]) == 0
    again = json.loads(out.read_text())
    assert again["answered"] == 6 and again["total"] == len(rows)
    assert again["accuracy"] == metrics["accuracy"] and again["comparison"]["accuracy"]["difference"] == 0.0
    assert main(["report", str(run), "--output", str(tmp_path / "report"), *given]) == 0
    assert "own_jsonl · accuracy" in capsys.readouterr().out
    assert main(["evaluate", "own_jsonl", *given, *files, "--scorer", "paper"]) == 2
    assert "unknown scorer 'paper'; known: official" in capsys.readouterr().err


def test_what_an_answer_earns_is_a_share() -> None:
    row = Benchmark("mine", lambda files: iter(()), per_example(lambda answer, example: 2.0))
    with pytest.raises(ValueError, match="mine: the answer to 'q' earns 2; give 0 to 1"):
        row.score({"q": "x"}, [Example("q", "?", None)])
    with pytest.raises(ValueError, match="there is a benchmark 'toy' already"):
        BENCHMARKS.register("toy", row)


@pytest.mark.parametrize("plugin", sorted(PLUGINS.glob("*.py")), ids=lambda path: path.stem)
def test_a_plugin_is_short(plugin: Path) -> None:
    assert len(plugin.read_text(encoding="utf-8").splitlines()) <= 40
