"""The audit: interventions change what they say, the embedded memory is one, probes find what is there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from comem.cli import main
from comem.eval.audit import INTERVENTIONS, NOTHING, Around, AuditSettings, audit
from comem.eval.probes import probe, read_off
from comem.memory.bank import MemoryBank
from comem.registry import UnknownNameError
from comem.types import KnowledgeItem


@pytest.fixture()
def around() -> Around:
    items = [KnowledgeItem(f"i{n}", f"Passage {n}.", None, f"page{n // 2}") for n in range(6)]
    memories = torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(1))
    return Around({i.id: i for i in items}, MemoryBank(memories, tuple(i.id for i in items), "f"))


def test_interventions_do_what_they_say(around: Around) -> None:
    for name, item in around.items.items():
        memory = around.memories.select([name]).embeddings[0]
        changed = {key: INTERVENTIONS[key](memory, item, around) for key in INTERVENTIONS}
        assert not changed["zero"].any()
        assert torch.allclose(changed["noise"].norm(dim=-1), memory.norm(dim=-1), rtol=1e-5)
        assert abs(torch.cosine_similarity(changed["noise"].flatten(), memory.flatten(), dim=0)) < 0.6
        assert sorted(changed["shuffle"].tolist()) == sorted(memory.tolist())
        other = around.items[around.other(item)]
        assert other.source != item.source, "another page, not another picture of this one"
        assert torch.equal(changed["swap"], around.memories.select([other.id]).embeddings[0])
        again = {key: INTERVENTIONS[key](memory, item, around) for key in INTERVENTIONS}
        assert all(torch.equal(changed[key], again[key]) for key in INTERVENTIONS), (
            "the same in a resumed run"
        )


def test_probes_find_what_is_there_and_only_that() -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((80, 3, 16)).astype(np.float32)
    colours = random.integers(0, 4, 80)
    vectors[:, 1] += 4 * random.standard_normal((4, 16))[colours]  # in the second vector alone
    bank = MemoryBank(torch.from_numpy(vectors), tuple(f"i{n}" for n in range(80)), "f")
    given = {f"i{n}": str(colours[n]) for n in range(80)}
    nowhere = {f"i{n}": str(random.integers(0, 4)) for n in range(80)}
    rare = {f"i{n}": str(n) for n in range(80)}
    there, absent = probe(bank, {"colour": given, "nothing": nowhere, "rare": rare})
    assert there.property == "colour" and (there.items, there.values) == (80, 4)
    assert (
        there.accuracy > 90 and there.by_vector[1] > 95 and max(there.by_vector[0], there.by_vector[2]) < 50
    )
    assert there.chance < 50 and absent.accuracy < 50


def test_what_a_passage_says() -> None:
    found = read_off(KnowledgeItem("a", "Old Mill: built in 1204, 5 m.", None))
    assert found == {"date: century": "12", "number of digits": "5", "name: initial": "O"}
    assert read_off(KnowledgeItem("b", "磨坊", None)) == {"number of digits": "0", "name: initial": "磨"}


def test_the_embedded_memory_is_one(world: Path, tmp_path: Path) -> None:
    given = {
        "benchmark": "toy", "data": world / "test.jsonl", "split": "unseen_entity", "index": world / "index",
        "encoder": "toy", "output": tmp_path / "audit", "limit": 8, "k": 1,
    }  # fmt: skip
    names = (NOTHING, "swap", "paraphrase", "other_image")
    found = audit(AuditSettings(**given, interventions=names))
    effects = {each.name: each for each in found.effects}
    assert tuple(effects) == names and found.questions == 2 and not found.left_out
    assert found.score >= 50
    assert effects["swap"].effect.difference > 0 and effects[NOTHING].changed > 0.5
    assert effects["paraphrase"].changed < effects["swap"].changed, "the facts count, not the words"
    page, plain = (tmp_path / "audit" / name for name in ("audit.html", "audit.json"))
    assert "swap" in page.read_text() and json.loads(plain.read_text())["score"] == found.score
    again = audit(AuditSettings(**given, interventions=names))
    assert [each.score for each in again.effects] == [each.score for each in found.effects]


def test_a_bank_alone_leaves_out_what_must_be_encoded(world: Path, tmp_path: Path) -> None:
    index, bank = str(world / "index"), str(tmp_path / "bank.safetensors")
    assert main(["encode", "--index", index, "--encoder", "toy", "--output", bank]) == 0
    words = ["--benchmark", "toy", "--data", str(world / "test.jsonl"), "--index", index, "--bank", bank]
    words += ["--limit", "2", "--output", str(tmp_path / "run")]
    assert main(["audit", *words, "--interventions", "zero", "paraphrase"]) == 0
    found = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert [each["name"] for each in found["effects"]] == ["zero"]
    assert "--encoder" in found["left_out"]["paraphrase"]


def test_an_unknown_intervention_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    given = {"benchmark": "toy", "data": tmp_path, "output": tmp_path / "x"}
    with pytest.raises(UnknownNameError, match="zerro"):
        audit(AuditSettings(**given, interventions=("zerro",)))
