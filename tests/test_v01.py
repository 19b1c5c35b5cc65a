"""Files and folders that comem 0.1 wrote (tests/v01) open with the code of today, and runs go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comem.cli import main

FILES = Path(__file__).parent / "v01"


@pytest.fixture()
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`there(*names)`: copies of these files, in the current folder."""

    def copy(*names: str) -> Path:
        for name in names:
            source = FILES / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return copy


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_bank_in_one_file_and_in_a_folder_hold_the_same() -> None:
    from comem.bank.reader import MemoryStore
    from comem.bank.upkeep import verify_store
    from comem.memory.bank import MemoryBank

    bank = MemoryBank.load(FILES / "bank.safetensors")
    assert bank.embeddings.shape == (10, 8, 128)
    for form, most in (("bf16", 2**-8), ("int8", 1 / 127)):
        with MemoryStore(FILES / f"bank-{form}", bank.fingerprint, 128) as store:
            assert verify_store(store.folder).good and len(store) == 10
            difference = np.abs(store.read(bank.ids) - bank.embeddings.numpy()).max()
        assert difference <= most * float(bank.embeddings.abs().max())


@pytest.mark.parametrize("bank", ["bank.safetensors", "bank-bf16", "bank-int8"])
def test_a_bank_is_gone_on_with(
    bank: str, there: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The embedded encoder is the one that made it, so nothing is encoded again."""
    folder = there(bank, "index", "data")
    before = (folder / bank / "shard-00000.bin" if bank.startswith("bank-") else folder / bank).read_bytes()
    words = ["encode"] if bank.endswith(".safetensors") else ["bank", "build"]
    assert main([*words, "--encoder", "toy", "--index", "index", "--output", bank]) == 0
    after = (folder / bank / "shard-00000.bin" if bank.startswith("bank-") else folder / bank).read_bytes()
    assert before == after
    if bank.startswith("bank-"):
        assert rows(folder / bank / "builds.jsonl")[-1]["counts"]["unchanged"] == 10


def test_an_encoder_makes_memories(there: Callable[..., Path]) -> None:
    from comem.memory.encoder import load_encoder
    from comem.types import KnowledgeItem

    folder = there("base", "encoder")
    encoder = load_encoder(folder / "encoder")
    about = json.loads((folder / "encoder" / "comem_encoder.json").read_text())
    assert encoder.fingerprint() == about["fingerprint"]
    assert encoder.encode([KnowledgeItem("k0", "It is ab.", None)]).embeddings.shape == (1, 2, 32)


def test_an_index_is_searched_and_not_built_again(there: Callable[..., Path]) -> None:
    from comem.retrieval.index import VectorIndex

    folder = there("index", "data")
    before = (folder / "index" / "index.faiss").read_bytes()
    assert len(VectorIndex(folder / "index")) == 10
    words = ["retrieve", "--questions", "data/test.jsonl", "--index", "index", "-k", "2", "--output", "found"]
    assert main(words) == 0
    found = {row["example_id"]: row["ids"] for row in rows(folder / "found")}
    assert found == {row["data_id"]: row["knowledge_ids"] for row in rows(FILES / "whole.jsonl")}
    shutil.rmtree(folder / "index" / "embeddings" / "shards")
    (folder / "index" / "index.faiss").unlink()
    words = ["--corpus", "data/wit.tsv.gz", "--output", "index", "--embedder", "toy"]
    assert main(["index", "build", *words]) == 0
    assert (folder / "index" / "index.faiss").read_bytes() == before


def test_a_killed_run_goes_on(there: Callable[..., Path]) -> None:
    folder = there("data", "index", "bank.safetensors", "run")
    done = rows(folder / "run" / "predictions.jsonl")
    words = json.loads((folder / "run" / "run.json").read_text())["command"][1:]
    assert len(done) == 2 and main(words) == 0
    found, whole = rows(folder / "run" / "predictions.jsonl"), rows(FILES / "whole.jsonl")
    assert found[:2] == done
    answers = [{row["data_id"]: (row["prediction"], row["knowledge_ids"]) for row in each}
               for each in (found, whole)]  # fmt: skip
    assert answers[0] == answers[1] and len(found) == 6


def test_a_killed_training_goes_on(there: Callable[..., Path]) -> None:
    folder = there("base", "train")
    words = json.loads((folder / "train" / "run.json").read_text())["command"][1:]
    assert main(words) == 0
    found, whole = rows(folder / "train" / "metrics.jsonl"), rows(FILES / "trained.jsonl")
    assert found[:2] == rows(FILES / "train" / "metrics.jsonl")
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in whole], rel=1e-4)
    assert main(["merge", "train", "merged", "--dry-run"]) == 0
