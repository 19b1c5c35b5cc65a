"""Names to rows: table names, hub repositories, local folders, and what is wrong with the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comem.backbones.specs import BACKBONES, BackboneError, resolve_backbone
from comem.tables import UnknownNameError


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
