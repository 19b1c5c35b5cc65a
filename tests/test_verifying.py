"""`comem verify`: whatever was written, every changed byte is told, and what has no checksums is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from comem.cli import main
from comem.memory.bank import read_tensors, write_tensors
from comem.memory.encoder import load_encoder, toy_memory, write_about
from comem.retrieval.evaluate import RawPixels
from comem.retrieval.index import IndexSettings, build_index
from comem.training import checkpoint as ckpt
from comem.training.checkpoint import RunState
from comem.verifying import VerifyAnySettings, verify


def flips(path: Path, count: int = 12) -> list[bytes]:
    whole = path.read_bytes()
    places = range(0, len(whole), max(1, len(whole) // count))
    return [whole[:n] + bytes([whole[n] ^ (1 << n % 8)]) + whole[n + 1 :] for n in places]


def check_each_byte_counts(folder: Path) -> None:
    assert all(not found.faults for found in verify(VerifyAnySettings((folder,))))
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        whole = path.read_bytes()
        for content in [*flips(path), whole[:-3], None]:
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
            try:
                assert any(found.faults for found in verify(VerifyAnySettings((folder,)))), path
            except ValueError as error:  # what says what the folder is, is gone
                assert content is None and str(folder) in str(error)
            path.write_bytes(whole)


@pytest.fixture()
def encoder(tmp_path: Path) -> Path:
    """The embedded encoder, written anew."""
    source = toy_memory()

    def write(folder: Path) -> None:
        for name in ("adapter.safetensors", "qformer.safetensors"):
            write_tensors(folder / name, {"x": read_tensors(source / name).popitem()[1][:4]})

    write_about(tmp_path / "encoder", {"encoder": "qformer", "fingerprint": "f" * 64}, write)
    return tmp_path / "encoder"


def test_an_encoder(encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_each_byte_counts(encoder)
    assert main(["verify", str(encoder)]) == 0
    path = encoder / "qformer.safetensors"
    path.write_bytes(flips(path)[-1])
    assert main(["verify", str(encoder)]) == 1
    assert "damaged: " in capsys.readouterr().out
    with pytest.raises(ValueError, match="its checksum differs"):
        read_tensors(path)
    with pytest.raises(ValueError, match=r"qformer.safetensors: was changed .*its checksum differs"):
        load_encoder(encoder)


def test_a_checkpoint_and_its_run(tmp_path: Path) -> None:
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW([{"params": [layer.weight], "names": ["weight"]}])
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()

    def encoder(folder: Path) -> None:
        write_tensors(folder / "qformer.safetensors", {"x": torch.ones(3)})

    path = ckpt.save_checkpoint(tmp_path / "checkpoints", RunState(4, 1.0), optimizer, encoder)
    check_each_byte_counts(path)
    assert [found.path for found in verify(VerifyAnySettings((tmp_path,)))] == [path]
    assert ckpt.read_state(path) == RunState(4, 1.0)
    ckpt.check_whole(path)
    file = path / "optimizer.safetensors"
    file.write_bytes(flips(file)[-1])
    with pytest.raises(
        ValueError, match="optimizer.safetensors: was changed .* remove this checkpoint's folder"
    ):
        ckpt.check_whole(path)


def test_an_index_and_a_corpus_that_lost_what_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "0.png")
    (tmp_path / "kb.jsonl").write_text('{"id": "0", "text": "zero", "image": "0.png"}\n')
    folder = tmp_path / "index"
    build_index(IndexSettings(corpus=(str(tmp_path / "kb.jsonl"),), output=folder), embedder=RawPixels(4))
    assert [found.kind for found in verify(VerifyAnySettings((folder,)))] == ["corpus", "index"]
    for name, kind in (("index.json", "index"), ("items.json", "corpus")):
        whole = (folder / name).read_bytes()
        (folder / name).unlink()
        assert main(["verify", str(folder)]) == 1
        said = capsys.readouterr().out
        assert f"damaged: {folder / name} is not there, though " in said and f"{kind} " in said
        (folder / name).write_bytes(whole)


def test_a_file_of_tensors(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    tensors = {"a": torch.arange(6.0).view(2, 3).bfloat16(), "b": torch.zeros(0, 2), "c": torch.tensor(3)}
    write_tensors(path, tensors, {"format": "pt"})
    back = read_tensors(path)
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    for content in flips(path, 60):
        path.write_bytes(content)
        try:
            back = read_tensors(path)
        except ValueError:
            continue
        assert all(
            torch.equal(back[name], tensor) for name, tensor in tensors.items()
        )  # a blank of the header


def test_what_0_2_wrote_is_said_to_be_unverified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(toy_memory(), tmp_path / "old")
    assert main(["verify", str(tmp_path / "old")]) == 0
    assert "not verified: " in capsys.readouterr().out


def test_what_is_nothing_of_ours(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match="give a bank, an index, a corpus, an encoder or a training"):
            verify(VerifyAnySettings((path,)))


def test_an_edited_description_is_still_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """People move a base and write its new place down."""
    encoder = load_encoder("toy")
    encoder.save(tmp_path / "memory")
    path = tmp_path / "memory" / "comem_encoder.json"
    path.write_text(path.read_text().replace('"max_chars": 5000', '"max_chars": 4000'))
    assert load_encoder(tmp_path / "memory").item_format()["max_chars"] == 4000
    assert "was changed after it was written" in caplog.text
