"""A text-only reader: what it learns from is what it gets when it answers, and never the answer itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from comem.backbones.base import GenerationConfig
from comem.backbones.hf import HFBackbone, load_backbone
from comem.backbones.positions import text_positions
from comem.backbones.text_reader import text_reader_of
from comem.memory.encoder import load_encoder
from comem.memory.injection import PREFIX, prefix_for
from comem.memory.settings import PICTURE_PROMPT
from comem.modes.comem import ComemMode
from comem.training.collator import IGNORED, TrainingBatch
from comem.training.data import TrainingExample, load_examples
from comem.training.merge import merge
from comem.training.model import MemoryTrainingModel
from comem.training.plan import make_plan
from comem.training.run import build_collator, build_encoder, train
from comem.training.settings import MergeSettings, TrainSettings
from comem.types import Example, RetrievedContext

Make = Callable[..., TrainSettings]
QUERIES, WIDTH = 4, 64


@pytest.fixture(scope="module")
def text_folder(tiny_backbone_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    text_reader_of(load_backbone(tiny_backbone_folder), folder)
    return folder


@pytest.fixture()
def run(settings: Make, text_folder: Path, tmp_path: Path) -> Make:
    """Four questions of different lengths whose pictures alone tell the answer; 0 to 2 items each."""
    rng = numpy.random.default_rng(3)
    rows: list[dict[str, Any]] = []
    for number, answer in enumerate(["ab", "cdefg", "hi", "jkl"]):
        for name in (f"asked{number}.png", f"item{number}.png"):
            Image.fromarray(rng.integers(0, 256, (28, 56, 3), dtype=numpy.uint8)).save(tmp_path / name)
        items = [{"id": f"k{i}", "text": f"It is {i}.", "image": f"item{i}.png"} for i in range(number % 3)]
        question = "What is it" + "?" * (1 + number)
        rows.append({"id": f"q{number}", "question": question, "answer": answer, "knowledge": items})
        rows[-1]["image"] = f"asked{number}.png"
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(**changes: Any) -> TrainSettings:
        return settings(**{"reader": str(text_folder), "data": str(path), **changes})

    return make


class Parts:
    """A run's parts, LoRA with effect."""

    def __init__(self, config: TrainSettings) -> None:
        base = load_backbone(config.model)
        self.reader = load_backbone(config.reader) if config.reader else base
        self.encoder = build_encoder(config, base, reader=self.reader)
        for name, parameter in self.encoder.named_parameters():
            if ".lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        self.model = MemoryTrainingModel(self.encoder, self.reader.model, prefix_for(self.reader)).eval()
        self.collator = build_collator(config, base, self.encoder.form, self.reader)
        self.examples = load_examples(config.data)

    def logits(self, batch: TrainingBatch) -> Tensor:
        """All logits `(b, l, v)` of the training's forward pass over the dialogue."""
        prefixes = self.model.prefixes(batch.items, batch.rows)
        with torch.no_grad(), PREFIX.attach(self.reader.model, batch.question, prefixes) as extended:
            extended.pop("labels")
            positions = text_positions(self.reader.model, extended["attention_mask"])
            logits: Tensor = self.reader.model(**extended, **positions, use_cache=False).logits
        return logits[:, -batch.question["input_ids"].shape[1] :]


@pytest.fixture()
def parts(run: Make) -> Parts:
    return Parts(run())


class Kept:
    """A backbone that keeps the memory which a mode puts in front of each question."""

    def __init__(self, backbone: HFBackbone) -> None:
        self.backbone, self.prefixes = backbone, []  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backbone, name)

    def generate(self, conversations: Any, prefixes: Any = None, *rest: Any) -> Any:
        self.prefixes = prefixes
        return self.backbone.generate(conversations, prefixes, *rest)


def asked(examples: Sequence[TrainingExample]) -> tuple[list[Example], list[RetrievedContext | None]]:
    questions = [Example(e.id, e.turns[0][0], e.images[0] if e.images else None) for e in examples]
    return questions, [RetrievedContext(e.id, e.items) if e.items else None for e in examples]


def test_layout(parts: Parts) -> None:
    """[items, best first][the question's picture][the chat], pictures written with a prompt of their own."""
    batch = parts.collator(parts.examples)
    assert batch.rows == ((2,), (0, 3), (0, 1, 4), (5,))
    assert "pixel_values" not in batch.question, "the reader gets no pixels"
    text = parts.reader.process.tokenizer.batch_decode(batch.items["input_ids"])
    assert [PICTURE_PROMPT in row for row in text] == [False, False, True, True, True, True]
    assert text[2].endswith(f"{PICTURE_PROMPT}<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n")
    with torch.no_grad():
        prefixes = parts.model.prefixes(batch.items, batch.rows)
    assert [len(p) for p in prefixes if p is not None] == [QUERIES * n for n in (1, 2, 3, 1)]


@pytest.mark.parametrize("place", [0, -3])
def test_a_later_token_changes_nothing_before_it(parts: Parts, place: int) -> None:
    """The authors' training leaks: changing the last answer token moves the logits that predict it."""
    batch = parts.collator(parts.examples)
    columns = [int((row != IGNORED).nonzero()[place]) for row in batch.question["labels"]]
    ids = batch.question["input_ids"].clone()
    for row, column in enumerate(columns):
        ids[row, column] = (ids[row, column] + 1) % 256
    before = parts.logits(batch)
    after = parts.logits(replace(batch, question={**batch.question, "input_ids": ids}))
    for row, column in enumerate(columns):
        assert torch.equal(after[row, :column], before[row, :column])
        assert not torch.equal(after[row, column], before[row, column])


def test_training_and_answering_give_the_same_logits(parts: Parts) -> None:
    """The mode's memory, prefill and cached decoding under `generate`, against one forward of training."""
    batch = parts.collator(parts.examples)
    trained = parts.logits(batch)
    questions, contexts = asked(parts.examples)
    kept = Kept(parts.reader)
    ComemMode(kept, encoder=parts.encoder).answer_batch(questions, contexts)
    inputs = parts.reader.process([e.messages(last_answer=False) for e in parts.examples])
    answers = [row[row != IGNORED].tolist() for row in batch.question["labels"]]
    longest = max(map(len, answers))
    with PREFIX.attach(parts.reader.model, inputs, kept.prefixes) as extended:
        start = extended["input_ids"].shape[1]
        made = parts.reader.model.generate(
            **extended, max_new_tokens=longest, eos_token_id=None, do_sample=False,
            prefix_allowed_tokens_fn=lambda row, ids: [(answers[row] + [0] * longest)[len(ids) - start]],
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    answered = torch.stack(made.logits, dim=1)  # (b, longest, v)
    for row, labels in enumerate(batch.question["labels"]):
        columns = (labels != IGNORED).nonzero().flatten() - 1
        ours, theirs = answered[row, : len(columns)], trained[row, columns]
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing(parts: Parts) -> None:
    together = parts.logits(parts.collator(parts.examples))
    for row, example in enumerate(parts.examples):
        alone = parts.logits(parts.collator([example]))[0]
        torch.testing.assert_close(together[row, -len(alone) :], alone, atol=2e-5, rtol=1e-5)


def test_the_picture_teaches(parts: Parts) -> None:
    """A question without items: its own picture moves the loss and trains the encoder."""
    first, other = parts.examples[0], parts.examples[3]
    assert not first.items
    loss, _ = parts.model(parts.collator([first]))
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in parts.encoder.qformer.parameters() if p.ndim > 1)
    elsewhere, _ = parts.model(parts.collator([replace(first, turn_images=other.turn_images)]))
    assert abs(loss.item() - elsewhere.item()) > 1e-3
    blind, _ = parts.model(parts.collator([replace(first, turn_images=())]))
    assert blind.item() != loss.item()


def test_checkpointing_changes_no_gradient(run: Make) -> None:
    from comem.memory.checkpointing import enable_checkpointing

    plain, recomputed = Parts(run()), Parts(run())
    recomputed.model.load_state_dict(plain.model.state_dict())
    for network in (recomputed.encoder.model, recomputed.reader.model):
        enable_checkpointing(network)
    for each in (plain, recomputed):
        torch.manual_seed(3)
        each.model.train()(each.collator(each.examples))[0].backward()
    for (name, one), two in zip(plain.model.named_parameters(), recomputed.model.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(two.grad, one.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_train_evaluate_merge_answer(
    run: Make, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the evaluation in training generates is what `ComemMode` answers from the saved folder."""
    from comem.training import trainer as evaluate

    generated: list[str] = []
    monkeypatch.setattr(evaluate, "is_right", lambda text, _: bool(generated.append(text)))
    config = run(max_steps=4, optim=replace(run().optim, lr=1e-2), save_every=0)
    result = train(replace(config, eval_data=config.data))
    assert result.metrics["eval_accuracy"] == 0.0 and len(set(generated)) == 4
    losses = [
        json.loads(line)["loss"] for line in (result.folder / "metrics.jsonl").read_text().splitlines()[:4]
    ]
    assert losses[-1] < 0.9 * losses[0]

    merge(MergeSettings(result.folder, tmp_path / "merged"))
    merge(MergeSettings(result.folder, tmp_path / "adapter", adapter=True))
    about = json.loads((tmp_path / "adapter" / "comem_encoder.json").read_text())
    assert about["form"]["picture_prompt"] == PICTURE_PROMPT
    reader, examples = load_backbone(text_folder), load_examples(config.data)
    questions, contexts = asked(examples)
    adapter, merged = (load_encoder(tmp_path / name, reader) for name in ("adapter", "merged"))
    mode = ComemMode(reader, encoder=adapter)
    answers = mode.answer_batch(questions, contexts)
    assert [a.text for a in answers] == generated
    assert [a.context_tokens for a in answers] == [0, QUERIES, 2 * QUERIES, 0], "of knowledge only"
    banked = mode.on(bank=adapter.encode(examples[2].items), generation=GenerationConfig(4))
    texts = [a.text for a in banked.answer_batch(questions, contexts)]
    assert texts == [a.text for a in banked.on(bank=None).answer_batch(questions, contexts)]
    pictures = [e.images[0] for e in examples]
    ours, theirs = merged.encode_images(pictures), adapter.encode_images(pictures)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_without_the_picture(run: Make, caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts(run(question_picture="none"))
    batch = parts.collator(parts.examples)
    assert batch.rows == ((), (0,), (0, 1), ()) and parts.encoder.form.picture_prompt is None
    with caplog.at_level(logging.WARNING):
        ComemMode(parts.reader, encoder=parts.encoder)
    assert "sees no images: those of questions are left out" in caplog.text
    with pytest.raises(ValueError, match="does not read questions' images: train one for a text-only"):
        parts.encoder.encode_images(parts.examples[0].images)


def test_a_reader_that_sees_may_have_both(run: Make) -> None:
    parts = Parts(run(reader="", question_picture="memory"))
    batch = parts.collator(parts.examples)
    assert batch.rows[2] == (0, 1, 4) and "pixel_values" in batch.question
    assert parts.model(batch)[0].item() > 0
    assert Parts(run(reader="")).encoder.form.picture_prompt is None


def test_a_picture_that_cannot_be_read(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "asked1.png").write_bytes(b"no picture")
    batch = parts.collator(load_examples(tmp_path / "text.jsonl"))
    assert batch.ids == ("q0", "q2", "q3") and "question q1" in batch.skipped[0]


def test_the_plan_takes_a_text_only_reader(run: Make, text_folder: Path) -> None:
    plan = make_plan(run())
    assert plan.reader_parameters == load_backbone(text_folder).model.num_parameters()


def test_wrong_items_would_teach_to_overlook_the_picture(run: Make) -> None:
    with pytest.raises(ValueError, match="wrong_items with a reader.*question_picture=none"):
        train(run(wrong_items=0.5))
    train(run(wrong_items=0.5, question_picture="none", max_steps=1))


def test_wrong_setting(run: Make) -> None:
    with pytest.raises(ValueError, match="question_picture='both'; known: auto, memory, none"):
        run(question_picture="both")


def test_a_text_reader_of_another_width(run: Make, text_folder: Path, tmp_path: Path) -> None:
    """The Q-Former projects to it, items and pictures alike; training and answering go through."""
    from transformers import Qwen2ForCausalLM

    model = load_backbone(text_folder)
    config = model.model.config
    config.hidden_size, config.intermediate_size = 96, 160
    torch.manual_seed(6)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "wide")
    model.processor.save_pretrained(tmp_path / "wide")
    result = train(run(reader=str(tmp_path / "wide"), max_steps=1))
    reader = load_backbone(tmp_path / "wide")
    encoder = load_encoder(result.checkpoint, load_backbone(run().model))
    assert encoder.width == 96 and encoder.form.picture_prompt == PICTURE_PROMPT
    questions, contexts = asked(load_examples(run().data))
    assert (
        len(
            ComemMode(reader, encoder=encoder, generation=GenerationConfig(2)).answer_batch(
                questions, contexts
            )
        )
        == 4
    )
