"""The plug-ins in examples/, from outside the package: from `comem predict` to the score, and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from comem import registry
from comem.benchmarks import BENCHMARKS
from comem.cli import main
from comem.memory.encoder import ENCODERS
from comem.memory.injection import INJECTIONS
from comem.modes import MODES
from comem.retrieval.retriever import RETRIEVERS

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


@pytest.mark.parametrize("plugin", sorted(PLUGINS.glob("*.py")), ids=lambda path: path.stem)
def test_a_plugin_is_short(plugin: Path) -> None:
    assert len(plugin.read_text(encoding="utf-8").splitlines()) <= 40
