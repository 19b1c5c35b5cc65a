"""`comem predict` from the command line, on a random model of the embedded one's kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comem.backbones.hf import load_backbone
from comem.cli import main
from comem.memory.encoder import load_encoder
from tests.eval.conftest import predictions, words


@pytest.mark.parametrize(("mode", "tokens"), [("baseline", 0), ("comem", 16)])
def test_answers_and_scores(
    world: Path, model: Path, tmp_path: Path, mode: str, tokens: int, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--encoder", str(model.parent / "encoder")) if mode == "comem" else ()
    assert main(words(world, model, mode, tmp_path / "run", *more)) == 0
    assert "accuracy" in capsys.readouterr().out
    rows = predictions(tmp_path / "run")
    assert len(rows) == 3 and all(row["context_tokens"] == tokens for row in rows)
    config = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert config["model"] == str(model) and config["generation"]["max_new_tokens"] == 2
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_a_bank_gives_the_same_answers_as_the_encoder(world: Path, model: Path, tmp_path: Path) -> None:
    encoder, bank = str(model.parent / "encoder"), tmp_path / "bank.safetensors"
    assert main(["encode", "--encoder", encoder, "--index", str(world / "index"), "--output", str(bank)]) == 0
    assert main(words(world, model, "comem", tmp_path / "a", "--encoder", encoder)) == 0
    assert main(words(world, model, "comem", tmp_path / "b", "--bank", str(bank))) == 0
    texts = [[row["prediction"] for row in predictions(tmp_path / name)] for name in "ab"]
    assert texts[0] == texts[1]


def test_vlm_as_memory_keeps_the_layers_that_are_asked_for(world: Path, model: Path, tmp_path: Path) -> None:
    assert main(words(world, model, "vlm_as_memory", tmp_path, "--kv-layers", "0")) == 0
    rows = predictions(tmp_path)
    assert len(rows) == 3 and all(row["context_tokens"] > 16 for row in rows)
    kept = json.loads((tmp_path / "run.json").read_text())["config"]["kv"]
    assert kept["layers"] == [0] and kept["fraction"] == 1.0


def test_several_modes_in_one_call(
    world: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads: list[str] = []

    def counted(name: str, *args: Any, **more: Any) -> Any:
        loads.append(name)
        return load_backbone(name, *args, **more)

    encoder, bank = str(model.parent / "encoder"), str(tmp_path / "bank")
    assert (
        main(["bank", "build", "--encoder", encoder, "--index", str(world / "index"), "--output", bank]) == 0
    )
    more = ("--bank", bank, "--encoder", encoder)
    with monkeypatch.context() as patched:
        patched.setattr("comem.backbones.hf.load_backbone", counted)
        assert main(words(world, model, "rag comem vlm_as_memory", tmp_path / "all", *more)) == 0
    assert loads == [str(model)], "once for all modes"
    assert "0 encoded in 0 encoder calls" in capsys.readouterr().out
    assert main(words(world, model, "rag", tmp_path / "rag")) == 0
    assert main(words(world, model, "vlm_as_memory", tmp_path / "kv")) == 0
    found = {path.name: predictions(path) for path in (tmp_path / "all").iterdir()}
    assert sorted(found) == ["comem", "rag", "vlm_as_memory"] and all(map(len, found.values()))
    texts = [[row["prediction"] for row in rows] for rows in (found["rag"], predictions(tmp_path / "rag"))]
    assert texts[0] == texts[1]
    alone = [row["prediction"] for row in predictions(tmp_path / "kv")]
    assert alone == [row["prediction"] for row in found["vlm_as_memory"]], "another mode came before"
    assert main(words(world, model, "rag ragg", tmp_path / "no")) == 2
    assert main(words(world, model, "rag rag", tmp_path / "no")) == 2
    assert "give each mode once" in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_an_adapter_on_the_same_weights_shares_them(model: Path) -> None:
    from comem.backbones.hf import load_backbone

    backbone = load_backbone(model)
    encoder = load_encoder(model.parent / "encoder", backbone)
    assert encoder.model is backbone.model


def test_a_text_only_reader(world: Path, model: Path, tmp_path: Path) -> None:
    """Pictures reach it as memories, as the encoder's folder says; or as the authors lay them out."""
    from comem.backbones.hf import load_backbone
    from comem.memory.lora import LoraSettings
    from comem.memory.qformer import QFormerConfig
    from comem.memory.qformer_encoder import QFormerEncoder
    from comem.memory.settings import PICTURE_PROMPT, KnowledgeFormat

    assert main(["toy", "text-reader", str(tmp_path / "text"), "--model", str(model)]) == 0
    base = load_backbone(model)
    form = KnowledgeFormat(picture_prompt=PICTURE_PROMPT)
    qformer = QFormerConfig(128, depth=1, heads=2, dim_head=8)
    encoder = QFormerEncoder.new(base.model, base.processor, LoraSettings(rank=2), qformer, form)
    encoder.save(tmp_path / "encoder")
    text, theirs = tmp_path / "text", ("--question-layout", "authors_llm")

    def prompt_tokens(name: str, reader: Path, mode: str, *more: str) -> list[int]:
        assert main([*words(world, reader, mode, tmp_path / name), "--prompt", "bare", *more]) == 0
        rows = {row["data_id"]: row["prompt_tokens"] for row in predictions(tmp_path / name)}
        return [rows[key] for key in sorted(rows)]

    plain = prompt_tokens("plain", text, "baseline")
    ours = prompt_tokens("ours", text, "comem", "--encoder", str(tmp_path / "encoder"))
    assert ours == [length + 2 * 8 + 8 for length in plain], "two items and the picture"
    assert all(row["context_tokens"] == 2 * 8 for row in predictions(tmp_path / "ours")), "of knowledge"
    seen = prompt_tokens("seen", model, "baseline")
    twice = prompt_tokens("theirs", text, "comem", "--encoder", str(model.parent / "encoder"), *theirs)
    assert twice == [2 * length + 2 * 8 for length in seen], "their prompt comes twice, pictures too"
    config = json.loads((tmp_path / "theirs" / "run.json").read_text())["config"]
    assert config["question_layout"] == "authors_llm"


@pytest.mark.parametrize(
    ("mode", "more", "said"),
    [
        ("ragg", (), "unknown mode 'ragg'; did you mean rag?"),
        ("baseline", ("--benchmark", "toyy"), "unknown benchmark 'toyy'; did you mean toy?"),
        ("baseline", ("--backbone", "qwen2_5_vk"), "unknown backbone 'qwen2_5_vk'; did you mean qwen2_5_vl"),
        ("rag", ("--prompt", "papers"), "did you mean paper?"),
        ("comem", (), "needs an encoder or a memory bank"),
        ("rag", ("-k", "0"), "-k 0: give at least 1"),
        ("comem", ("--encoder", "nowhere"), "nowhere: no such folder"),
        (
            "comem",
            ("--question-layout", "authors"),
            "question layout 'authors': allowed are comem, authors_llm",
        ),
        ("baseline", ("--question-layout", "authors_llm"), "with the encoder: give --encoder DIR"),
        ("vlm_as_memory", ("--kv-fraction", "2"), "fraction 2.0: give more than 0"),
        ("baseline", ("--split", "valid"), "no question is in split 'valid'"),
    ],
)
def test_mistakes_are_explained(
    world: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    mode: str, more: tuple[str, ...], said: str,
) -> None:  # fmt: skip
    assert main(words(world, model, mode, tmp_path / "run", *more)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "predictions.jsonl").exists()


def test_without_an_index_rag_says_what_is_missing(
    world: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(world, model, "rag", tmp_path / "run")
    at = command.index("--index")
    assert main(command[:at] + command[at + 2 :]) == 2
    assert "give --index DIR" in capsys.readouterr().err
