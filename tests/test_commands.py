"""`comem encode` and `comem parity` from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from comem.cli import main

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "qwen2_vl"


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden folder with one case only, which is quick."""
    if not GOLDEN.is_dir():
        pytest.skip("the optional folder ../shared/golden is absent")
    folder = tmp_path_factory.mktemp("golden") / "one"
    shutil.copytree(GOLDEN, folder, ignore=shutil.ignore_patterns("case_k3*", "case_k10*"))
    return folder


def test_parity_passes(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", str(golden)]) == 0
    shown = capsys.readouterr().out
    assert "train_loss" in shown and "within the tolerance of 1e-05" in shown


def test_parity_fails_above_the_tolerance(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", str(golden), "--tolerance", "1e-12"]) == 1
    shown = capsys.readouterr().out
    assert "TOO FAR" in shown and "ABOVE" in shown


def test_parity_refuses_a_tolerance_that_passes_everything(
    golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["parity", str(golden), "--tolerance", "nan"]) == 2
    assert "--tolerance nan" in capsys.readouterr().err


def test_encode_refuses_another_file_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    items = tmp_path / "items.jsonl"
    items.write_text(json.dumps({"id": "1", "text": "x", "image": "a.png"}) + "\n")
    assert main(["encode", "--encoder", "toy", "--items", str(items), "--output", "bank.pt"]) == 2
    assert "a bank is one .safetensors file" in capsys.readouterr().err
