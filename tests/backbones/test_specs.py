"""Names to rows: table names, hub repositories, local folders, and what is wrong with the others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from backbones.tiny import modes_of

from comem.backbones.hf import load_backbone
from comem.backbones.specs import BACKBONES, BackboneError, BackboneSpec, resolve_backbone
from comem.registry import UnknownNameError


@pytest.mark.parametrize("name", list(BACKBONES))
def test_rows_resolve_to_themselves(name: str) -> None:
    assert resolve_backbone(name) is BACKBONES[name]
    assert BACKBONES[name].name == name


def test_hub_repositories_resolve_to_their_row() -> None:
    assert resolve_backbone("Qwen/Qwen2.5-VL-3B-Instruct").name == "qwen2_5_vl_3b"


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_a_folder_takes_its_family(tmp_path: Path, family: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    spec = resolve_backbone(tmp_path)
    assert (spec.family, spec.source, spec.name) == (family, str(tmp_path), tmp_path.name)
    assert spec.sees_images and spec.several_images and spec.soft_prefix


def test_folders_of_one_type_are_told_apart_by_their_path(tmp_path: Path) -> None:
    """LLaVA-1.6 and LLaVA-NeXT-LLaMA3 share a model type and differ in what they take."""
    for path, row in (
        ("models--llava-hf--llama3-llava-next-8b-hf/snapshots/1f", "llava_next_llama3"),
        ("llava-v1.6-vicuna-7b-hf", "llava_1_6_vicuna"), ("my-own", "llava_1_6"),
    ):  # fmt: skip
        folder = tmp_path / path
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"model_type": "llava_next"}')
        expected = replace(BACKBONES[row], name=folder.name, source=str(folder))
        assert resolve_backbone(folder) == expected


@pytest.mark.parametrize(
    ("text", "declared"),
    [
        ("llama", True),
        ("mistral", True),
        ("", True),
        ("mistral3_text", True),
        ("mistral4", False),
        ("cohere2", False),
    ],
)
def test_a_known_family_around_another_language_model_is_asked(
    tmp_path: Path, text: str, declared: bool
) -> None:
    """Its keys may be rotated otherwise: memory in front of them would give wrong answers, silently."""
    config = {"model_type": "mistral3", "text_config": {"model_type": text} if text else None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert resolve_backbone(tmp_path).declared is declared


def test_rows_that_are_looked_up_are_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text(encoding="utf-8")
    for name, row in BACKBONES.items():
        assert row.declared or f"| `{name}` | `{row.source}` | looked up when loaded |" in text, name


@pytest.mark.parametrize("name", [name for name, row in BACKBONES.items() if row.declared])
def test_the_documented_table_says_what_the_row_says(name: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
    _, _, source, modes, images, rag, _ = (cell.strip() for cell in line.split("|"))
    row = BACKBONES[name]
    everything = ("baseline", "rag", "comem", "vlm_as_memory")
    allowed = tuple(mode for mode in modes_of(row) if mode != "hybrid")  # goes wherever comem does
    assert source == (f"`{row.source}`" if name != "toy" else "in this repository")
    assert modes == ("all" if allowed == everything else ", ".join(allowed))
    assert images == ("none" if not row.sees_images else "several" if row.several_images else "one")
    assert ("image" in rag, rag.startswith("passage")) == (
        row.rag.images, row.rag.passage_first or not row.rag.images
    )  # fmt: skip
    assert ("500" in rag) == (row.rag.passage_chars == 500)


def test_near_misses_are_offered() -> None:
    with pytest.raises(UnknownNameError, match="did you mean qwen2_5_vl_7b"):
        resolve_backbone("qwen25_vl_7b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no config.json"),
        ("{", "cannot be read"),
        ("[]", "names no model_type"),
        ('{"hidden_size": 3}', "names no model_type"),
        ('{"model_type": "qwen2_vlm"}', "did you mean qwen2_vl"),
    ],
)
def test_folders_that_are_no_backbones(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(BackboneError, match=message):
        resolve_backbone(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="no such model folder"):
        resolve_backbone(tmp_path / "absent")


def test_a_row_of_ones_own(tiny_backbone_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BACKBONES, "_rows", dict(BACKBONES._rows))
    row = BackboneSpec("mine", str(tiny_backbone_folder), "qwen2_5_vl", soft_prefix=False)
    BACKBONES.register("mine", row)
    loaded = load_backbone("mine", device="cpu")
    assert loaded.spec is BACKBONES["mine"] and not loaded.spec.soft_prefix
    with pytest.raises(ValueError, match="there is a backbone 'mine' already"):
        BACKBONES.register("mine", loaded.spec)
