"""An empty bank is said to be one, before an encoder is loaded where that can be known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comem.bank.build import encode
from comem.bank.settings import EncodeSettings


@pytest.mark.parametrize("output", ["bank", "bank.safetensors"])
@pytest.mark.parametrize("name", ["nothing.jsonl", "none.csv"])
def test_no_item_is_an_error_and_leaves_nothing(
    tmp_path: Path, output: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text("" if name.endswith("jsonl") else "id,text,image\n")
    monkeypatch.setattr("comem.memory.encoder.load_encoder", lambda *_: pytest.fail("an encoder was loaded"))
    with pytest.raises(ValueError, match=name):
        encode(EncodeSettings("toy", tmp_path / output, items=tmp_path / name))
    assert not (tmp_path / output).exists()


def test_if_no_item_can_be_encoded_the_first_fault_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.bank.conftest import FakeEncoder

    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps({"id": str(n), "text": f"broken {n}"}) + "\n" for n in range(3)))
    monkeypatch.setattr("comem.memory.encoder.load_encoder", lambda *_: FakeEncoder())
    with pytest.raises(ValueError, match="holds none of 3 items: knowledge item '0': the image is damaged"):
        encode(EncodeSettings("toy", tmp_path / "bank", items=items, skip_faults=True))
