"""`comem profile` from end to end at the smallest size."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from comem.cli import main

SIZES = (
    "--item-tokens 12 --question-tokens 12 --image-tokens 4 --answer-tokens 2 --batch 1 --repeats 1".split()
)


def profile(folder: Path, *words: str) -> int:
    return main(["profile", "--device", "cpu", *SIZES, "--out", str(folder), *words])


def test_results_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert profile(tmp_path, "--backbone", "tiny", "--k", "2") == 0
    found = json.loads((tmp_path / "profile.json").read_text())
    assert [row["mode"] for row in found["cells"]] == ["baseline", "rag", "comem", "comem-bank"]
    assert all(row["repeats"] == 1 and row["seconds"]["p95"] > 0 for row in found["cells"])
    assert found["cells"][3]["read_seconds"]["p50"] < found["cells"][3]["first_token_seconds"]["p50"]
    assert (tmp_path / "profile.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "profile.md").read_text().count("\n") == 6
    assert "comem-bank" in capsys.readouterr().out


@pytest.mark.slow
def test_traces(tmp_path: Path) -> None:
    assert profile(tmp_path, "--backbone", "tiny", "--k", "2", "--modes", "baseline", "--profile") == 0
    found = json.loads((tmp_path / "profile.json").read_text())["traces"]
    for name in ("prefill", "decode", "encode"):
        trace = json.loads(gzip.decompress((tmp_path / f"trace_{name}.json.gz").read_bytes()))
        assert any(event.get("name") == "aten::addmm" for event in trace["traceEvents"])
        assert found[name]["operations"][0]["milliseconds"] > 0


def test_a_real_backbone_has_its_preprocessing_beside_it(tmp_path: Path) -> None:
    assert profile(tmp_path, "--backbone", "toy", "--k", "0", "--modes", "baseline") == 0
    found = json.loads((tmp_path / "profile.json").read_text())
    assert set(found["preprocess_seconds"]) == {"question", "item"}
    assert found["preprocess_seconds"]["item"] > 0 and "repeats" in found["cells"][0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backbone", "tiny", "--engine", "vllm"], "unknown engine 'vllm'"),
        (["--backbone", "cpux"], "shapes with random weights: tiny, cpu"),
        (["--backbone", "tiny", "--batch", "0"], "batches from 1"),
    ],
)
def test_what_cannot_be_is_said(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert profile(tmp_path, *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
