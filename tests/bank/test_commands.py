"""`comem bank` from the command line: corpus to bank in one go, and answers from it without the encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comem.bank.format import shard_name
from comem.bank.reader import MemoryStore
from comem.bank.writer import StoreWriter
from comem.cli import main
from comem.toy.dataset import DataSettings
from comem.toy.dataset import build as build_world

Shown = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model's folder, and beside it an adapter's."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    from comem.backbones.hf import load_backbone
    from comem.memory.lora import LoraSettings
    from comem.memory.qformer import QFormerConfig
    from comem.memory.qformer_encoder import QFormerEncoder
    from tools.toy.backbone import build_config, build_processor
    from tools.toy.tokenizer import build_tokenizer

    folder = tmp_path_factory.mktemp("model") / "backbone"
    torch.manual_seed(0)
    tokenizer = build_tokenizer(vocab_size=600)
    network: Any = Qwen2_5_VLForConditionalGeneration(build_config(tokenizer, hidden=128, layers=1))
    network.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    backbone = load_backbone(folder)
    qformer = QFormerConfig(128, depth=1, heads=2, dim_head=8)
    QFormerEncoder.new(backbone.model, backbone.processor, LoraSettings(rank=2), qformer).save(
        folder.parent / "encoder"
    )
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A corpus, and index and bank that one command made of it."""
    folder = tmp_path_factory.mktemp("world")
    build_world(DataSettings(folder, size=10, train_questions=2, test_questions=3, image_size=32))
    assert main(build(folder, model)) == 0
    return folder


def build(world: Path, model: Path, *more: str) -> list[str]:
    return [
        "bank", "build", "--encoder", str(model.parent / "encoder"), "--corpus", str(world / "wit.tsv.gz"),
        "--embedder", "toy", "--index", str(world / "index"), "--output", str(world / "bank"),
        "--form", "fp32", *more,
    ]  # fmt: skip


def predict(world: Path, model: Path, output: Path, *more: str) -> list[dict[str, Any]]:
    words = [
        "predict", "--benchmark", "toy", "--data", str(world / "test.jsonl"), "--model", str(model),
        "--mode", "comem", "--output", str(output), "--max-new-tokens", "2", "--index", str(world / "index"),
        "-k", "2", *more,
    ]  # fmt: skip
    assert main(words) == 0
    rows = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in ("data_id", "prediction")} for row in rows]


def test_a_second_build_encodes_nothing(world: Path, model: Path, capsys: Shown) -> None:
    assert main(build(world, model)) == 0
    words = capsys.readouterr().out.split()
    assert words[words.index("encoded") + 1] == "0" and words[words.index("unchanged") + 1] == "10"
    with MemoryStore(world / "bank") as store:
        assert store.info.encoder.prompt and store.info.encoder.max_pixels
        assert (len(store), store.info.queries, store.info.width) == (10, 8, 128)


def test_answers_without_encoder_calls(world: Path, model: Path, tmp_path: Path, capsys: Shown) -> None:
    encoder = ("--encoder", str(model.parent / "encoder"))
    direct = predict(world, model, tmp_path / "direct", *encoder)
    capsys.readouterr()
    bank = ("--bank", str(world / "bank"))
    assert predict(world, model, tmp_path / "stored", *bank, *encoder) == direct
    assert "0 encoded in 0 encoder calls" in capsys.readouterr().out
    assert predict(world, model, tmp_path / "alone", *bank) == direct


def test_missing_items_are_filled_in(world: Path, model: Path, tmp_path: Path, capsys: Shown) -> None:
    assert main(["bank", "export", str(world / "bank"), "--output", str(tmp_path / "bank")]) == 0
    with StoreWriter(tmp_path / "bank") as writer:
        writer.remove(writer.table.ids())
    more = ("--bank", str(tmp_path / "bank"), "--encoder", str(model.parent / "encoder"))
    first = predict(world, model, tmp_path / "first", *more)
    shown = capsys.readouterr().out
    assert "0 encoded" not in shown and "in 1 encoder calls" in shown
    assert predict(world, model, tmp_path / "second", *more) == first
    assert "0 encoded in 0 encoder calls" in capsys.readouterr().out


def test_info(world: Path, capsys: Shown) -> None:
    assert main(["bank", "info", str(world / "bank")]) == 0
    shown = capsys.readouterr().out
    assert "10 of 8 × 128" in shown and "fp32, 4,096 bytes an item" in shown and "pixels" in shown


def test_verify(world: Path, tmp_path: Path, capsys: Shown) -> None:
    assert main(["bank", "verify", str(world / "bank")]) == 0
    small = tmp_path / "small"
    assert main(["bank", "export", str(world / "bank"), "--form", "int8", "--output", str(small)]) == 0
    path = small / shard_name(0)
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["bank", "verify", str(small), "--drop-damaged"]) == 1
    assert "was cut or lost" in capsys.readouterr().out
    assert main(["bank", "verify", str(small)]) == 0


def test_export_and_merge(world: Path, tmp_path: Path, capsys: Shown) -> None:
    bank = str(world / "bank")
    with MemoryStore(bank) as store:
        ids = store.table.ids()
    (tmp_path / "ids").write_text("\n".join(ids[:4]) + "\n")
    some, rest, whole = tmp_path / "some", tmp_path / "rest.safetensors", tmp_path / "whole"
    assert main(["bank", "export", bank, "--ids", str(tmp_path / "ids"), "--output", str(some)]) == 0
    (tmp_path / "ids").write_text("\n".join(ids[4:]))
    assert main(["bank", "export", bank, "--ids", str(tmp_path / "ids"), "--output", str(rest)]) == 0
    assert main(["bank", "merge", str(some), "--output", str(whole)]) == 0
    with MemoryStore(whole) as store:
        assert store.table.ids() == ids[:4] and store.info.form == "fp32"
    assert main(["bank", "merge", str(rest), "--output", str(tmp_path / "from-file")]) == 0
    assert len(MemoryStore(tmp_path / "from-file")) == 6


def test_the_same_from_python(world: Path, model: Path, tmp_path: Path) -> None:
    """Text may stand for paths; a folder's memories are those of the file that the same items make."""
    import torch

    import comem

    where = {"encoder": str(model.parent / "encoder"), "index": str(world / "index"), "form": "fp32"}
    counts = comem.encode(comem.EncodeSettings(**where, output=str(tmp_path / "bank")))
    assert (counts.items, counts.encoded) == (10, 10)
    assert comem.encode(comem.EncodeSettings(**where, output=str(tmp_path / "bank"))).unchanged == 10
    comem.encode(comem.EncodeSettings(**where, output=str(tmp_path / "bank.safetensors")))
    folder, file = comem.open_bank(tmp_path / "bank"), comem.open_bank(tmp_path / "bank.safetensors")
    with MemoryStore(tmp_path / "bank") as store:
        items = [comem.KnowledgeItem(item_id, "", None) for item_id in store.table.ids()]
    assert torch.equal(folder.of(items).embeddings, file.of(items).embeddings)
    assert (folder.width, folder.fingerprint) == (file.width, file.fingerprint)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["info", "{bank}/none"], "no such folder; make one with comem bank build"),
        (["export", "{bank}", "--form", "gzip", "--output", "x"], "unknown form of a memory bank 'gzip'"),
        (["export", "{bank}", "--form", "pq", "--output", "x.safetensors"], "--form is for folders"),
        (["export", "{bank}", "--form", "pq", "--output", "x"], "10 items give 80 vectors, 256 are needed"),
        (["build", "--encoder", "toy", "--output", "x"], "either --items FILE or --index DIR"),
        (["build", "--encoder", "toy", "--output", "x", "--items", "a", "--corpus", "b"], "--corpus needs"),
    ],
)
def test_bad_input(
    world: Path,
    words: list[str],
    message: str,
    capsys: Shown,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bank", *(word.format(bank=world / "bank") for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_ones_own_folder_and_the_real_flags(
    model: Path, tmp_path: Path, flags_dir: Path, capsys: Shown
) -> None:
    """A folder as it is, of pictures with a table or of WIT shards, becomes index and bank in one command.

    The same command again, after the folder has changed, encodes what is new or has changed.
    """
    from PIL import Image

    own = tmp_path / "own"
    own.mkdir()
    lines = ["id,file_name,text"]
    for number, colour in enumerate(((200, 0, 0), (0, 0, 200), (0, 150, 0))):
        Image.new("RGB", (40, 40), colour).save(own / f"{number}.png")
        lines.append(f"p{number},{number}.png,picture number {number}")
    (own / "metadata.csv").write_text("\n".join(lines) + "\n")
    words = ["bank", "build", "--encoder", str(model.parent / "encoder"), "--embedder", "toy"]
    for folder, name, count in ((own, "own", 3), (flags_dir, "flags", 1225)):
        kb = tmp_path / f"kb_{name}"
        places = ["--index", str(kb / "index"), "--output", str(kb / "bank"), "--batch-size", "64"]
        assert main([*words, "--corpus", str(folder), *places]) == 0
        with MemoryStore(kb / "bank") as store:
            assert len(store) == count
    Image.new("RGB", (40, 40), (250, 250, 0)).save(own / "3.png")
    (own / "metadata.csv").write_text("\n".join([*lines[:3], "p2,2.png,other words", "p3,3.png,new"]) + "\n")
    kb = tmp_path / "kb_own"
    capsys.readouterr()
    assert (
        main([*words, "--corpus", str(own), "--index", str(kb / "index"), "--output", str(kb / "bank")]) == 0
    )
    found = capsys.readouterr().out.split()
    assert [found[found.index(word) + 1] for word in ("items", "encoded", "unchanged")] == ["4", "2", "2"]
