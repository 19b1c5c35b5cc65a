"""`comem data synthesise` from the command line, on the embedded model and a tiny world."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comem.cli import main
from comem.retrieval.index import IndexSettings, build_index
from comem.toy.dataset import DataSettings
from comem.toy.dataset import build as build_world
from comem.training.data import load_examples


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    build_world(DataSettings(folder, size=10, train_questions=6, test_questions=2))
    settings = IndexSettings(corpus=(str(folder / "wit.tsv.gz"),), output=folder / "index", embedder="toy")
    build_index(settings)
    return folder


def words(world: Path, output: Path, *more: str) -> list[str]:
    return [
        "data", "synthesise", "--benchmark", "toy", "--data", str(world / "train.jsonl"), "--device", "cpu",
        "--index", str(world / "index"), "-k", "1", "--max-new-tokens", "8", "--output", str(output), *more,
    ]  # fmt: skip


def test_from_questions_to_records_twice_the_same(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(world, tmp_path, "--candidates", "6")) == 0
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["candidates"] == 6 == manifest["kept"] + sum(manifest["dropped"].values())
    assert manifest["decoding"]["temperature"] == 0.0 and manifest["config"]["k"] == 1
    assert manifest["config"]["model"] == "toy" and manifest["prompt"]["first"]
    kept, before = load_examples(tmp_path / "train.jsonl"), (tmp_path / "train.jsonl").read_bytes()
    assert len(kept) == manifest["kept"] and all(len(each.items) == 1 for each in kept)
    assert main(["data", "check", str(tmp_path / "train.jsonl")]) == 0
    assert main(words(world, tmp_path, "--candidates", "6")) == 0  # resumed: nothing is asked again
    assert json.loads((tmp_path / "run" / "run.json").read_text())["counts"]["predicted"] == 0
    assert (tmp_path / "train.jsonl").read_bytes() == before
    assert "kept" in capsys.readouterr().out


def test_another_seed_needs_another_folder(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(world, tmp_path, "--candidates", "3")) == 0
    assert main(words(world, tmp_path, "--candidates", "3", "--seed", "5")) == 2
    assert "seed" in capsys.readouterr().err
