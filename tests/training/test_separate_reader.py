"""A reader apart from the encoder: of another width, in training, merging, prediction, and refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from comem.backbones.base import GenerationConfig
from comem.backbones.hf import load_backbone
from comem.memory.encoder import load_encoder
from comem.memory.injection import prefix_for
from comem.memory.settings import QFormerSettings
from comem.modes.comem import ComemMode
from comem.training.data import load_examples
from comem.training.merge import merge
from comem.training.model import MemoryTrainingModel
from comem.training.plan import make_plan
from comem.training.run import build_collator, build_encoder, train
from comem.training.settings import MergeSettings, TrainSettings
from comem.types import Example, RetrievedContext

Make = Callable[..., TrainSettings]
WIDTH = 96  # the reader's; the encoder's base has 64


@pytest.fixture(scope="module")
def reader_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.conftest import build_tiny_processor, build_tiny_qwen2_5_vl

    config = build_tiny_qwen2_5_vl().config
    config.text_config.hidden_size = config.vision_config.out_hidden_size = WIDTH
    config.text_config.rope_parameters["mrope_section"] = [4, 4, 4]
    folder = tmp_path_factory.mktemp("reader")
    torch.manual_seed(5)
    model = type(build_tiny_qwen2_5_vl())(config)
    for parameter in model.parameters():
        parameter.data.mul_(5.0 if parameter.ndim > 1 else 1.0)
    model.save_pretrained(folder)
    build_tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture()
def run(settings: Make, reader_folder: Path) -> Make:
    def make(**changes: Any) -> TrainSettings:
        return settings(**{"reader": str(reader_folder), **changes})

    return make


def model_and_batch(config: TrainSettings) -> tuple[MemoryTrainingModel, Any]:
    base, reader = load_backbone(config.model), load_backbone(config.reader)
    encoder = build_encoder(config, base, reader=reader)
    for name, parameter in encoder.named_parameters():
        if ".lora_B" in name:  # zero at the start: nothing would reach lora_A
            torch.nn.init.normal_(parameter, std=0.02)
    model = MemoryTrainingModel(encoder, reader.model, prefix_for(reader))
    return model, build_collator(config, base, encoder.form, reader)(load_examples(config.data))


def test_the_projection_follows_the_reader(run: Make, reader_folder: Path) -> None:
    model, batch = model_and_batch(run())
    qformer = model.encoder.qformer
    assert (qformer.config.hidden_size, qformer.config.width_out) == (64, WIDTH)
    assert qformer.proj_out.weight.shape == (WIDTH, 64)
    prefixes = model.prefixes(batch.items, batch.rows)
    assert [None if p is None else tuple(p.shape) for p in prefixes] == [(4, WIDTH)] * 4
    table = load_backbone(reader_folder).model.get_input_embeddings().weight
    norm = prefixes[0].norm(dim=-1).mean()  # type: ignore[union-attr]
    torch.testing.assert_close(norm, table.norm(dim=-1).mean(), rtol=0.05, atol=0)


def test_gradients_reach_the_encoder_only(run: Make) -> None:
    model, batch = model_and_batch(run())
    model(batch)[0].backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(name.startswith("encoder.") for name in with_gradient)
    assert all(".lora_" in name or ".qformer." in name for name in with_gradient)
    # LoRA of the vision tower and of the last block's keys are reached, too
    assert all(p.grad.any() for n, p in model.named_parameters() if n in with_gradient and p.ndim > 1)  # type: ignore[union-attr]


def test_checkpointing_changes_no_gradient(run: Make) -> None:
    from comem.memory.checkpointing import enable_checkpointing

    plain, batch = model_and_batch(run())
    recomputed, _ = model_and_batch(run())
    recomputed.load_state_dict(plain.state_dict())
    for network in (recomputed.encoder.model, recomputed.reader):
        enable_checkpointing(network)
    for model in (plain, recomputed):
        torch.manual_seed(3)  # the same dropout
        model.train()(batch)[0].backward()
    for (name, one), two in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(two.grad, one.grad, atol=1e-6, rtol=1e-5, msg=name)


def test_train_merge_predict(run: Make, reader_folder: Path, tmp_path: Path) -> None:
    config = run(max_steps=12, optim=replace(run().optim, lr=2e-2))
    result = train(replace(config, eval_data=config.data))
    assert result.metrics["eval_loss"] > 0 and result.checkpoint.is_dir()
    merged = merge(MergeSettings(result.folder, tmp_path / "merged"))
    merge(MergeSettings(result.folder, tmp_path / "adapter", adapter=True))

    reader = load_backbone(reader_folder)
    (example, *_) = load_examples(config.data)
    questions = [Example("q", "What is it?", None)]
    contexts = [RetrievedContext("q", example.items)]
    answers = []
    for name in ("merged", "adapter"):
        encoder = load_encoder(tmp_path / name, reader)
        assert encoder.model is not reader.model
        assert merged.fingerprint() in encoder.accepted_fingerprints() or name == "adapter"
        bank = encoder.encode(example.items)
        assert bank.embeddings.shape == (1, 4, WIDTH)
        for mode in (
            ComemMode(reader, encoder=encoder, generation=GenerationConfig(4)),
            ComemMode(reader, bank=bank, generation=GenerationConfig(4)),
        ):
            answers += mode.answer_batch(questions, contexts)
    assert len({answer.text for answer in answers}) == 1
    assert {answer.context_tokens for answer in answers} == {4}


def test_the_fingerprint_tells_readers_apart(run: Make, settings: Make) -> None:
    """The same seed and base for two readers: two encoders, whose banks do not mix."""
    base = load_backbone(run().model)
    alone = build_encoder(settings(), base)
    apart = build_encoder(run(), load_backbone(run().model), reader=load_backbone(run().reader))
    assert alone.fingerprint() != apart.fingerprint()


def test_a_reader_of_another_width_is_refused(run: Make, tmp_path: Path) -> None:
    config = run(max_steps=1)
    checkpoint = train(config).checkpoint
    base = load_backbone(config.model)
    encoder = load_encoder(checkpoint, base)
    assert encoder.model is base.model  # one copy; but it writes for another reader
    with pytest.raises(ValueError, match=rf"memories of width {WIDTH}, the reader reads 64: answer with"):
        ComemMode(base, encoder=encoder)
    with pytest.raises(ValueError, match=rf"width {WIDTH}, the backbone reads 64"):
        ComemMode(base, bank=encoder.encode([]))
    with pytest.raises(ValueError, match=rf"memories of width {WIDTH}, the reader reads 64"):
        MemoryTrainingModel(encoder)
    onto = run(reader="", init=str(checkpoint), output=str(tmp_path / "other"))
    with pytest.raises(ValueError, match=rf"writes memories of width {WIDTH}, the reader reads 64.*`reader`"):
        train(onto)


def test_init_of_another_qformer_is_refused(run: Make, tmp_path: Path) -> None:
    checkpoint = train(run(max_steps=1)).checkpoint
    deeper = QFormerSettings(num_queries=4, depth=3, heads=4, output_scale="auto")
    with pytest.raises(ValueError, match=r"holds QFormerConfig\(.*depth=2.*ask for .*depth=3"):
        train(run(init=str(checkpoint), qformer=deeper, output=str(tmp_path / "other")))


def test_resuming_with_another_reader_is_refused(run: Make) -> None:
    train(run(max_steps=1))
    with pytest.raises(ValueError, match="another configuration:\n  reader: "):
        train(run(max_steps=1, reader=""))


def test_the_plan_counts_the_reader(run: Make, settings: Make, reader_folder: Path) -> None:
    alone, apart = make_plan(settings()), make_plan(run())
    assert (alone.reader, alone.reader_parameters) == ("", 0)
    assert apart.reader_parameters == sum(p.numel() for p in load_backbone(reader_folder).model.parameters())
    assert apart.trained_parameters["LoRA"] == alone.trained_parameters["LoRA"]
    # projection and norm of the Q-Former: 64 → 96 instead of 64 → 64
    assert apart.trained_parameters["Q-Former"] - alone.trained_parameters["Q-Former"] == (64 + 1 + 2) * (
        WIDTH - 64
    )
    assert apart.weight_bytes > alone.weight_bytes + 4 * apart.reader_parameters
    assert "reader" in dict(apart.lines()) and str(reader_folder.name) in dict(apart.lines())["reader"]


def test_unknown_reader(run: Make) -> None:
    with pytest.raises(ValueError, match=r"unknown backbone 'qwen2_5_vk'; did you mean qwen2_5_vl"):
        train(run(reader="qwen2_5_vk"))
