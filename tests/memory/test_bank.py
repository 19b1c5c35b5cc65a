"""The bank: selecting, joining, one safe file, and what it refuses."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from comem.io.files import StorageError
from comem.memory.bank import MemoryBank


@pytest.fixture()
def bank() -> MemoryBank:
    return MemoryBank(torch.arange(24.0).view(3, 2, 4), ("oslo", "дунав", "长城"), "a" * 64)


def test_select_and_prefix_keep_the_order_asked_for(bank: MemoryBank) -> None:
    some = bank.select(["长城", "oslo"])
    assert some.ids == ("长城", "oslo") and len(some) == 2 and "oslo" in some and "дунав" not in some
    assert torch.equal(some.prefix(), torch.cat([bank.embeddings[2], bank.embeddings[0]]))
    assert bank.select([]).prefix().shape == (0, 4)


def test_a_prefix_of_fewer_embeddings_takes_the_first_of_each_item(bank: MemoryBank) -> None:
    assert torch.equal(bank.prefix(1), bank.embeddings[:, 0])
    assert torch.equal(bank.prefix(2), bank.prefix())
    for count in (0, 3, -1):
        with pytest.raises(ValueError, match=f"{count} embeddings of each item: these memories have 1 to 2"):
            bank.prefix(count)


def test_unknown_and_repeated_ids_are_named(bank: MemoryBank) -> None:
    with pytest.raises(ValueError, match="'olso'; did you mean oslo"):
        bank.select(["olso"])
    with pytest.raises(ValueError, match="'oslo' comes twice"):
        bank.select(["oslo", "oslo"])
    with pytest.raises(ValueError, match="'x' comes twice"):
        MemoryBank(torch.zeros(2, 1, 1), ("x", "x"), "f")
    with pytest.raises(ValueError, match="3 ids needs embeddings of shape"):
        MemoryBank(torch.zeros(2, 1, 1), ("x", "y", "z"), "f")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_that_are_none_are_told_with_their_item(
    bank: MemoryBank, value: float, dtype: torch.dtype
) -> None:
    assert bank.checked() is bank
    bank.embeddings[1, 1, 2] = value
    spoilt = MemoryBank(bank.embeddings.to(dtype), bank.ids, bank.fingerprint)
    with pytest.raises(ValueError, match=r"knowledge item 'дунав'.* NaN or infinity in it \(1 of 3 have\)"):
        spoilt.checked()
    spoilt.embeddings[0, 0, 0] = value
    with pytest.raises(ValueError, match=r"knowledge item 'oslo'.* \(2 of 3 have\)"):
        spoilt.checked()


def test_append(bank: MemoryBank) -> None:
    more = MemoryBank(torch.ones(1, 2, 4), ("new",), bank.fingerprint)
    assert bank.append(more).ids == (*bank.ids, "new")
    with pytest.raises(ValueError, match="comes twice"):
        bank.append(bank)
    with pytest.raises(ValueError, match="another encoder"):
        bank.append(MemoryBank(torch.ones(1, 2, 4), ("new",), "b" * 64))
    with pytest.raises(ValueError, match="do not fit"):
        bank.append(MemoryBank(torch.ones(1, 3, 4), ("new",), bank.fingerprint))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_file_goes_round(bank: MemoryBank, tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "deep" / "bank.safetensors"
    bank.to(dtype=dtype).save(path)
    back = MemoryBank.load(path, bank.fingerprint, width=4)
    assert back.ids == bank.ids and back.fingerprint == bank.fingerprint
    assert back.embeddings.dtype == dtype and torch.equal(back.embeddings.float(), bank.embeddings)
    assert [p.name for p in path.parent.iterdir()] == ["bank.safetensors"]
    bank.select([]).save(path)
    assert len(MemoryBank.load(path)) == 0


def test_another_encoder_or_width_is_refused(bank: MemoryBank, tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    bank.save(path)
    with pytest.raises(
        ValueError, match=r"bank\.safetensors: made by another encoder .*encode the items again"
    ):
        MemoryBank.load(path, "b" * 64)
    assert len(MemoryBank.load(path, ("b" * 64, "a" * 64))) == 3
    with pytest.raises(ValueError, match="width 4, the reader needs 64"):
        MemoryBank.load(path, width=64)


def test_damaged_and_foreign_files_are_refused(bank: MemoryBank, tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    bank.save(path)
    whole = path.read_bytes()
    for cut in (0, 4, 100, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"bank\.safetensors: not a complete safetensors file"):
            MemoryBank.load(path)
    save_file({"embeddings": torch.zeros(1, 1, 1)}, path)
    with pytest.raises(ValueError, match="not a memory bank"):
        MemoryBank.load(path)
    with pytest.raises(ValueError, match="no such file"):
        MemoryBank.load(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="pickled"):
        MemoryBank.load(tmp_path / "bank.pt")


def test_a_newer_version_is_refused(
    bank: MemoryBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comem.memory.bank.VERSION", 2)
    bank.save(tmp_path / "b.safetensors")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="version 2, known is 1: update comem"):
        MemoryBank.load(tmp_path / "b.safetensors")


def test_no_space_keeps_the_old_file(
    bank: MemoryBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bank.safetensors"
    bank.save(path)
    before = path.read_bytes()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.write", full)
    with pytest.raises(StorageError, match="free some space"):
        bank.select(["oslo"]).save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
