"""Encoder folders: saved whole, loaded the same, and refused with the file's name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from comem.io.files import new_folder
from comem.memory.bank import tensor_files
from comem.memory.lora import adapter_switch, lora_layers
from comem.memory.qformer_encoder import QFormerEncoder
from comem.types import KnowledgeItem
from tests.memory.conftest import tame, trained


@pytest.fixture()
def base_folder(tmp_path: Path, tiny_qwen2_5_vl: Any, tiny_processor: Any) -> Path:
    folder = tmp_path / "models" / "base"
    tame(copy.deepcopy(tiny_qwen2_5_vl)).save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    return folder


@pytest.fixture()
def saved(tmp_path: Path, base_folder: Path, make_encoder: Any) -> tuple[QFormerEncoder, Path]:
    """A trained encoder on a base that lies in a folder, and its adapter folder."""
    from transformers import AutoModelForImageTextToText

    encoder = make_encoder(AutoModelForImageTextToText.from_pretrained(base_folder), output_scale=0.3)
    encoder.save(tmp_path / "models" / "memory")
    return encoder, tmp_path / "models" / "memory"


def test_adapter_folder_goes_round(saved: tuple[QFormerEncoder, Path], items: list[KnowledgeItem]) -> None:
    encoder, folder = saved
    assert {p.name for p in folder.iterdir()} == {
        "adapter.safetensors",
        "qformer.safetensors",
        "comem_encoder.json",
    }
    back = QFormerEncoder.load(folder)
    assert back.fingerprint() == encoder.fingerprint()
    assert torch.equal(back.encode(items).embeddings, encoder.encode(items).embeddings)
    assert back.lora == encoder.lora and back.form == encoder.form and not back.training


def test_base_and_adapter_can_move_together(saved: tuple[QFormerEncoder, Path], tmp_path: Path) -> None:
    encoder, folder = saved
    assert json.loads((folder / "comem_encoder.json").read_text())["base"]["name"] == "../base"
    folder.parent.rename(tmp_path / "elsewhere")
    assert QFormerEncoder.load(tmp_path / "elsewhere" / "memory").fingerprint() == encoder.fingerprint()


def test_a_given_reader_is_shared(saved: tuple[QFormerEncoder, Path], base_folder: Path) -> None:
    from transformers import AutoModelForImageTextToText

    reader = AutoModelForImageTextToText.from_pretrained(base_folder)
    logits = reader(input_ids=torch.arange(9)[None]).logits
    back = QFormerEncoder.load(saved[1], reader)
    assert back.model is reader and lora_layers(reader) and not adapter_switch(reader).on
    assert torch.equal(reader(input_ids=torch.arange(9)[None]).logits, logits)
    assert (
        QFormerEncoder.load(saved[1], reader).model is reader
    )  # loading again puts the weights into the same LoRA


def test_merged_folder_is_an_ordinary_model(
    saved: tuple[QFormerEncoder, Path], tmp_path: Path, items: list[KnowledgeItem]
) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    encoder, _ = saved
    bank = encoder.encode(items)
    merged = encoder.merge()
    merged.save(tmp_path / "merged")
    back = QFormerEncoder.load(tmp_path / "merged")
    assert back.lora is None and lora_layers(back.model) == {}
    assert float((back.encode(items).embeddings - bank.embeddings).abs().max()) <= 1e-5
    assert back.fingerprint() == merged.fingerprint()
    assert bank.fingerprint in back.accepted_fingerprints()
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    assert torch.equal(
        model.get_submodule("model.visual.merger.mlp")[0].weight,
        merged.model.get_submodule("model.visual.merger.mlp")[0].weight,
    )
    AutoProcessor.from_pretrained(tmp_path / "merged")


def test_what_an_elastic_memory_was_trained_for_stays_with_it(
    saved: tuple[QFormerEncoder, Path], tmp_path: Path
) -> None:
    encoder, folder = saved
    before = encoder.fingerprint()
    encoder.elastic = (1, 2, 4)
    encoder.save(folder)
    assert QFormerEncoder.load(folder).elastic == (1, 2, 4)
    encoder.merge().save(tmp_path / "merged")
    back = QFormerEncoder.load(tmp_path / "merged")
    assert back.elastic == (1, 2, 4) and before in back.accepts
    about = json.loads((folder / "comem_encoder.json").read_text())
    del about["elastic"]  # as folders before it have it
    (folder / "comem_encoder.json").write_text(json.dumps(about))
    assert QFormerEncoder.load(folder).elastic == ()


def test_saving_again_replaces_the_folder_as_a_whole(saved: tuple[QFormerEncoder, Path]) -> None:
    encoder, folder = saved
    (folder / "stray.txt").write_text("of an older save")
    trained(encoder).save(folder)
    assert not (folder / "stray.txt").exists()
    assert QFormerEncoder.load(folder).fingerprint() == encoder.fingerprint()
    assert {p.name for p in folder.parent.iterdir()} == {"base", "memory"}


def test_a_failed_save_leaves_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "old").write_text("x")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "f") as temporary:
        (temporary / "new").write_text("y")
        raise RuntimeError
    assert [p.name for p in tmp_path.rglob("*")] == ["f", "old"]


def test_weights_load_into_a_running_encoder(saved: tuple[QFormerEncoder, Path]) -> None:
    encoder, folder = saved
    before = encoder.fingerprint()
    with torch.no_grad():
        trained(encoder).qformer.latents.zero_()
    assert encoder.fingerprint() != before
    encoder.load_weights(folder)
    assert encoder.fingerprint() == before


@pytest.mark.parametrize("name", ["adapter.safetensors", "qformer.safetensors"])
def test_half_written_and_missing_files(saved: tuple[QFormerEncoder, Path], name: str) -> None:
    path = saved[1] / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"{name}: not a complete safetensors file.*copy it again"):
        QFormerEncoder.load(saved[1])
    path.unlink()
    with pytest.raises(ValueError, match=rf"{name}: missing.*save it again"):
        QFormerEncoder.load(saved[1])


@pytest.mark.parametrize("kind", ["merged", "base"])
def test_half_written_weights_of_the_model_itself(
    saved: tuple[QFormerEncoder, Path], base_folder: Path, tmp_path: Path, kind: str
) -> None:
    """transformers' own error for these names neither file nor remedy."""
    encoder, folder = saved
    if kind == "merged":
        folder = tmp_path / "merged"
        encoder.merge().save(folder)
    path = (folder if kind == "merged" else base_folder) / "model.safetensors"
    whole = path.read_bytes()
    for length in (0, 1000, len(whole) - 20):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"model\.safetensors: not a complete.*copy it again"):
            QFormerEncoder.load(folder)
    path.unlink()
    with pytest.raises(ValueError, match="has no model.safetensors"):
        QFormerEncoder.load(folder)


def test_other_sizes_and_bases(
    saved: tuple[QFormerEncoder, Path], tiny_qwen2_5_vl: Any, tiny_qwen2_vl: Any
) -> None:
    from tests.conftest import build_tiny_qwen2_5_vl

    encoder, folder = saved
    with pytest.raises(ValueError, match="made on another base model"):
        QFormerEncoder.load(folder, build_tiny_qwen2_5_vl(seed=7))
    about = json.loads((folder / "comem_encoder.json").read_text())
    about["base"]["hidden_size"] = 3584
    (folder / "comem_encoder.json").write_text(json.dumps(about))
    with pytest.raises(
        ValueError, match=r"comem_encoder\.json: made for a backbone of width 3584, this one has 64"
    ):
        QFormerEncoder.load(folder)
    about["base"]["hidden_size"] = 64
    (folder / "comem_encoder.json").write_text(json.dumps(about))
    tensors = load_file(folder / "qformer.safetensors")
    save_file(
        {**tensors, "latents": tensors["latents"][..., :32].contiguous()}, folder / "qformer.safetensors"
    )
    with pytest.raises(ValueError, match=r"qformer\.safetensors: 1 tensors do not fit .* latents"):
        QFormerEncoder.load(folder)


def test_a_base_that_is_gone(saved: tuple[QFormerEncoder, Path], base_folder: Path) -> None:
    base_folder.rename(base_folder.with_name("moved"))
    with pytest.raises(ValueError, match=r"base model '\.\./base' cannot be loaded.*give `reader`"):
        QFormerEncoder.load(saved[1])


def test_folders_that_are_no_encoders(
    saved: tuple[QFormerEncoder, Path], base_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="a model without Q-Former"):
        QFormerEncoder.load(base_folder)
    with pytest.raises(ValueError, match="no such folder"):
        QFormerEncoder.load(tmp_path / "none")
    with pytest.raises(ValueError, match="not a memory encoder"):
        QFormerEncoder.load(tmp_path)
    (saved[1] / "comem_encoder.json").write_text("{}")
    with pytest.raises(ValueError, match="does not describe a memory encoder"):
        QFormerEncoder.load(saved[1])


def test_pickled_weights_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match=r"only pickled weights \(pytorch_model.bin\)"):
        tensor_files(tmp_path)
