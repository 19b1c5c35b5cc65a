"""From names and folders to the parts of a run: encoder, contexts, answers and score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem.console import bar

if TYPE_CHECKING:
    from comem.backbones.hf import HFBackbone
    from comem.benchmarks import Benchmark
    from comem.memory.encoder import MemoryEncoder
    from comem.modes import Mode
    from comem.types import Example, Report, RetrievedContext

TOY = "toy"
_BATCH = 64  # questions in one search


def toy_memory() -> Path:
    """The embedded memory encoder's folder."""
    from comem.backbones.specs import TOY_FOLDER

    return TOY_FOLDER.parent / "memory"


def open_encoder(
    name: str | Path, backbone: HFBackbone | None = None, device: str | None = None
) -> MemoryEncoder:
    """An encoder folder, or the embedded one for "toy".

    An adapter that was made on the backbone's own weights shares them: one copy, LoRA on to encode, off
    to read. Anything else brings its own weights.
    """
    import torch

    from comem.memory.encoder import MemoryEncoder
    from comem.memory.fingerprint import base_digest
    from comem.memory.folder import read_folder

    folder = toy_memory() if name == TOY else Path(name)
    about = read_folder(folder).about
    adapter = about["kind"] == "adapter"
    if backbone is not None and adapter and about["base"]["digest"] == base_digest(backbone.model):
        return MemoryEncoder.load(folder, reader=backbone.model, processor=backbone.processor)
    target = device or (backbone.device if backbone else "cuda" if torch.cuda.is_available() else "cpu")
    return MemoryEncoder.load(folder).to(target)


def retrieve(
    index: Path | None, contexts: Path | None, examples: Sequence[Example], k: int,
    languages: Sequence[str] | None = None,
) -> dict[str, RetrievedContext]:  # fmt: skip
    """The items of each question by its id: from a file of results, else searched for in the index.

    Raises:
        ValueError: no index, k below 1, or results of another index.
    """
    from comem.retrieval.retriever import RETRIEVERS

    if index is None:
        raise ValueError("this mode needs knowledge: give --index DIR (comem index build makes one)")
    if k < 1:
        raise ValueError(f"-k {k}: give at least 1 item a question")
    if contexts:
        retriever = RETRIEVERS["precomputed"](index, contexts)
    else:
        retriever = RETRIEVERS["faiss"](index, languages=languages)
    found: dict[str, RetrievedContext] = {}
    with bar("retrieving", len(examples), " questions") as progress:
        for start in range(0, len(examples), _BATCH):
            batch = examples[start : start + _BATCH]
            found |= {context.example_id: context for context in retriever.retrieve(batch, k)}
            progress.update(len(batch))
    return found


def answer_and_score(
    benchmark: Benchmark, examples: Sequence[Example], mode: Mode,
    contexts: Mapping[str, RetrievedContext] | None, folder: str | Path, config: Mapping[str, Any],
    batch_size: int = 8, strict: bool = False,
) -> Report:  # fmt: skip
    """Answer into a run folder, with a progress bar, and score it (see `comem.runner`)."""
    from comem.runner import evaluate, predict

    with bar(f"answering ({mode.name})", len(examples), " questions") as shown:

        def progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        predict(
            benchmark, examples, mode, contexts, folder,
            batch_size=batch_size, config=config, strict=strict, progress=progress,
        )  # fmt: skip
    return evaluate(benchmark, examples, folder)
