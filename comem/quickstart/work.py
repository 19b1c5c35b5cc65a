"""What the steps are made of: index, retrieve, encode, answer; each resumes by itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from comem.eval.assemble import answer_and_score
from comem.io.console import bar
from comem.memory.serialization import TOY, open_encoder

if TYPE_CHECKING:
    from comem.backbones.base import Backbone
    from comem.benchmarks import Benchmark
    from comem.retrieval.embedder import OpenClipEmbedder
    from comem.types import Example, RetrievedContext

logger = logging.getLogger(__name__)

MAX_NEW_TOKENS = 24  # the embedded backbone answers in a few words
BATCH = 16


class Workbench:
    """The embedded models, loaded when first needed, and the jobs that use them."""

    @cached_property
    def backbone(self) -> Backbone:
        from comem.backbones.hf import load_backbone
        from comem.engine.backbone import fast

        return fast(load_backbone(TOY))

    @cached_property
    def embedder(self) -> OpenClipEmbedder:
        from comem.retrieval.embedder import load_embedder

        return load_embedder(TOY)

    def index(self, corpus: Path, output: Path) -> int:
        """Knowledge base and CLIP index of a WIT table; the number of items."""
        from comem.retrieval.build import BuildSettings, build

        return len(build([corpus], output, BuildSettings(embedder=TOY), embedder=self.embedder))

    def retrieve(self, index: Path, examples: Sequence[Example], k: int, output: Path) -> None:
        """The k nearest items of each question by its picture, in the questions' languages, as a file."""
        from comem.retrieval.index import VectorIndex
        from comem.retrieval.retriever import FaissRetriever, retrieve_to_file

        languages = sorted({example.language for example in examples})
        retriever = FaissRetriever(VectorIndex(index), self.embedder, languages=languages)
        with bar("retrieving", len(examples), " questions") as progress:

            def shown():  # type: ignore[no-untyped-def]
                for example in examples:
                    yield example
                    progress.update()

            retrieve_to_file(retriever, shown(), k, output)

    def encode(self, encoder: str | Path, index: Path, output: Path) -> None:
        """A bank of all items of an index."""
        from comem.bank.encode import encode_to_bank
        from comem.retrieval.knowledge import KnowledgeBase

        base = KnowledgeBase(index)
        with bar("encoding", len(base)) as progress:
            items = base.items(range(len(base)))
            encode_to_bank(open_encoder(encoder), items, output, BATCH, progress=progress.update)

    def answer(
        self, benchmark: Benchmark, examples: Sequence[Example], mode: str,
        contexts: dict[str, RetrievedContext] | None, folder: Path, bank: Path | None = None,
    ) -> None:  # fmt: skip
        """Answer in a mode, into a run folder."""
        from comem.backbones.base import GenerationConfig
        from comem.memory.bank import MemoryBank
        from comem.modes import MODES

        memories = MemoryBank.load(bank) if bank is not None else None
        generation = GenerationConfig(MAX_NEW_TOKENS)
        built = MODES[mode](self.backbone, None, memories, prompt=benchmark.ask, generation=generation)
        used = contexts if built.grounded else None
        config = {"model": TOY, "encoder": memories.fingerprint if memories else None}
        answer_and_score(benchmark, examples, built, used, folder, config, BATCH)


def contexts_of(index: Path, results: Path) -> dict[str, RetrievedContext]:
    """What was retrieved, by question id."""
    from comem.retrieval.knowledge import KnowledgeBase
    from comem.retrieval.retriever import load_contexts

    return load_contexts(results, KnowledgeBase(index))
