"""The same on real input: 245 real flags with facts in WIT format, where that folder is to be had.

The embedded models have never seen a flag or a sentence of ordinary text, so retrieval is the part that can
work here; the answers of a model of this size to real questions are printed as they are.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from comem.io.files import write_json
from comem.quickstart.settings import QuickSettings
from comem.quickstart.steps import Step
from comem.quickstart.towns import shipped_memory
from comem.quickstart.work import Workbench, contexts_of

if TYPE_CHECKING:
    from comem.types import Example

#: Run folder of each line of the table → (label, mode).
LINES = {
    "baseline": ("baseline", "baseline"),
    "rag": ("rag", "rag"),
    "comem": ("comem (shipped)", "comem"),
}


def flag_examples(settings: QuickSettings) -> list[Example]:
    """Questions about the flags, spread over the file."""
    from comem.benchmarks import BENCHMARKS

    if settings.flags is None:
        return []
    examples = list(BENCHMARKS["flags"].load(settings.flags))
    step = max(1, len(examples) // (settings.flag_questions or len(examples)))
    return examples[::step][: settings.flag_questions]


def flag_steps(settings: QuickSettings, bench: Workbench) -> list[Step]:
    """Index, recall, retrieval, bank, answers; none without the folder."""
    if settings.flags is None:
        return []
    lines = [name for name in LINES if name != "comem" or shipped_memory()]
    which = {"flags": str(settings.flags.resolve()), "questions": settings.flag_questions}
    return [
        Step("flags_index", "real flags: indexing all rows",
             partial(_index, settings, bench), ("flags/index",), which),
        Step("flags_recall", "real flags: finding distorted pictures again",
             partial(_recall, settings, bench), ("flags/recall.json",)),
        Step("flags_retrieve", "real flags: retrieving items for the questions",
             partial(_retrieve, settings, bench), ("flags/retrieved",)),
        *([Step("flags_encode", "real flags: encoding every row into a bank",
                partial(_encode, settings, bench), ("flags/banks",))] if "comem" in lines else []),
        *(
            Step(f"flags_{name}", f"real flags, answering: {LINES[name][0]}",
                 partial(_answer, settings, bench, name), (f"flags/answers/{name}",))
            for name in lines
        ),
    ]  # fmt: skip


def _root(settings: QuickSettings) -> Path:
    return settings.folder / "flags"


def _source(settings: QuickSettings) -> Path:
    if settings.flags is None:  # the steps are made only with a folder
        raise ValueError("no folder of flags was given; use --flags DIR")
    return settings.flags


def _index(settings: QuickSettings, bench: Workbench) -> None:
    bench.index(_source(settings) / "wit_flags.tsv.gz", _root(settings) / "index")


def _recall(settings: QuickSettings, bench: Workbench) -> None:
    from comem.retrieval.evaluate import evaluate_folder, to_json

    report = evaluate_folder(_source(settings) / "images", bench.embedder, seed=settings.seed)
    write_json(_root(settings) / "recall.json", to_json(report))


def _retrieve(settings: QuickSettings, bench: Workbench) -> None:
    root = _root(settings)
    bench.retrieve(root / "index", flag_examples(settings), settings.items, root / "retrieved" / "test.jsonl")


def _encode(settings: QuickSettings, bench: Workbench) -> None:
    root, memory = _root(settings), shipped_memory()
    if memory is not None:
        bench.encode(memory, root / "index", root / "banks" / "shipped.safetensors")


def _answer(settings: QuickSettings, bench: Workbench, name: str) -> None:
    from comem.benchmarks import BENCHMARKS

    root, mode = _root(settings), LINES[name][1]
    contexts = contexts_of(root / "index", root / "retrieved" / "test.jsonl")
    bank = root / "banks" / "shipped.safetensors" if name == "comem" else None
    bench.answer(
        BENCHMARKS["flags"], flag_examples(settings), mode, contexts, root / "answers" / name, bank
    )  # fmt: skip
