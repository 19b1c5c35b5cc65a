"""The embedded world's part of the quickstart: from an empty folder to answers in three modes."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from comem.io.jsonl import read_json
from comem.memory.serialization import toy_memory
from comem.quickstart.settings import QuickSettings
from comem.quickstart.steps import Step
from comem.quickstart.work import Workbench, contexts_of

if TYPE_CHECKING:
    from comem.types import Example

#: Run folder of each line of the table → (label, mode, bank or None).
LINES: dict[str, tuple[str, str, str | None]] = {
    "baseline": ("baseline", "baseline", None),
    "rag": ("rag", "rag", None),
    "comem_shipped": ("comem (shipped)", "comem", "shipped.safetensors"),
    "comem_fresh": ("comem (fresh)", "comem", "fresh.safetensors"),
}
UNSEEN = "val_unseen_entity"


def shipped_memory() -> Path | None:
    """The memory that lies in the package, if there is one."""
    folder = toy_memory()
    return folder if (folder / "comem_encoder.json").is_file() else None


def unseen_examples(folder: Path) -> list[Example]:
    """The questions about towns that neither backbone nor memory has ever seen."""
    from comem.benchmarks import BENCHMARKS

    return list(BENCHMARKS["toy"].load(folder / "data" / "test.jsonl", split=UNSEEN))


def town_steps(settings: QuickSettings, bench: Workbench) -> list[Step]:
    """World, index, retrieval, training, merge, banks, answers."""
    folder = settings.folder
    data = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(settings.data).items()}
    training = settings.training(Path("dialogues"), Path("run"))
    shipped = shipped_memory()
    made_by = read_json(shipped / "comem_encoder.json")["fingerprint"] if shipped else None
    lines = [name for name in LINES if name != "comem_shipped" or shipped]
    return [
        Step("world", "drawing the world: towns, pictures, passages, questions, dialogues",
             partial(_world, settings), ("data",), data | {"dialogues": settings.dialogues.count}),
        Step("index", "indexing the passages by their pictures (CLIP + FAISS)",
             partial(_index, folder, bench), ("index",)),
        Step("retrieve", "retrieving items for the questions, by picture",
             partial(_retrieve, settings, bench), ("retrieved",), {"k": settings.items}),
        Step("train", f"training a memory for {settings.train_seconds:.0f} s (LoRA, Q-Former)",
             partial(_train, settings), ("train",), asdict(training)),
        Step("merge", "merging LoRA into a self-contained encoder", partial(_merge, folder), ("encoder",)),
        Step("encode", "encoding every item once, into memory banks",
             partial(_encode, folder, bench), ("banks",), {"shipped": made_by}),
        *(
            Step(f"answer_{name}", f"answering: {LINES[name][0]}",
                 partial(_answer, folder, bench, name), (f"answers/{name}",))
            for name in lines
        ),
    ]  # fmt: skip


def _world(settings: QuickSettings) -> None:
    from comem.toy.dataset import build
    from comem.toy.dialogues import build_dialogues

    build(settings.folder / "data", settings.data)
    build_dialogues(settings.folder / "data", settings.dialogues)


def _index(folder: Path, bench: Workbench) -> None:
    bench.index(folder / "data" / "wit.tsv.gz", folder / "index")


def _retrieve(settings: QuickSettings, bench: Workbench) -> None:
    folder, examples = settings.folder, unseen_examples(settings.folder)
    bench.retrieve(folder / "index", examples, settings.items, folder / "retrieved" / "test.jsonl")


def _train(settings: QuickSettings) -> None:
    from comem.training.run import train

    folder = settings.folder
    train(settings.training(folder / "data" / "dialogues.jsonl", folder / "train"))


def _merge(folder: Path) -> None:
    from comem.training.merge import merge_run

    shutil.rmtree(folder / "encoder", ignore_errors=True)  # a merge is quick and starts from nothing
    merge_run(folder / "train", folder / "encoder")


def _encode(folder: Path, bench: Workbench) -> None:
    encoders = {"fresh": folder / "encoder", "shipped": shipped_memory()}
    for name, encoder in encoders.items():
        if encoder is not None:
            bench.encode(encoder, folder / "index", folder / "banks" / f"{name}.safetensors")


def _answer(folder: Path, bench: Workbench, name: str) -> None:
    from comem.benchmarks import BENCHMARKS

    _, mode, bank = LINES[name]
    contexts = contexts_of(folder / "index", folder / "retrieved" / "test.jsonl")
    bench.answer(
        BENCHMARKS["toy"], unseen_examples(folder), mode, contexts, folder / "answers" / name,
        folder / "banks" / bank if bank else None,
    )  # fmt: skip
