"""Cross-attention to memories: trained with the encoder, saved with it, and what it promises."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import comem
from comem.backbones.base import GenerationConfig
from comem.engine.engine import fast
from comem.memory.injection import INJECTIONS
from comem.memory.settings import CrossSettings
from comem.training.merge import merge
from comem.training.run import train
from comem.training.settings import MergeSettings, OptimSettings, TrainSettings
from comem.types import Example, KnowledgeItem, Message, RetrievedContext

SHORT = GenerationConfig(max_new_tokens=5)
CROSS = CrossSettings(every=1, intermediate=16)


def losses(folder: Path) -> list[float]:
    rows = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


@pytest.fixture()
def trained(settings: Callable[..., TrainSettings]) -> Path:
    result = train(settings(injection="cross", cross=CROSS, max_steps=4))
    return result.folder


def test_a_run_trains_saves_resumes_and_merges_its_blocks(
    settings: Callable[..., TrainSettings], trained: Path, tmp_path: Path
) -> None:
    last = trained / "checkpoints" / "step-00000004"
    about = json.loads((last / "comem_encoder.json").read_text())["injection"]
    assert about["name"] == "cross"
    assert about["settings"]["every"] == 1
    blocks = load_file(last / "injection.safetensors")
    assert float(blocks["blocks.0.attn_gate"].abs()) > 0
    assert blocks["blocks.1.null_key"].shape[1:] == (1, 16)
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["gate/attn_gate/0"] > 0
    # killed after the second step, and resumed: the same losses and weights
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    shutil.rmtree(other / "checkpoints" / "step-00000004")
    train(settings(injection="cross", cross=CROSS, max_steps=4, output=str(other)))
    assert losses(other) == losses(trained)
    again = load_file(other / "checkpoints" / "step-00000004" / "injection.safetensors")
    assert all(torch.equal(again[name], blocks[name]) for name in blocks)
    merge(MergeSettings(trained, tmp_path / "merged"))
    merged = load_file(tmp_path / "merged" / "injection.safetensors")
    assert all(torch.equal(merged[name], blocks[name]) for name in blocks)


def test_frozen_gates_stay(settings: Callable[..., TrainSettings], trained: Path, tmp_path: Path) -> None:
    first = trained / "checkpoints" / "step-00000004"
    frozen = CrossSettings(every=1, intermediate=16, freeze_gates=True)
    second = train(
        settings(injection="cross", cross=frozen, init=str(first), max_steps=2, output=str(tmp_path / "two"))
    )
    before, after = (load_file(folder / "injection.safetensors") for folder in (first, second.checkpoint))
    assert torch.equal(before["blocks.0.attn_gate"], after["blocks.0.attn_gate"])
    assert not torch.equal(before["blocks.0.to_q.weight"], after["blocks.0.to_q.weight"])
    with pytest.raises(ValueError, match="set `cross` alike"):
        train(settings(injection="cross", init=str(first), output=str(tmp_path / "three")))


def test_blocks_start_as_the_reader_or_at_random(
    settings: Callable[..., TrainSettings], trained: Path, tmp_path: Path
) -> None:
    """At a learning rate of nearly nothing, what was saved is what the blocks began with."""
    still = OptimSettings(lr=1e-12)
    found = {}
    for start in ("reader", "random"):
        cross = replace(CROSS, start=start)
        asked = settings(
            injection="cross", cross=cross, max_steps=1, optim=still, output=str(tmp_path / start)
        )
        found[start] = load_file(train(asked).checkpoint / "injection.safetensors")
    reader = comem.load_backbone(asked.model).model.get_decoder().layers[0].self_attn
    torch.testing.assert_close(found["reader"]["blocks.0.to_q.weight"], reader.q_proj.weight.detach())
    assert not torch.allclose(found["random"]["blocks.0.to_q.weight"], reader.q_proj.weight, atol=1e-3)
    # blocks that 0.2's folders hold say nothing of their start; and it is no matter for blocks that are there
    about = trained / "checkpoints" / "step-00000004" / "comem_encoder.json"
    said = json.loads(about.read_text())
    del said["injection"]["settings"]["start"]
    about.write_text(json.dumps(said))
    again = settings(
        injection="cross", cross=replace(CROSS, start="random"), init=str(about.parent), max_steps=1
    )
    train(replace(again, output=str(tmp_path / "again")))


def opened(trained: Path) -> tuple[Any, Any]:
    model = json.dumps((trained / "config.yaml").read_text())
    name = model.partition("model: ")[2].partition("\\n")[0]
    backbone = comem.load_backbone(name)
    encoder = comem.load_encoder(trained / "checkpoints" / "step-00000004", backbone)
    for parameter in INJECTIONS["cross"](backbone, encoder).weights.gate_parameters():
        parameter.data.fill_(1.5)
    return backbone, encoder


def test_the_order_of_items_does_not_count_and_no_items_are_the_base(trained: Path) -> None:
    backbone, encoder = opened(trained)
    injection = INJECTIONS["cross"](backbone, encoder)
    memory = torch.randn(3, 4, backbone.hidden_size)  # three items of four embeddings
    inputs = backbone.place(backbone.process([[Message("user", ("What is it?",))]]))

    def logits(memory: Any) -> torch.Tensor:
        with torch.no_grad(), injection.attach(backbone.model, inputs, [memory]) as ready:
            assert ready["input_ids"].shape == inputs["input_ids"].shape  # the sequence does not grow
            return backbone.model(**ready).logits  # type: ignore[no-any-return]

    first = logits(memory.flatten(0, 1))
    assert torch.allclose(logits(memory[[2, 0, 1]].flatten(0, 1)), first, atol=1e-5)
    with torch.no_grad():
        base = backbone.model(**inputs).logits
    assert torch.equal(logits(None), base)
    assert (first - base).abs().max() > 1e-3
    ranked = type(injection)(injection.weights, "rank")
    with torch.no_grad():
        found = []
        for order in ([0, 1, 2], [2, 0, 1]):
            with ranked.attach(backbone.model, inputs, [memory[order].flatten(0, 1)]) as ready:
                found.append(backbone.model(**ready).logits)
    assert not torch.allclose(*found, atol=1e-4)


def test_the_mode_takes_what_the_encoder_learned_and_the_engine_steps_aside(trained: Path) -> None:
    backbone, encoder = opened(trained)
    item = KnowledgeItem("k", "It is ab.", None)
    examples = [Example("q", "What is it?", None), Example("r", "What is it?", None)]
    contexts = [RetrievedContext("q", (item,)), None]
    mode = comem.MODES["comem"](backbone, comem.ModeSettings(encoder=encoder, generation=SHORT))
    assert mode.injection.name == "cross"
    answers = [answer.text for answer in mode.answer_batch(examples, contexts)]
    quick = comem.MODES["comem"](fast(backbone), comem.ModeSettings(encoder=encoder, generation=SHORT))
    assert [answer.text for answer in quick.answer_batch(examples, contexts)] == answers
    plain = backbone.generate([[Message("user", ("What is it?",))]], config=SHORT)[0].text
    assert answers[1] == plain != answers[0]


def test_an_encoder_without_blocks_is_refused(trained: Path, settings: Callable[..., TrainSettings]) -> None:
    backbone, encoder = opened(trained)
    with pytest.raises(ValueError, match="this one's are cross's"):
        INJECTIONS["prefix_and_cross"](backbone, encoder)
    encoder.learned = None
    with pytest.raises(ValueError, match="injection=cross"):
        INJECTIONS["cross"](backbone, encoder)


def test_prefix_and_cross_learn_together(settings: Callable[..., TrainSettings], tmp_path: Path) -> None:
    result = train(settings(injection="prefix_and_cross", cross=CROSS, max_steps=2, checkpointing=True))
    assert (result.checkpoint / "injection.safetensors").is_file()
    plain = train(
        settings(injection="prefix_and_cross", cross=CROSS, max_steps=2, output=str(tmp_path / "p"))
    )
    assert losses(result.folder) == pytest.approx(losses(plain.folder), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"every": 0}, "every=0"), ({"positions": "rang"}, "known: none"), ({"start": "zero"}, "known: reader")],
)
def test_settings_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrossSettings(**change)
