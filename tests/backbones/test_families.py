"""Families that no row declares, probed and run in every mode that they allow."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from backbones.families import CAUSAL, here, make, sampled, save
from backbones.seeing import SEEING

from comem.backbones.base import GenerationConfig
from comem.backbones.hf import HFBackbone, load_backbone
from comem.backbones.positions import per_layer_table
from comem.backbones.probe import looked_up
from comem.backbones.settings import BackboneTableSettings
from comem.backbones.specs import BACKBONES, BackboneError, BackboneSpec
from comem.cli import main
from comem.memory.bank import MemoryBank
from comem.memory.injection.prefix import PREFIX
from comem.memory.probe import Checked, examine
from comem.memory.survey import survey
from comem.modes import MODES
from comem.types import Example, KnowledgeItem, Message, RetrievedContext

SHORT = GenerationConfig(max_new_tokens=4)
SPOILED = ("minimax", "rwkv")  # padding passes through their state
PACKED = ("qwen3_vl_moe", "glm4v", "glm46v")
NAMES = sampled([name for name in (*CAUSAL, *SEEING) if here(name)], [*CAUSAL, "qwen3_5", "glm4v", "lfm2_vl"])
ABSENT = [name for name in (*CAUSAL, *SEEING) if not here(name)]


@cache
def checked(name: str) -> tuple[HFBackbone, Checked]:
    """A family as it is loaded from a folder, and what the probe says."""
    model, processor = make(name)
    sees = hasattr(processor, "image_processor")
    spec = looked_up(BackboneSpec(name, name, name, sees_images=sees, declared=False), model, processor)
    backbone = HFBackbone(spec, model, processor)
    return backbone, examine(backbone)


@pytest.mark.skipif(not ABSENT, reason="this transformers has every family")
@pytest.mark.parametrize("name", ABSENT)
def test_families_that_are_not_here(name: str) -> None:
    pytest.skip(f"this transformers has no {name}, or a package that it needs is missing")


@pytest.mark.parametrize("name", NAMES)
def test_what_the_probe_finds(name: str) -> None:
    _, found = checked(name)
    kv, _ = (CAUSAL | SEEING)[name]
    assert found.modes() == ("baseline", "rag", "comem", *(["vlm_as_memory"] if kv else []))
    works = {finding.ability: finding.works for finding in found.findings}
    assert not [finding.says for finding in found.findings if "Error" in finding.says]
    assert works["chat template"] and works["answers"] and works["soft prefix"]
    assert works["batch = single"] == found.spec.batches == (name not in SPOILED)
    assert works["keys and values"] == kv
    assert works["packing"] is not False and (works["packing"] is None) == (name not in PACKED)
    if name in SEEING:
        assert works["images"] and works["the image reaches the answer"]
        assert declares(BACKBONES[name]) == declares(found.spec)
    assert all(finding.remedy for finding in found.findings if finding.works is False)


def declares(row: BackboneSpec) -> dict[str, Any]:
    """The abilities of a row that the probe finds, too."""
    names = ("sees_images", "several_images", "soft_prefix", "kv_memory", "pixel_limits", "alternates")
    return {name: getattr(row, name) for name in (*names, "mixed_batches", "batches")}


@pytest.mark.parametrize("name", NAMES)
def test_every_mode_that_a_family_allows(name: str, small_image: Any) -> None:
    backbone, found = checked(name)
    image = small_image(56, 84) if backbone.spec.sees_images else None
    items = tuple(KnowledgeItem(f"i{n}", f"Passage {n}: it is {7 * n}.", None) for n in range(2))
    questions = [Example("q", "What is it?", image), Example("r", "And what is that?", None)]
    contexts = [RetrievedContext("q", items), None]
    bank = MemoryBank(torch.randn(2, 8, 32), ("i0", "i1"), "f")
    if "vlm_as_memory" not in found.modes():
        with pytest.raises(ValueError, match=r"use rag|use baseline or rag|no layer|hold no memory"):
            MODES["vlm_as_memory"](backbone, generation=SHORT)
    for mode in found.modes():
        row = MODES[mode](backbone, bank=bank, generation=SHORT)
        together = row.answer_batch(questions, contexts)
        alone = [row.answer_batch([q], [c])[0] for q, c in zip(questions, contexts, strict=True)]
        assert [replace(a, seconds=0) for a in together] == [replace(a, seconds=0) for a in alone], mode
        assert [a.context_tokens > 0 for a in together] == [mode in ("comem", "vlm_as_memory"), False] or (
            mode == "rag"
        )


def test_tables_of_each_layer_give_memory_what_they_give_images() -> None:
    """Gemma 3n: the row of no word, whatever id stands at the memory's place."""
    backbone, _ = checked("gemma3n_text")
    model, seen = backbone.model, []
    table = per_layer_table(model)
    assert table is not None
    inputs = backbone.process([[Message("user", ("x",))], [Message("user", ("and more",))]])
    with PREFIX.attach(model, inputs, [torch.randn(3, 32), None]) as extended, torch.no_grad():
        handle = table.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
        model(**extended)
        handle.remove()
    placeholder = extended["input_ids"][0][extended["attention_mask"][0].bool()][0]
    assert (seen[-1][extended["input_ids"] == placeholder] == 0).all()
    model(**inputs)
    assert not table._forward_pre_hooks
    kept = extended["input_ids"] != placeholder
    assert torch.equal(seen[-1][kept], extended["input_ids"][kept])


def test_a_folder_of_an_undeclared_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Keys of GLM-4 are rotated in pairs side by side: memory in front would be wrong, and is refused."""
    folder = save("glm4", tmp_path / "glm4")
    backbone = load_backbone(folder, device="cpu")
    assert not backbone.spec.declared and backbone.spec.soft_prefix
    with pytest.raises(
        BackboneError, match="keys and values was tried and does not hold .*comem backbone check"
    ):
        MODES["vlm_as_memory"](backbone)
    assert main(["backbone", "check", folder, "--output", str(tmp_path / "found.json")]) == 0
    shown = capsys.readouterr().out
    assert "logits are off" in shown and "use comem or rag" in " ".join(shown.split())
    noted: Any = json.loads((tmp_path / "found.json").read_text())
    assert noted["spec"]["family"] == "glm4" and noted["spec"]["kv_memory"] is False


def test_the_table_explains_families_that_only_go_together_when_made_or_need_an_image(tmp_path: Path) -> None:
    names = ("bamba", "dots1", "idefics")
    rows = survey(BackboneTableSettings(log=tmp_path / "log.jsonl", families=names))
    assert [(row.family, row.verdict) for row in rows] == [
        ("bamba", "with limits"), ("dots1", "works"), ("idefics", "no")
    ]  # fmt: skip
    assert rows[0].says == "keys and values: 1 layers keep a state instead" and "pixel_values" in rows[2].says
