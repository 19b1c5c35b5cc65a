"""What is shipped: its size, the logs and cards beside it, and that its measured figures meet the aims."""

from __future__ import annotations

import json
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

import comem.toy
from comem.toy.lexicon import LANGUAGES
from comem.toy.world import World

WEIGHTS = Path(comem.toy.__file__).parent / "weights"


def read(name: str) -> dict[str, Any]:
    return json.loads((WEIGHTS / name / "evaluation.json").read_text(encoding="utf-8"))


def test_all_of_it_takes_less_than_16_mb() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) < 16_000_000


def test_the_backbone_has_one_to_eight_million_parameters() -> None:
    with safe_open(WEIGHTS / "backbone" / "model.safetensors", "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (not a dict)
    assert 1e6 <= sum(map(math.prod, shapes)) <= 8e6


@pytest.mark.parametrize("name", ["backbone", "clip", "memory"])
def test_cards_logs_and_measurements_lie_beside_the_weights(name: str) -> None:
    files = {path.name for path in (WEIGHTS / name).iterdir()}
    assert {"README.md", "evaluation.json"} <= files
    assert files & {"training_log.jsonl", "training_log.json"} and any(
        "safetensors" in each for each in files
    )
    assert re.search(r"`bash (scripts/toy/train_\w+\.sh)`", (WEIGHTS / name / "README.md").read_text())


def test_the_backbone_reads_and_knows_nothing_by_heart() -> None:
    """With the right item among three, on test towns, in every language; without it, the guess."""
    accuracy = read("backbone")["accuracy"]
    assert set(accuracy["rag"]) == {"all", *LANGUAGES} and min(accuracy["rag"].values()) >= 85
    margin = 100 * 2 * math.sqrt(0.08 * 0.92 / read("backbone")["questions"])  # two standard errors
    assert accuracy["baseline"]["all"] <= accuracy["guess"]["all"] + margin


def test_the_memory_comes_near_to_the_items_themselves() -> None:
    accuracy = {mode: scores["all"] for mode, scores in read("memory")["accuracy"].items()}
    assert accuracy["comem"] >= 0.8 * accuracy["rag"] and accuracy["comem"] >= 5 * accuracy["baseline"]


@pytest.mark.parametrize("name", ["backbone", "memory"])
def test_cards_say_what_was_measured(name: str) -> None:
    card = (WEIGHTS / name / "README.md").read_text(encoding="utf-8")
    for mode, scores in read(name)["accuracy"].items():
        (line,) = re.findall(rf"^\| {mode}\b.*$", card, re.MULTILINE)
        assert [float(cell) for cell in line.split("|")[2:-1]] == pytest.approx(
            [scores[key] for key in ("all", "bg", "en", "es", "pt", "ru", "zh")], abs=0.051
        )


@pytest.mark.parametrize("language", LANGUAGES)
def test_passages_are_as_long_as_is_said(language: str) -> None:
    tokenizer = Tokenizer.from_file(str(WEIGHTS / "backbone" / "tokenizer.json"))
    texts = [f"{town.name}: {town.passage(language)}" for town in World().entities[:200]]
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    assert min(lengths) >= 46 and max(lengths) <= 99


def test_git_holds_no_other_weights() -> None:
    root = WEIGHTS.parents[2]
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    elsewhere = [name for name in listed.stdout.split() if name.endswith((".safetensors", ".bin", ".pt"))]
    # Beside the embedded models: small files of 0.1, for a test, and one memory of a pretrained reader.
    places = ("comem/toy/weights/", "tests/v01/", "tools/smollm2/memory/")
    assert all(name.startswith(places) for name in elsewhere)
