"""The main job on real input: WIT rows are indexed, retrieved, encoded, asked in three modes, scored."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
from PIL import Image

from comem import quickstart
from comem.bank.serve import open_bank
from comem.benchmarks import BENCHMARKS
from comem.io.files import read_json
from comem.quickstart import FLAG_LINES, QuickSettings, flag_steps, rows_of, run_steps

COUNTRIES = ["ad", "be", "jp", "pt"]
LANGUAGES = ["en", "es"]


@pytest.fixture()
def few(flags_dir: Path, tmp_path: Path) -> Path:
    """Four of the real flags with their rows in two languages and the first two questions about each."""
    folder = tmp_path / "few"
    (folder / "images").mkdir(parents=True)
    for name in COUNTRIES:
        Image.open(flags_dir / "images" / f"{name}.png").save(folder / "images" / f"{name}.png")
    wanted = {f"images/{name}.png" for name in COUNTRIES}
    with gzip.open(flags_dir / "wit_flags.tsv.gz", "rt", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t")
        rows = [row for row in reader if row["image_url"] in wanted and row["language"] in LANGUAGES]
    with gzip.open(folder / "wit_flags.tsv.gz", "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, reader.fieldnames or [], delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    questions = [json.loads(line) for line in (flags_dir / "questions.jsonl").read_text().splitlines()]
    kept = [[q for q in questions if q["image_path"] == image][:2] for image in sorted(wanted)]
    lines = [json.dumps(question) for group in kept for question in group]
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture()
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An untrained memory on the embedded backbone, in the place of the shipped one."""
    from comem.backbones.hf import load_backbone
    from comem.memory.lora import LoraSettings
    from comem.memory.qformer_encoder import QFormerEncoder, qformer_config
    from comem.memory.settings import QFormerSettings

    backbone = load_backbone("toy")
    sizes = qformer_config(QFormerSettings(depth=1, heads=4, output_scale="auto"), backbone.model)
    made = QFormerEncoder.new(backbone.model, backbone.processor, LoraSettings(2, 4), sizes)
    made.save(tmp_path / "memory")
    monkeypatch.setattr(quickstart, "shipped_memory", lambda: tmp_path / "memory")
    return tmp_path / "memory"


@pytest.mark.slow
def test_real_rows_go_all_the_way(few: Path, memory: Path, tmp_path: Path) -> None:
    settings = QuickSettings(fast=True, output=tmp_path / "run", flags=few)
    run_steps(flag_steps(settings), settings.folder)
    root = settings.folder / "flags"
    recall = read_json(root / "recall.json")["recall"]
    assert recall and all(values["recall@1"] >= 0.75 for values in recall.values())
    asked = list(BENCHMARKS["flags"].load(root / "questions.jsonl"))
    assert len(asked) == len((few / "questions.jsonl").read_text().splitlines()) >= len(COUNTRIES)
    rows, cases = rows_of(root, FLAG_LINES, asked)
    for case in cases:  # the very image of the question is in the index
        found, shown = case.items[0].image, case.example.image
        assert found and shown and Path(str(found.path)).name == Path(str(shown.path)).name
    bank = open_bank(root / "banks" / "shipped.safetensors")
    assert len(bank) == len(COUNTRIES) * len(LANGUAGES)
    assert {name: row.count for name, row in rows.items()} == dict.fromkeys(FLAG_LINES, len(asked))
    assert rows["comem"].context_tokens == 3 * 8 < rows["rag"].context_tokens / 5
    assert rows["baseline"].context_tokens == 0


def test_without_the_folder_there_are_no_steps(tmp_path: Path) -> None:
    assert flag_steps(QuickSettings(output=tmp_path, no_flags=True)) == []
