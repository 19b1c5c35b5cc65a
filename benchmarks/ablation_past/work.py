"""One process's work: prepare, measure the references, or train and measure one arm."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.ablation_past.arms import START, Run, settings
from benchmarks.ablation_past.measure import measure_memory, measure_rag, plain_answers
from benchmarks.ablation_past.questions import build, cases
from comem.records import read_json, read_jsonl, write_json

if TYPE_CHECKING:
    from comem.backbones.hf import HFBackbone

logger = logging.getLogger(__name__)
WARM_UP = 10  # steps by which speed is measured
PATIENCE = 120  # seconds that a process waits for the others' speed


def prepare(out: Path, reader: str, questions: int, dialogues: int, processes: int) -> None:
    """Dialogues, the memory to start from, and what the plain reader says to the questions."""
    build(out / "data", dialogues, processes)
    backbone = _reader(reader)
    write_json(out / "plain.json", {"plain": plain_answers(backbone, cases(questions))})
    if not (out / "data" / START).exists():
        _move_shipped(backbone, out / "data" / START)


def _reader(name: str) -> HFBackbone:
    """A backbone of the embedded world; as plain RAG it reads items in the order that it was taught."""
    from comem.backbones.hf import load_backbone
    from comem.backbones.specs import BACKBONES

    backbone = load_backbone(name)
    return replace(backbone, spec=replace(backbone.spec, rag=BACKBONES["toy"].rag))


def _move_shipped(backbone: HFBackbone, to: Path) -> None:
    """The shipped memory's trained weights on this reader, which may be another than they were made on."""
    from comem.memory.encoder import MemoryEncoder
    from comem.memory.lora import load_lora_state, lora_state
    from comem.prediction.assemble import open_encoder

    shipped = open_encoder("toy")
    moved = MemoryEncoder.new(
        backbone.model, backbone.processor, shipped.lora, shipped.qformer.config, shipped.form
    )
    load_lora_state(moved.model, lora_state(shipped.model))
    moved.qformer.load_state_dict(shipped.qformer.state_dict())
    moved.save(to)


def reference(out: Path, reader: str) -> None:
    """RAG and the reader without knowledge, on the questions; and the shipped memory before training."""
    from comem.memory.encoder import MemoryEncoder

    plain, backbone = read_json(out / "plain.json")["plain"], _reader(reader)
    asked = cases(len(plain))
    start = MemoryEncoder.load(out / "data" / START, reader=backbone.model, processor=backbone.processor)
    write_json(out / "results" / "untrained.json", measure_memory(start, backbone, asked, plain))
    write_json(out / "results" / "rag.json", measure_rag(backbone, asked, plain))


def train_and_measure(out: Path, run: Run) -> None:
    """One arm with one seed: results/ARM-SEED.json; after SIGTERM with the steps that were done."""
    from comem.memory.encoder import MemoryEncoder
    from comem.training.checkpoint import latest
    from comem.training.interrupt import Interrupted
    from comem.training.run import train

    if (out / "results" / f"{run.name}.json").exists():
        return
    run = replace(run, steps=run.steps or _agreed_steps(out, run))
    stages, checkpoint = settings(run, out / "data", out / "runs" / run.name), None
    began = time.monotonic()
    try:
        for folder, stage in stages:  # noqa: B007 - the last one is asked for when stopped
            checkpoint = train(stage).checkpoint
    except Interrupted as stop:
        logger.warning("%s: %s", run.name, stop)
        checkpoint = latest(folder / "checkpoints") or checkpoint
    trained = time.monotonic() - began
    if checkpoint is None:
        raise RuntimeError(f"{run.name} was stopped before its first step")
    backbone = _reader(run.reader)
    encoder = MemoryEncoder.load(checkpoint, reader=backbone.model, processor=backbone.processor)
    plain = read_json(out / "plain.json")["plain"]
    found: dict[str, Any] = measure_memory(encoder, backbone, cases(len(plain)), plain)
    files = [file for folder, _ in stages if (file := folder / "metrics.jsonl").exists()]
    losses = [row["loss"] for file in files for row in read_jsonl(file) if "loss" in row]
    found |= {
        "arm": run.arm, "seed": run.seed, "steps": len(losses), "planned": run.steps, "batch": run.batch,
        "loss": sum(losses[-20:]) / len(losses[-20:]), "losses": _means(losses), "seconds": round(trained, 1),
        "measured_in": round(time.monotonic() - began - trained, 1),
    }  # fmt: skip
    write_json(out / "results" / f"{run.name}.json", found)


def _means(losses: Sequence[float], each: int = 50) -> list[float]:
    """Of fifty steps each."""
    parts = (losses[first : first + each] for first in range(0, len(losses), each))
    return [round(sum(part) / len(part), 4) for part in parts]


def _agreed_steps(out: Path, run: Run) -> int:
    """What the processes agreed on (`driver`), after telling how fast this one is beside the others.

    Raises:
        RuntimeError: the others took too long.
    """
    from comem.training.run import train

    agreed = out / "steps.json"
    if not agreed.exists():
        _, warm = settings(replace(run, steps=2 * WARM_UP), out / "data", out / "warm" / run.name)[0]
        result = train(warm)
        computing = [row["seconds"] for row in read_jsonl(result.folder / "metrics.jsonl")]
        reading = (result.seconds - sum(computing)) / result.steps
        speed = median(computing) + reading  # the first step of a process is no measure
        write_json(out / "speed" / f"{run.name}.json", {"seconds": round(speed, 4)})
    until = time.monotonic() + PATIENCE
    while not agreed.exists():
        if time.monotonic() > until:
            raise RuntimeError(f"no {agreed} after {PATIENCE} s")
        time.sleep(0.2)
    return int(read_json(agreed)["steps"])
