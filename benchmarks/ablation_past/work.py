"""One process's work: prepare, measure the references, or train and measure one arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.ablation_past.arms import START, Run
from benchmarks.ablation_past.measure import measure_memory, measure_rag, plain_answers
from benchmarks.ablation_past.questions import build, cases
from comem.io.files import read_json, read_jsonl, write_json

if TYPE_CHECKING:
    from comem.backbones.hf import HFBackbone


def prepare(out: Path, reader: str, questions: int, dialogues: int, *towns: int) -> None:
    """Dialogues, the memory to start from, what the plain reader says to the questions, and references."""
    from comem.memory.qformer_encoder import QFormerEncoder

    build(out / "data", dialogues, towns)
    backbone, asked = _reader(reader), cases(questions)
    plain = plain_answers(backbone, asked)
    write_json(out / "plain.json", {"plain": plain})
    if not (out / "data" / START).exists():
        _move_shipped(backbone, out / "data" / START)
    start = QFormerEncoder.load(out / "data" / START, reader=backbone.model, processor=backbone.processor)
    write_json(out / "results" / "untrained.json", measure_memory(start, backbone, asked, plain))
    write_json(out / "results" / "rag.json", measure_rag(backbone, asked, plain))


def train_and_measure(out: Path, run: Run) -> None:
    """One arm with one seed: results/ARM-SEED.json. What was begun goes on."""
    from comem.memory.qformer_encoder import QFormerEncoder
    from comem.training.run import train

    trained = train(run.settings(out))
    backbone = _reader(run.reader)
    encoder = QFormerEncoder.load(trained.checkpoint, reader=backbone.model, processor=backbone.processor)
    plain = read_json(out / "plain.json")["plain"]
    losses = [row["loss"] for row in read_jsonl(trained.folder / "metrics.jsonl") if "loss" in row]
    found = {
        "arm": run.arm, "seed": run.seed, "steps": run.steps, "batch": run.batch, "options": run.options,
        "loss": sum(losses[-20:]) / len(losses[-20:]), "losses": _means(losses),
        "seconds": round(trained.seconds, 1),
    }  # fmt: skip
    write_json(
        out / "results" / f"{run.name}.json",
        measure_memory(encoder, backbone, cases(len(plain)), plain) | found,
    )


def _reader(name: str) -> HFBackbone:
    """A backbone of the embedded world; as plain RAG it reads items in the order that it was taught."""
    from comem.backbones.hf import load_backbone
    from comem.backbones.specs import BACKBONES

    backbone = load_backbone(name)
    return replace(backbone, spec=replace(backbone.spec, rag=BACKBONES["toy"].rag))


def _move_shipped(backbone: HFBackbone, to: Path) -> None:
    """The shipped memory's trained weights on this reader, which may be another than they were made on."""
    from comem.memory.encoder import load_encoder
    from comem.memory.lora import load_lora_state, lora_state
    from comem.memory.qformer_encoder import QFormerEncoder

    shipped = load_encoder("toy")
    moved = QFormerEncoder.new(
        backbone.model, backbone.processor, shipped.lora, shipped.qformer.config, shipped.form
    )
    load_lora_state(moved.model, lora_state(shipped.model))
    moved.qformer.load_state_dict(shipped.qformer.state_dict())
    moved.save(to)


def _means(losses: Sequence[float], each: int = 50) -> list[float]:
    """Of fifty steps each."""
    parts = (losses[first : first + each] for first in range(0, len(losses), each))
    return [round(sum(part) / len(part), 4) for part in parts]
