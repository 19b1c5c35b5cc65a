"""Encoding to disk survives what stops it: nothing is lost, nothing comes twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from comem.bank.build import build_file
from comem.bank.reader import MemoryStore
from comem.io.files import StorageError
from comem.memory.bank import MemoryBank
from comem.memory.qformer_encoder import QFormerEncoder
from comem.types import KnowledgeItem


@pytest.fixture()
def many() -> list[KnowledgeItem]:
    return [KnowledgeItem(f"k{n:02d}", f"Fact number {n}." + "!" * (n % 5), None) for n in range(11)]


@pytest.fixture()
def counted(encoder: QFormerEncoder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the items that were really encoded."""
    seen: list[str] = []
    original = encoder.inputs
    monkeypatch.setattr(
        encoder, "inputs", lambda items: (seen.extend(i.id for i in items), original(items))[1]
    )
    return seen


def check(path: Path, encoder: QFormerEncoder, many: list[KnowledgeItem]) -> None:
    bank = MemoryBank.load(path, encoder.fingerprint())
    assert bank.ids == tuple(item.id for item in many)
    assert torch.allclose(bank.embeddings, encoder.encode(many).embeddings, atol=1e-5)
    assert not path.with_name(path.name + ".parts").exists()


def test_shards_become_one_bank(encoder: QFormerEncoder, many: list[KnowledgeItem], tmp_path: Path) -> None:
    done: list[int] = []
    path = tmp_path / "bank.safetensors"
    counts = build_file(encoder, iter(many), path, batch_size=2, commit_items=4, progress=done.append)
    assert (counts.items, counts.encoded, len(MemoryBank.load(path))) == (11, 11, 11)
    assert done == [4, 4, 3]
    check(path, encoder, many)


def test_an_interrupt_costs_at_most_one_shard(
    encoder: QFormerEncoder, many: list[KnowledgeItem], tmp_path: Path, counted: list[str]
) -> None:
    path = tmp_path / "bank.safetensors"

    def interrupted() -> Any:
        yield from many[:9]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_file(encoder, interrupted(), path, commit_items=4)
    assert len(counted) == 8 and not path.exists()
    done: list[int] = []
    build_file(encoder, many, path, commit_items=4, progress=done.append)
    assert sum(done) == 11
    assert sorted(counted) == [item.id for item in many]  # nothing twice
    check(path, encoder, many)


def test_a_finished_bank_is_extended_not_redone(
    encoder: QFormerEncoder, many: list[KnowledgeItem], tmp_path: Path, counted: list[str]
) -> None:
    path = tmp_path / "bank.safetensors"
    build_file(encoder, many[:6], path)
    written = path.stat().st_mtime_ns
    build_file(encoder, many[:6], path)
    assert path.stat().st_mtime_ns == written and len(counted) == 6
    counts = build_file(encoder, many[4:], path)
    assert (counts.items, counts.encoded, counts.unchanged) == (7, 5, 2)
    bank = MemoryBank.load(path)
    assert bank.ids == tuple(i.id for i in many[4:]) + tuple(i.id for i in many[:4])
    assert len(counted) == 11


def test_a_kill_between_consolidation_and_clean_up(
    encoder: QFormerEncoder, many: list[KnowledgeItem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bank.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr("comem.bank.build.remove_folder", lambda folder: None)
        build_file(encoder, many, path, commit_items=4)
    assert len(MemoryStore(tmp_path / "bank.safetensors.parts")) == 11
    build_file(encoder, many, path, commit_items=4)
    check(path, encoder, many)


def test_repeated_ids_and_other_encoders_are_refused(
    encoder: QFormerEncoder, many: list[KnowledgeItem], tmp_path: Path
) -> None:
    path = tmp_path / "bank.safetensors"
    with pytest.raises(ValueError, match=r"'k03' comes twice \(items 4 and 12\)"):
        build_file(encoder, [*many, many[3]], path, commit_items=4)
    with torch.no_grad():
        encoder.qformer.latents.add_(1.0)
    with pytest.raises(ValueError, match=r"parts.*made by another encoder"):
        build_file(encoder, many, path)
    with pytest.raises(ValueError, match="commit_items=0"):
        build_file(encoder, many, path, commit_items=0)


def test_a_merged_encoder_goes_on_with_its_own_bank(
    encoder: QFormerEncoder, many: list[KnowledgeItem], tmp_path: Path
) -> None:
    path = tmp_path / "bank.safetensors"
    build_file(encoder, many[:6], path)
    build_file(encoder.merge(), many, path)
    assert MemoryBank.load(path).ids == tuple(item.id for item in many)


def test_nothing_to_encode(encoder: QFormerEncoder, tmp_path: Path) -> None:
    assert build_file(encoder, [], tmp_path / "bank.safetensors").items == 0
    assert len(MemoryBank.load(tmp_path / "bank.safetensors")) == 0


@pytest.mark.slow
def test_kill_9(
    encoder: QFormerEncoder,
    many: list[KnowledgeItem],
    tmp_path: Path,
    tiny_processor: Any,
    counted: list[str],
) -> None:
    """A process that is killed in its second shard; another goes on."""
    encoder.merge().save(tmp_path / "encoder")
    script = textwrap.dedent("""
        import os, signal, sys, torch
        torch.set_num_threads(1)
        from comem.bank.build import build_file
        from comem.memory.qformer_encoder import QFormerEncoder
        from comem.types import KnowledgeItem
        encoder = QFormerEncoder.load(sys.argv[1])
        items = [KnowledgeItem(f"k{n:02d}", f"Fact number {n}." + "!" * (n % 5), None) for n in range(11)]
        original, calls = encoder.inputs, []
        def inputs(batch):
            calls.append(batch)
            if len(calls) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(batch)
        encoder.inputs = inputs
        build_file(encoder, items, sys.argv[2], batch_size=2, commit_items=4)
    """)
    path = tmp_path / "bank.safetensors"
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "encoder"), str(path)],
        capture_output=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert len(MemoryStore(tmp_path / "bank.safetensors.parts")) == 4
    again = QFormerEncoder.load(tmp_path / "encoder")
    build_file(again, many, path, batch_size=2, commit_items=4)
    check(path, again, many)


def test_a_full_disk_costs_at_most_one_shard(
    encoder: QFormerEncoder, many: list[KnowledgeItem], tmp_path: Path, counted: list[str], full_disk: Any
) -> None:
    """All memories have 22,528 bytes, the whole bank some more: the parts fit, then the bank does not."""
    path = tmp_path / "bank.safetensors"
    with full_disk(5_000), pytest.raises(StorageError, match="free some space.*bank.safetensors.parts"):
        build_file(encoder, many, path, commit_items=3)
    assert counted == ["k00", "k01", "k02"] and not path.exists()
    with full_disk(22_600), pytest.raises(StorageError, match="free some space.*bank.safetensors'"):
        build_file(encoder, many, path, commit_items=3)
    del counted[:]
    build_file(encoder, many, path, commit_items=3)
    assert counted == []  # all shards had been kept
    check(path, encoder, many)


def test_what_version_0_1_left_unfinished_is_taken_over(
    encoder: QFormerEncoder, many: list[KnowledgeItem], tmp_path: Path, counted: list[str]
) -> None:
    """Its finished shards were small banks in `<path>.parts/`."""
    path = tmp_path / "bank.safetensors"
    for number, part in enumerate((many[:4], many[4:6])):
        encoder.encode(part).save(tmp_path / "bank.safetensors.parts" / f"00000{number}.safetensors")
    del counted[:]
    build_file(encoder, many, path)
    assert sorted(counted) == [item.id for item in many[6:]]
    check(path, encoder, many)
