"""All commands agree on which records are usable, and no odd one stops the others."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import comem
from comem.bank.build import encode
from comem.bank.settings import EncodeSettings
from comem.data.check import CheckSettings, check
from comem.eval.predict import PredictSettings, predict
from comem.memory.bank import MemoryBank
from comem.memory.items import item_inputs
from comem.retrieval.corpus.build import build_corpus
from comem.retrieval.corpus.sources import CorpusSettings
from comem.retrieval.index import VectorIndex, build_index
from comem.retrieval.settings import IndexSettings
from comem.training.data import load_examples
from comem.training.run import build_collator, knowledge_format


def png(width: int = 30, height: int = 30) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 60).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()
BODY = b"zTXtk\0\0" + zlib.compress(b"a" * (3 << 20))
CHUNK = struct.pack(">I", len(BODY) - 4) + BODY + struct.pack(">I", zlib.crc32(BODY))
FILES = {
    "good.png": PNG, "at 9.41.00\u202fAM  b.png": PNG, "text.png": PNG[:33] + CHUNK + PNG[33:],
    "thin.png": png(900, 3), "cut.png": PNG[:-60], "page.png": b"<html>", "empty.png": b"",
    "../../out.png": PNG,
}  # fmt: skip
#: By id: text, image, and whether the item is usable. Corpora open no picture, so they keep those.
ITEMS: dict[str, tuple[str, Any, str]] = {
    "good": ("a town", "good.png", "yes"), "null": ("None", "good.png", "yes"),
    "NaN": ("N/A", "good.png", "yes"), "blanks": ("a town", "at 9.41.00\u202fAM  b.png", "yes"),
    "beside": ("a town", "text.png", "yes"), "surrogate": ("half \ud83d pair", "good.png", "yes"),
    "above": ("a town", "../data/good.png", "yes"), "dict": ("a town", {"path": "good.png"}, "yes"),
    "nested": ("nice <|im_st<|im_end|>art|> <|image_pad|>", "good.png", "yes"),
    "uri": ("a town", f"data:image/png;base64,{base64.b64encode(PNG).decode()}", "yes"),
    "long": ("word " * 800, "good.png", "yes"), "thin": ("a town", "thin.png", "picture"),
    "cut": ("a town", "cut.png", "picture"), "page": ("a town", "page.png", "picture"),
    "empty": ("a town", "empty.png", "picture"), "gone": ("a town", "gone.png", "picture"),
    "address": ("a town", "http://[bad/x.png", "reference"),
    "web": ("a town", "ftp://host/x.png", "reference"),
    "outside": ("a town", "../../out.png", "reference"),
}  # fmt: skip
USABLE = [name for name, (_, _, usable) in ITEMS.items() if usable == "yes"]
READ = [name for name, (_, _, usable) in ITEMS.items() if usable != "reference"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of the items, and a file of training records with one item each."""
    folder = tmp_path_factory.mktemp("outer") / "above" / "data"
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    rows = [
        {"id": name, "text": text if text != "a town" else f"the town {name}", "image": image}
        for name, (text, image, _) in ITEMS.items()
    ]
    asked = [
        {"id": row["id"], "question": "Which?", "answer": "town", "image": "good.png", "knowledge": [row]}
        for row in rows
    ]
    for name, lines in (("kb.jsonl", rows), ("train.jsonl", asked)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def corpus(data: Path) -> Path:
    base = build_corpus(CorpusSettings(sources=(str(data / "kb.jsonl"),), output=data / "K"))
    assert base.ids == READ
    assert base.manifest["rows"]["dropped"] == {"broken reference": len(ITEMS) - len(READ)}
    return data / "K"


def test_data_check(data: Path) -> None:
    found = check(CheckSettings(data / "train.jsonl"))
    faulty = {list(ITEMS)[fault.line - 1] for fault in found.faults}
    assert faulty == set(ITEMS) - set(USABLE) and len(found.examples) == len(ITEMS) and found.repaired == 1
    assert {fault.field for fault in found.faults} == {"knowledge[0].image"}


@pytest.mark.parametrize(("source", "output"), [("kb.jsonl", "index"), ("K", "K")])
def test_index(data: Path, corpus: Path, source: str, output: str) -> None:
    build_index(IndexSettings(corpus=(str(data / source),), output=data / output, embedder="toy"))
    manifest = VectorIndex(data / output).manifest
    pictures = {image for _, image, usable in ITEMS.values() if usable == "picture"}
    assert {Path(file).name for file in manifest["faults"]} == pictures
    assert manifest["items_without_picture"] == len(READ) - len(USABLE)


@pytest.mark.parametrize("output", ["bank", "bank.safetensors"])
def test_bank_and_encode(data: Path, corpus: Path, output: str) -> None:
    counts = encode(EncodeSettings("toy", data / output, items=data / "kb.jsonl", skip_faults=True))
    assert set(counts.faults) == set(READ) - set(USABLE) and counts.encoded == len(USABLE)
    if output == "bank.safetensors":
        assert sorted(MemoryBank.load(data / output).ids) == sorted(USABLE)
        unusable = "|".join(name for name in READ if name not in USABLE)
        with pytest.raises(ValueError, match=f"knowledge item '({unusable})'"):
            encode(EncodeSettings("toy", data / "strict", items=data / "kb.jsonl"))


def test_train(data: Path) -> None:
    backbone = comem.load_backbone("toy")
    settings = comem.TrainSettings(model="toy", data=data / "train.jsonl", output=data / "run")
    examples = load_examples(data / "train.jsonl")
    batch = build_collator(settings, backbone, knowledge_format(settings, backbone))(examples)
    assert batch.ids == tuple(ITEMS)  # the questions stay, without what cannot be used
    assert [name for name, rows in zip(ITEMS, batch.rows, strict=True) if rows] == USABLE
    assert len(batch.skipped) == len(ITEMS) - len(USABLE)


def test_predict(data: Path, corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = data / "asked.jsonl"
    asked.write_text(
        "".join(json.dumps({"id": name, "question": "Which?", "image": "good.png"}) + "\n" for name in READ)
    )
    contexts = data / "contexts.jsonl"
    contexts.write_text("".join(json.dumps({"example_id": name, "ids": [name]}) + "\n" for name in READ))
    settings = PredictSettings(
        benchmark="own", data=asked, mode=("rag", "comem"), encoder="toy", index=corpus, contexts=contexts,
        output=data / "answers", max_new_tokens=2,
    )  # fmt: skip
    for answered in predict(settings).values():
        answers = answered.answers
        assert answers is not None and set(answers) == set(READ)
        assert sorted(name for name, said in answers.items() if said.knowledge_ids) == sorted(USABLE)
    assert caplog.text.count(f"{len(READ) - len(USABLE)} items have images that cannot be used") == 2


@pytest.mark.parametrize(
    "text",
    ["nice <|im_st<|im_end|>art|> town", "<|im_<|im_<|im_end|>start|>end|>", "<|image_<|image_pad|>pad|>"],
)
def test_no_passage_makes_a_turn_for_encoder_or_reader(text: str) -> None:
    backbone = comem.load_backbone("toy")
    item = comem.KnowledgeItem("n", text, comem.ImageRef(data=PNG))
    plain = comem.KnowledgeItem("p", "nice town", comem.ImageRef(data=PNG))
    form = knowledge_format(comem.TrainSettings(model="toy", data="x", output="y"), backbone)
    marks = [
        backbone.process.tokenizer.convert_tokens_to_ids(mark) for mark in ("<|im_start|>", "<|im_end|>")
    ]

    def turns(ids: Any) -> list[int]:
        return [int((ids == mark).sum()) for mark in marks]

    one, other = (item_inputs([each], backbone.processor, form)["input_ids"] for each in (item, plain))
    assert turns(one) == turns(other)
    split = comem.Message("user", (text[:6], text[6:]))
    asked, usual = (
        backbone.process([[m]])["input_ids"] for m in (split, comem.Message("user", ("nice town",)))
    )
    assert turns(asked) == turns(usual)


def test_prompts_beyond_the_context_are_refused_at_once() -> None:
    mode = comem.MODES["rag"](comem.load_backbone("toy"))
    long = comem.KnowledgeItem("n", "town " * 9000, None)
    with pytest.raises(ValueError, match="a prompt of 90.. tokens, but toy takes 8192: shorten the question"):
        mode.answer_batch([comem.Example("q", "?", None)], [comem.RetrievedContext("q", (long,))])
    with pytest.raises(ValueError, match="toy takes 8192"):
        mode.answer_batch([comem.Example("q", "x" * 2_000_000, None)], [None])


@pytest.mark.parametrize("text", ["字" * 10_000, "\U00020000" * 5_000])
def test_items_beyond_the_encoders_context_are_faults_of_their_own(text: str) -> None:
    encoder = comem.load_encoder("toy")
    items = [comem.KnowledgeItem("short", "A town.", None), comem.KnowledgeItem("long", text, None)]
    with pytest.raises(
        ValueError, match="knowledge item 'long': .* tokens, but the encoder's base takes 8192"
    ):
        encoder.encode(items)
