"""The embedded world in the benchmarks' formats: every row reads its file, and gold answers score full."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from comem.benchmarks import BENCHMARKS
from comem.io.images import open_image
from comem.linking.titles import read_titles
from comem.toy.benchmark_files import FOLDERS, FilesSettings, build_files

SIZES = {"size": 40, "questions": 6, "image_size": 28}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    counts = build_files(FilesSettings(folder, **SIZES))
    assert counts == {name: 30 if name == "cvqa" else 6 for name in FOLDERS}
    return folder


@pytest.mark.parametrize("name", FOLDERS)
def test_every_row_reads_its_file_and_gold_scores_full(files: Path, name: str) -> None:
    row = BENCHMARKS[name]
    examples = list(row.load(files / FOLDERS[name], image_folder=files / "images"))
    row.require_images(examples)
    assert len(examples) == {"cvqa": 30, "aokvqa": 12}.get(name, 6)
    assert {example.language for example in examples} == set(row.languages)
    assert all(example.image and open_image(example.image).size == (28, 28) for example in examples)
    if name == "coco_caption":
        pytest.importorskip("pycocoevalcap")
        assert row.score({each.id: each.answers[0] for each in examples}, examples).metrics["bleu_4"] > 99.9
        return
    letters = {each.id: each.meta["answer"] for each in examples if name == "mmmu"}
    metrics = row.score({each.id: each.answers[0] for each in examples} | letters, examples).metrics
    for metric in row.headline:
        value = metrics[metric]["score"] if isinstance(metrics[metric], dict) else metrics[metric]
        texts = name == "mrag_bench" and metric == "overall"  # options' texts are no letters
        assert value == (0.0 if texts else 100.0)


def test_the_translations_ask_the_same_under_the_same_ids(files: Path) -> None:
    asked = {
        language: list(BENCHMARKS[f"infoseek{suffix}"].load(files / "infoseek"))
        for language, suffix in (("en", ""), ("es", "_es"), ("zh", "_zh"))
    }
    for english, *others in zip(*asked.values(), strict=True):
        assert all(other.id == english.id and other.question != english.question for other in others)
        assert all(other.meta["image_id"] == english.meta["image_id"] for other in others)


def test_every_entity_is_among_the_titles(files: Path) -> None:
    titles = {
        (entity.id, entity.title)
        for entity in read_titles(files / "oven" / "Wiki6M_ver_1_0_title_only.jsonl")
    }
    rows = [e.meta for part in ("entity", "query") for e in BENCHMARKS[f"oven_{part}"].load(files / "oven")]
    assert rows and {(row["entity_id"], row["entity_text"]) for row in rows} <= titles
    assert len({entity for entity, _ in titles}) == len(titles)


def test_the_datasets_library_sees_pictures(files: Path, tmp_path: Path) -> None:
    from datasets import Image, load_dataset

    parquet = str(files / "mrag_bench" / "data" / "test-00000-of-00001.parquet")
    rows = load_dataset("parquet", data_files=parquet, split="train", cache_dir=str(tmp_path))
    assert isinstance(rows.features["image"], Image) and rows[0]["image"].size == (28, 28)
    assert rows[0]["gt_images"][0].size == (28, 28)


def test_equal_settings_give_equal_files(files: Path, tmp_path: Path) -> None:
    build_files(FilesSettings(tmp_path, **SIZES))
    for file in sorted(path for path in files.rglob("*") if path.is_file()):
        other = tmp_path / file.relative_to(files)
        assert hashlib.sha256(file.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest(), file


def test_too_small_a_world_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"6 questions about 2 towns: make the world larger \(size\)"):
        build_files(FilesSettings(tmp_path, size=10, questions=9, image_size=28))
