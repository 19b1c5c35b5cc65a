"""CoMemo's three stages: what learns, packs, weights, files, resuming, and what is refused."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import comem
from comem.backbones.comemo import CoMemo
from comem.config import load_config
from comem.toy.comemo import ComemoSettings as Data
from comem.toy.comemo import build_comemo
from comem.training.comemo import CoMemoBatch, build_run
from comem.training.data import load_examples
from comem.training.merge import merge
from comem.training.plan import make_plan
from comem.training.run import train
from comem.training.settings import ComemoSettings, LoraSettings, MergeSettings, OptimSettings, TrainSettings
from tests.backbones.tiny_comemo import tiny_comemo


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comemo")
    build_comemo(Data(folder, count=6, test_count=2, images=(1, 2)))
    shutil.rmtree(folder / "model")
    made = tiny_comemo(gate=0.0)
    made.comemo.save(folder / "model", made.processor)
    return folder


@pytest.fixture()
def settings(data: Path, tmp_path: Path) -> Callable[..., TrainSettings]:
    def make(stage: int = 1, output: str = "run", **changes: Any) -> TrainSettings:
        own = {"max_tiles": 4} | {name: changes.pop(name) for name in list(changes) if name in _COMEMO}
        base = TrainSettings(
            model=str(data / "model"), data=str(data / "train.jsonl"), output=str(tmp_path / output),
            batch_size=3,            epochs=10, max_steps=4, save_every=2, precision="fp32",
            tensorboard=False, comemo=ComemoSettings(stage=stage, **own), optim=OptimSettings(lr=5e-3),
        )  # fmt: skip
        return replace(base, **changes)

    return make


_COMEMO = ComemoSettings.__dataclass_fields__


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_three_stages_one_after_the_other_and_a_model_that_answers(
    settings: Callable[..., TrainSettings], data: Path, tmp_path: Path
) -> None:
    start = comem.load_backbone(data / "model").comemo.state_dict()
    one = train(settings(1, "one", checkpointing=True))
    first = load_file(one.checkpoint / "comemo.safetensors")
    assert float(first["blocks.blocks.1.attn_gate"].abs()) > 0
    assert changed({n: start[n] for n in first}, first) == set(first)
    assert not (one.checkpoint / "whole.safetensors").exists()
    assert rows(one.folder)[-1]["gate/attn_gate"] == pytest.approx(
        sum(float(first[f"blocks.blocks.{n}.attn_gate"].tanh().abs()) for n in (1, 3)) / 2
    )
    two = train(settings(2, "two", init=str(one.checkpoint)))
    second = load_file(two.checkpoint / "comemo.safetensors")
    assert set(first) - changed(first, second) == {n for n in first if n.endswith("_gate")}
    three = train(settings(3, "three", init=str(two.checkpoint), eval_data=str(data / "test.jsonl")))
    whole = load_file(three.checkpoint / "whole.safetensors")
    assert "model.vision_tower.encoder.layer.0.mlp.fc1.weight" in whole
    assert not torch.equal(whole["lm_head.weight"], start["model.lm_head.weight"])
    assert set(three.metrics) == {"eval_loss", "eval_accuracy", "eval_examples"}
    merge(MergeSettings(three.folder, tmp_path / "merged"))
    answering = comem.load_backbone(tmp_path / "merged")
    found = answering.comemo.state_dict()
    assert all(torch.equal(found[f"model.{n}"], t) for n, t in whole.items())
    example = load_examples(data / "test.jsonl")[0]
    assert len(answering.generate([example.messages(last_answer=False)])) == 1


def test_a_batch_of_words_alone_teaches_the_blocks_nothing_and_stops_nothing(
    settings: Callable[..., TrainSettings], tmp_path: Path
) -> None:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]
    path = tmp_path / "words.jsonl"
    path.write_text("".join(json.dumps({"id": n, "conversations": turns}) + "\n" for n in range(3)))
    run = train(settings(data=str(path), optim=OptimSettings(lr=1e-2, weight_decay=0.0)))
    assert run.steps == 4 and {row["grad_norm"] for row in rows(run.folder) if "grad_norm" in row} == {0.0}


def test_a_killed_run_goes_on_exactly(settings: Callable[..., TrainSettings], tmp_path: Path) -> None:
    whole = train(settings(3, "whole"))
    other = tmp_path / "other"
    shutil.copytree(whole.folder, other)
    shutil.rmtree(other / "checkpoints" / "step-00000004")
    train(settings(3, "other"))
    assert [row["loss"] for row in rows(other)] == [row["loss"] for row in rows(whole.folder)]
    for name in ("comemo.safetensors", "whole.safetensors"):
        mine = load_file(other / "checkpoints" / "step-00000004" / name)
        assert not changed(load_file(whole.checkpoint / name), mine)


def test_lora_in_the_last_stage(settings: Callable[..., TrainSettings], tmp_path: Path) -> None:
    run = train(settings(3, whole="lora", lora=LoraSettings(2, 4, 0.0)))
    assert (run.checkpoint / "adapter.safetensors").is_file()
    assert not (run.checkpoint / "whole.safetensors").exists()
    merge(MergeSettings(run.folder, tmp_path / "merged"))
    comem.load_backbone(tmp_path / "merged")
    with pytest.raises(ValueError, match="holds LoRA"):
        train(settings(3, "next", init=str(run.checkpoint)))


def test_packed_is_one_by_one_in_loss_and_gradients(
    settings: Callable[..., TrainSettings], data: Path
) -> None:
    examples, found = load_examples(data / "train.jsonl")[:3], []
    for packing in (True, False):
        asked = settings(1, packing=packing)
        run = build_run(asked, lambda name: comem.load_backbone(name, dtype="float32"))
        for gate in run.model.comemo.blocks.gate_parameters():
            gate.data.fill_(0.5)
        (batch,) = run.collator.batches(examples)
        loss, weight = run.model(batch)
        loss.backward()
        grads = {n: p.grad for n, p in run.model.named_parameters() if p.grad is not None}
        found.append((loss.detach(), weight, grads))
        assert all("multi_modal_projector" in n or "blocks" in n for n in grads)
    torch.testing.assert_close(found[0][:2], found[1][:2])
    for name, grad in found[0][2].items():
        torch.testing.assert_close(grad, found[1][2][name], atol=1e-5, rtol=1e-4, msg=name)


def test_the_decoder_is_unharmed_at_gate_0(settings: Callable[..., TrainSettings], data: Path) -> None:
    run = build_run(settings(1), lambda name: comem.load_backbone(name, dtype="float32"))
    (batch,) = run.collator.batches(load_examples(data / "train.jsonl")[:2])
    losses = []
    for path in ("both", "context"):
        run.model.comemo.image_path = path  # type: ignore[assignment]
        losses.append(run.model(batch)[0].detach())
    assert torch.equal(*losses)


@pytest.mark.parametrize(("kind", "powers"), [("token", 0.0), ("square", 0.5), ("sample", 1.0)])
def test_weights_of_a_dialogue(
    settings: Callable[..., TrainSettings], data: Path, kind: str, powers: float
) -> None:
    run = build_run(settings(1, loss_weight=kind), comem.load_backbone)
    batch = run.collator(load_examples(data / "train.jsonl"))
    for sample in batch.samples:
        count = int((sample["labels"] != -100).sum())
        learned = sample["weights"][sample["labels"] != -100]
        assert torch.allclose(learned, torch.full((count,), float(count) ** -powers))
        assert float(sample["weights"].sum()) == pytest.approx(count ** (1 - powers), rel=1e-5)
    assert batch.answer_weight == pytest.approx(sum(float(s["weights"].sum()) for s in batch.samples))


def test_packs_keep_their_limits(settings: Callable[..., TrainSettings], data: Path) -> None:
    examples = load_examples(data / "train.jsonl")
    run = build_run(settings(1, pack_tiles=2), comem.load_backbone)
    packs: list[CoMemoBatch] = run.collator.batches(examples)
    assert [name for pack in packs for name in pack.ids] == [example.id for example in examples]
    assert 1 < len(packs) < len(examples) + 1
    assert all(sum(len(s["pixel_values"]) for s in pack.samples) <= 2 for pack in packs)
    short = build_run(settings(1, max_tokens=20), comem.load_backbone)
    (nothing,) = short.collator.batches(examples)
    assert not nothing.ids and len(nothing.skipped) == len(examples)
    assert all("above max_tokens=20" in said for said in nothing.skipped)


def test_a_memory_path_that_takes_over_is_told(
    settings: Callable[..., TrainSettings], caplog: pytest.LogCaptureFixture
) -> None:
    run = build_run(settings(1, gate_warning=0.3), comem.load_backbone)
    with caplog.at_level(logging.WARNING):
        run.model.figures()
        assert not caplog.records
        for gate in run.model.comemo.blocks.gate_parameters():
            gate.data.fill_(0.4)
        run.model.figures()
        run.model.figures()
    assert [record.message.partition(":")[0] for record in caplog.records] == ["the memory path takes over"]


def test_an_internvl_model_gets_fresh_blocks(settings: Callable[..., TrainSettings], tmp_path: Path) -> None:
    from tests.backbones.tiny import build

    made = build("internvl3")
    made.model.save_pretrained(tmp_path / "internvl")
    made.processor.save_pretrained(tmp_path / "internvl")
    run = build_run(
        settings(1, model=str(tmp_path / "internvl"), every=2, heads=2, head_dim=8), comem.load_backbone
    )
    assert isinstance(run.model.comemo, CoMemo)
    assert run.model.comemo.blocks.sizes.layers == (1, 3)
    with pytest.raises(ValueError, match="no InternVL model"):
        build_run(settings(1, model="toy"), comem.load_backbone)


@pytest.mark.parametrize(("stage", "whole"), [(1, "full"), (2, "full"), (3, "full"), (3, "lora")])
def test_a_plan_says_what_a_stage_trains_and_computes(
    settings: Callable[..., TrainSettings], stage: int, whole: str
) -> None:
    """Against the parameters of the run itself, and the operations that torch counts in a step of it."""
    asked = settings(stage, whole=whole, lora=LoraSettings(2, 4, 0.0), packing=False, batch_size=6)
    plan = make_plan(asked)
    run = build_run(asked, lambda name: comem.load_backbone(name, dtype="float32", attn="eager"))
    trained = [p.numel() for p in run.model.parameters() if p.requires_grad]
    assert plan.trainable == sum(trained)
    parts = {1: {"projector", "blocks", "gates"}, 2: {"projector", "blocks"}}
    late = {"projector", "blocks", "gates", *(("LoRA",) if whole == "lora" else ("decoder", "vision tower"))}
    assert set(plan.trained_parameters) == parts.get(stage, late)
    assert plan.base_parameters == sum(p.numel() for p in run.model.comemo.parameters())
    assert (plan.examples, plan.steps, plan.questions) == (6, 4, 24)
    batch = run.collator(load_examples(asked.data))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run.model(batch)[0].backward()
    assert plan.flops == pytest.approx(counter.get_total_flops() / 6, rel=0.1)
    assert plan.tokens == pytest.approx(sum(s["input_ids"].shape[1] for s in batch.samples) / 6)
    lines = dict(plan.lines())
    assert lines["stage"] == f"{stage} of CoMemo's" and "dialogue" in lines["work"] and "reader" not in lines


def test_a_plan_of_fresh_blocks_and_of_none_to_read(
    settings: Callable[..., TrainSettings], tmp_path: Path
) -> None:
    from tests.backbones.tiny import build

    made = build("internvl3")
    made.model.save_pretrained(tmp_path / "internvl")
    made.processor.save_pretrained(tmp_path / "internvl")
    asked = settings(1, model=str(tmp_path / "internvl"), every=2, heads=2, head_dim=8, data="")
    plan = make_plan(replace(asked, data=""))
    width = made.model.get_decoder().config.hidden_size
    block = 4 * width * 16 + 3 * width * 2 * width + 2 * width  # reference/comemo.md 3, without the gates
    assert plan.trained_parameters["blocks"] == 2 * block and plan.trained_parameters["gates"] == 4
    assert dict(plan.lines())["hours"].startswith("not known")


def test_what_is_no_checkpoint_is_refused(settings: Callable[..., TrainSettings], data: Path) -> None:
    with pytest.raises(ValueError, match="no checkpoint of CoMemo"):
        train(settings(2, init=str(data / "model")))


def test_the_embedded_decoder_is_itself_at_gate_0(tmp_path: Path) -> None:
    """Words alone, bitwise, as the embedded backbone reads them; images as the context path alone does."""
    build_comemo(Data(tmp_path, count=2, test_count=1))
    run = build_run(
        TrainSettings(model=str(tmp_path / "model"), comemo=ComemoSettings(stage=1)), comem.load_backbone
    )
    comemo, toy = run.model.comemo, comem.load_backbone("toy", dtype="float32")
    assert set(comemo.blocks.gates().values()) == {0.0} and len(comemo.blocks.sizes.layers) == 5
    asked = toy.process([[comem.Message("user", ("When was Arlo founded?",))]])
    with torch.no_grad(), comemo.attach(asked) as ready:
        told, theirs = comemo.model(**ready).logits, toy.model(**asked).logits
    rows = theirs.shape[-1]
    assert torch.equal(told[..., :rows], theirs)
    (batch,) = run.collator.batches(load_examples(tmp_path / "train.jsonl"))
    states = []
    for path in ("both", "context"):
        comemo.image_path = path
        states.append(run.model.answer_states(batch.samples)[0].detach())
    assert torch.equal(*states)


@pytest.mark.slow
def test_from_nothing_through_the_stages_by_commands_over_a_kill(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    words = ["bash", str(root / "scripts" / "toy" / "train_comemo.sh"), "--fast", str(tmp_path)]
    own = {"PYTHON": sys.executable, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    begun = subprocess.Popen(words, env={**os.environ, **own}, start_new_session=True)
    end = time.monotonic() + 600
    while not (tmp_path / "stage2" / "checkpoints" / "step-00000001").exists():
        assert begun.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    os.killpg(begun.pid, signal.SIGKILL)
    begun.wait()
    assert not (tmp_path / "stage3").exists()
    subprocess.run(words, env={**os.environ, **own}, check=True, timeout=900)
    found = []
    for stage in (1, 2, 3):
        folder = tmp_path / f"stage{stage}"
        assert [row["step"] for row in rows(folder) if "loss" in row] == [1, 2, 3]
        found.append(load_file(folder / "checkpoints" / "step-00000003" / "comemo.safetensors"))
    gates = {name for name in found[0] if name.endswith("_gate")}
    assert gates and not gates & changed(found[0], found[1]) and gates <= changed(found[1], found[2])
    assert changed(found[0], found[1]) == set(found[0]) - gates
    answering = comem.load_backbone(tmp_path / "merged")
    question = load_examples(tmp_path / "data" / "test.jsonl")[0].messages(last_answer=False)
    assert len(answering.generate([question])) == 1


@pytest.mark.parametrize(
    "name", ["comemo_1", "comemo_2", "comemo_3", "comemo_toy_1", "comemo_toy_2", "comemo_toy_3"]
)
def test_recipes(name: str) -> None:
    settings = load_config(
        TrainSettings, Path(__file__).parents[2] / "configs" / "train" / f"{name}.yaml", []
    )
    assert str(settings.comemo.stage) == name[-1]
    with pytest.raises(ValueError, match="stage=4"):
        ComemoSettings(stage=4)  # type: ignore[arg-type]
