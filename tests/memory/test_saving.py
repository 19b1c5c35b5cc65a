"""A full disk while an encoder is saved: the older folder stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import SafetensorError

from comem.io.files import StorageError
from comem.memory.qformer_encoder import QFormerEncoder
from comem.types import KnowledgeItem


def test_no_space_left_while_a_merged_encoder_is_saved(
    encoder: QFormerEncoder, items: list[KnowledgeItem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "merged"
    merged = encoder.merge()
    merged.save(folder)
    files = {p.name: p.stat().st_ino for p in folder.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    with pytest.raises(StorageError, match="older folder is as it was.*merged'"):
        merged.save(folder)
    monkeypatch.undo()
    assert {p.name: p.stat().st_ino for p in folder.iterdir()} == files
    assert [p.name for p in tmp_path.iterdir()] == ["merged"]
    assert QFormerEncoder.load(folder).fingerprint() == merged.fingerprint()
