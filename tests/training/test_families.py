"""Any model as encoder and reader: encode, bank, train, resume, merge, answer, from tiny random configs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from backbones.families import CAUSAL, FAMILIES, ROWS, SEEING, make, sampled, save
from PIL import Image

from comem.backbones.base import ChatProcessor, GenerationConfig
from comem.backbones.hf import HFBackbone, load_backbone
from comem.backbones.specs import BackboneError, BackboneSpec, resolve_backbone
from comem.config import load_config
from comem.io.files import read_json
from comem.memory.bank import MemoryBank
from comem.memory.encoder import load_encoder
from comem.memory.injection import prefix_for
from comem.memory.lora import expected_lora_count, lora_layers
from comem.memory.settings import LoraSettings, QFormerSettings
from comem.modes import MODES
from comem.training.data import load_examples
from comem.training.labels import IGNORED, template_labels
from comem.training.merge import merge
from comem.training.run import train
from comem.training.settings import MergeSettings, OptimSettings, TrainSettings
from comem.types import Example, KnowledgeItem, Message, RetrievedContext

ROOT = Path(__file__).resolve().parents[2]
SHORT = GenerationConfig(max_new_tokens=5)
#: Run by default; COMEM_TEST_FAMILIES=all runs the rest, too.
WHOLE = ("llama", "gemma3_text", "qwen3", "internvl3", "smolvlm", "qwen3_5", "rwkv")
#: Linear layers of the tiny models, towers and projectors included, counted by hand from their configs.
COUNTS = {
    "llama": 2 * 7,
    "qwen3": 2 * 7,
    "gemma3_text": 2 * 7,
    "llava_1_5": 4 * 7 + 2 * 6 + 2,
    "internvl3": 4 * 7 + 2 * 6 + 2,
    "smolvlm": 4 * 7 + 2 * 6 + 1,
}


@pytest.fixture()
def settings(tmp_path: Path) -> Callable[..., TrainSettings]:
    """Four questions; items with an image, with text alone, and a question with an image of its own."""
    rows: list[dict[str, Any]] = []
    for number, answer in enumerate(("ab", "cdefg", "hi", "jkl")):
        Image.new("RGB", (56, 28 * (1 + number % 2)), (60 * number, 9, 90)).save(tmp_path / f"{number}.png")
        item = {"id": f"k{number}", "text": f"It is {answer}."} | (
            {"image": f"{number}.png"} if number % 2 else {}
        )
        rows.append({"id": f"q{number}", "question": "What?", "answer": answer, "knowledge": [item]})
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def settle(model: str, **changes: Any) -> TrainSettings:
        given: dict[str, Any] = {
            "model": model, "data": str(path), "output": str(tmp_path / "run"), "batch_size": 4,
            "epochs": 3.0, "precision": "fp32", "save_every": 1, "tensorboard": False,
            "lora": LoraSettings(4, 8, 0.0),
            "qformer": QFormerSettings(num_queries=4, depth=1, heads=4, output_scale="auto"),
            "optim": OptimSettings(lr=5e-3), **changes,
        }  # fmt: skip
        return TrainSettings(**given)

    return settle


@pytest.mark.parametrize("name", sampled([*FAMILIES, *ROWS, *SEEING, "rwkv", "deepseek_v2"], WHOLE))
def test_encode_bank_train_resume_merge_answer(
    name: str, settings: Callable[..., TrainSettings], tmp_path: Path
) -> None:
    folder = save(name, tmp_path / name)
    whole = train(settings(folder, output=str(tmp_path / "whole")))
    assert whole.steps == 3 and whole.loss == whole.loss
    train(settings(folder, max_steps=2))
    # the same run, stopped after two of its steps and gone on with
    for path in sorted((tmp_path / "whole" / "checkpoints").iterdir())[-1:]:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    again = train(settings(folder, output=str(tmp_path / "whole")))
    assert again.loss == pytest.approx(whole.loss, rel=1e-5)

    items = [example.items[0] for example in load_examples(settings(folder).data)]
    backbone = load_backbone(folder)
    noted = again.folder / "backbones.json"
    assert noted.is_file() != backbone.spec.declared
    assert backbone.spec.declared or read_json(noted)[backbone.spec.name]["family"] == backbone.spec.family
    encoder = load_encoder(again.checkpoint, backbone)
    bank = encoder.encode(items)
    alone = torch.cat([encoder.encode([item]).embeddings for item in items])
    torch.testing.assert_close(bank.embeddings, alone, rtol=1e-4, atol=1e-4)
    merge(MergeSettings(again.folder, tmp_path / "merged"))
    merged = load_encoder(tmp_path / "merged")
    assert bank.fingerprint in merged.accepted_fingerprints() and merged.fingerprint() != bank.fingerprint
    torch.testing.assert_close(merged.encode(items).embeddings, bank.embeddings, rtol=1e-4, atol=1e-4)

    questions = [Example("q", "What is it?", None), Example("r", "And what is that?", None)]
    found = [RetrievedContext("q", tuple(items[:2])), None]
    asked = MODES["comem"](backbone, encoder=encoder, bank=bank, generation=SHORT)
    answers = asked.answer_batch(questions, found)
    assert [answer.context_tokens for answer in answers] == [8, 0]
    plain = MODES["baseline"](backbone, generation=SHORT).answer_batch(questions, found)
    assert answers[1].text == plain[1].text and heeds(backbone, bank.embeddings[0])
    foreign = MemoryBank(bank.embeddings, bank.ids, "of another encoder")
    with pytest.raises(ValueError, match="made by another encoder"):
        MODES["comem"](backbone, encoder=encoder, bank=foreign)


@pytest.mark.parametrize("name", ["smolvlm", "llama", "qwen3_5"])
def test_a_small_encoder_writes_for_a_larger_reader_of_another_family(
    name: str, settings: Callable[..., TrainSettings], tmp_path: Path, tiny_backbone_folder: Path
) -> None:
    """Other vocabulary, other width, other chat template: memories are vectors of the reader's width."""
    recipe = load_config(TrainSettings, ROOT / "configs/train/small_to_large.yaml")
    folder, reader = save(name, tmp_path / name), load_backbone(tiny_backbone_folder)
    given = {"reader": str(tiny_backbone_folder), "max_items": recipe.max_items, "question_picture": "auto"}
    side = recipe.max_side if name == "smolvlm" else None
    run = train(settings(folder, **given, max_side=side and 56))
    merge(MergeSettings(run.folder, tmp_path / "merged"))
    items = [example.items[0] for example in load_examples(settings(folder).data)]
    encoder = load_encoder(tmp_path / "merged")
    bank = encoder.encode(items)
    assert encoder.width == reader.hidden_size == 64 and bank.embeddings.shape == (4, 4, 64)
    asked = MODES["comem"](reader, encoder=encoder, bank=bank, generation=SHORT)
    context = RetrievedContext("q", tuple(items[:2]))
    (answer,) = asked.answer_batch([Example("q", "What is it?", None)], [context])
    assert answer.context_tokens == 8 and heeds(reader, bank.embeddings[0])
    with pytest.raises(ValueError, match="memories of width 64, the reader reads 32"):
        MODES["comem"](load_backbone(folder), encoder=encoder)


@torch.no_grad()
def heeds(backbone: HFBackbone, memory: torch.Tensor) -> bool:
    """Whether the next token's scores are others with the memory."""
    inputs = backbone.process([[Message("user", ("What is it?",))]])
    plain = backbone.model(**inputs).logits[:, -1]
    with prefix_for(backbone).attach(backbone.model, inputs, [memory]) as extended:
        found = backbone.model(**extended).logits[:, -1]
    return bool((found - plain).abs().max() > 0.01 * plain.abs().max())


@pytest.mark.parametrize(
    "name", sampled([*FAMILIES, *ROWS, *SEEING, *CAUSAL], [*COUNTS, *FAMILIES, "deepseek_v2"])
)
def test_lora_reaches_every_linear_layer_but_the_head(
    name: str, settings: Callable[..., TrainSettings]
) -> None:
    from comem.memory.lora import add_lora

    model, _ = make(name)
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    expected = expected_lora_count(model, LoraSettings(4))
    add_lora(model, LoraSettings(4))
    assert len(lora_layers(model)) == len(linear)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected
    assert name not in COUNTS or len(linear) == COUNTS[name]


def test_labels_are_the_answers_and_their_end() -> None:
    chat = [Message("user", ("Hi there?",)), Message("assistant", ("Paris <pad>",))]
    more = [*chat, Message("user", ("And now",)), Message("assistant", ("42 m",))]
    expected = {
        "llama": ["Paris  <|im_end|>\n", "Paris  <|im_end|>\n42 m<|im_end|>\n"],
        "llama3": ["Paris <pad><|eot_id|>", "Paris <pad><|eot_id|>42 m<|eot_id|>"],
        "gemma3_text": ["Paris  <end_of_turn>\n", "Paris  <end_of_turn>\n42 m<end_of_turn>\n"],
        "qwen3": ["Paris <pad><|im_end|>\n", "Paris <pad><|im_end|>\n42 m<|im_end|>\n"],
    }
    expected["llama"] = [text.replace("Paris  ", "Paris <pad>") for text in expected["llama"]]
    for name, texts in expected.items():
        _, processor = make(name)
        process = ChatProcessor(BackboneSpec(name, "", name, sees_images=False), processor)
        ids = process([chat, more], add_generation_prompt=False)["input_ids"]
        labels = template_labels(process, [chat, more], ids)
        byte = {c: b for b, c in _bytes().items()}
        said = [
            "".join(
                t if t in processor.all_special_tokens else "".join(chr(byte[c]) for c in t)
                for t in processor.convert_ids_to_tokens(row[row != IGNORED].tolist())
            )
            for row in labels
        ]
        assert said == texts, name
        with pytest.raises(ValueError, match="no assistant turn in row 0"):
            template_labels(process, [chat[:1]], ids[:1])


def _bytes() -> dict[int, str]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return bytes_to_unicode()


def test_an_image_alone_tells_a_text_model_nothing(small_image: Any) -> None:
    from comem.memory.qformer_encoder import build_encoder

    model, processor = make("llama")
    spec = BackboneSpec("x", "", "llama", sees_images=False)
    encoder = build_encoder(HFBackbone(spec, model, processor), qformer=QFormerSettings(depth=1, heads=4))
    with pytest.raises(ValueError, match="'a' has an image alone, and the encoder's model sees none"):
        encoder.encode([KnowledgeItem("a", " ", small_image())])
    both, text = KnowledgeItem("a", "words", small_image()), KnowledgeItem("a", "words", None)
    assert torch.equal(encoder.encode([both]).embeddings, encoder.encode([text]).embeddings)


def test_a_base_model_without_chat_template(tmp_path: Path) -> None:
    model, processor = make("llama")
    processor.chat_template = None
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="has no chat template.*instruct version"):
        load_backbone(tmp_path).generate([[Message("user", ("hi",))]])


def test_gguf_weights_alone(tmp_path: Path) -> None:
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    for place in (tmp_path, tmp_path / "model-q4.gguf"):
        with pytest.raises(BackboneError, match="GGUF weights only.*pip install gguf"):
            resolve_backbone(place)
