"""CoMEM: continuous memory for vision-language models.

What a user needs is here, and nothing else; each name is imported when it is first used, so that
`import comem` costs nothing.

    >>> import comem
    >>> memory = comem.Memory("trip")
    >>> memory.add("The mill, built in 1204.", image="mill.jpg")
    >>> memory.ask("When was this built?", image="photo.jpg").text

The parts that it is made of:

    >>> backbone = comem.load_backbone("toy")                     # or a model folder, or a hub id
    >>> encoder = comem.load_encoder("toy", backbone)             # or what `comem.merge` wrote
    >>> mode = comem.MODES["comem"](backbone, comem.ModeSettings(encoder=encoder))

Whole jobs are functions of one settings object, the same as the commands:

    >>> comem.encode(comem.EncodeSettings(encoder="toy", index="runs/index", output="runs/bank"))
    >>> comem.predict(comem.PredictSettings(benchmark="okvqa", mode=("rag", "comem"), output="runs/okvqa"))
"""
# ruff: noqa: F401  (what type checkers see; at run time each name is imported when it is first used)

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from comem.backbones.base import Backbone, GenerationConfig, Injection
    from comem.backbones.hf import load_backbone
    from comem.backbones.specs import BACKBONES, BackboneSpec
    from comem.bank.build import encode
    from comem.bank.serve import open_bank
    from comem.bank.settings import EncodeSettings
    from comem.benchmarks import BENCHMARKS, Benchmark
    from comem.eval.predict import PredictSettings, predict
    from comem.eval.report import ReportSettings, report
    from comem.eval.score import EvaluateSettings, evaluate
    from comem.memory.bank import Bank, MemoryBank
    from comem.memory.encoder import ENCODERS, EncoderKind, MemoryEncoder, load_encoder
    from comem.memory.injection import INJECTIONS
    from comem.modes import MODES
    from comem.modes.base import Mode, ModeSettings
    from comem.registry import Registry, load_plugin
    from comem.retrieval.corpus.build import build_corpus
    from comem.retrieval.corpus.sources import CorpusSettings, find_sources, read_corpus
    from comem.retrieval.index import build_index, open_index
    from comem.retrieval.retriever import Retriever, open_retriever, retrieve
    from comem.retrieval.settings import RETRIEVERS, IndexSettings, RetrieverSettings, RetrieveSettings
    from comem.store.memory import Memory
    from comem.training.merge import merge
    from comem.training.run import train
    from comem.training.settings import MergeSettings, TrainSettings
    from comem.types import Answer, Example, ImageRef, KnowledgeItem, Message, Report, RetrievedContext, Score

#: Where each name lives.
_PLACES = {
    "comem.backbones.base": ("Backbone", "GenerationConfig", "Injection"),
    "comem.backbones.hf": ("load_backbone",),
    "comem.backbones.specs": ("BACKBONES", "BackboneSpec"),
    "comem.bank.build": ("encode",),
    "comem.bank.settings": ("EncodeSettings",),
    "comem.bank.serve": ("open_bank",),
    "comem.benchmarks": ("BENCHMARKS", "Benchmark"),
    "comem.eval.report": ("ReportSettings", "report"),
    "comem.eval.score": ("EvaluateSettings", "evaluate"),
    "comem.eval.predict": ("PredictSettings", "predict"),
    "comem.memory.bank": ("Bank", "MemoryBank"),
    "comem.memory.encoder": ("ENCODERS", "EncoderKind", "MemoryEncoder", "load_encoder"),
    "comem.memory.injection": ("INJECTIONS",),
    "comem.modes": ("MODES",),
    "comem.modes.base": ("Mode", "ModeSettings"),
    "comem.registry": ("Registry", "load_plugin"),
    "comem.retrieval.corpus.build": ("build_corpus",),
    "comem.retrieval.corpus.sources": ("CorpusSettings", "find_sources", "read_corpus"),
    "comem.retrieval.index": ("build_index", "open_index"),
    "comem.retrieval.retriever": ("Retriever", "open_retriever", "retrieve"),
    "comem.retrieval.settings": ("IndexSettings", "RETRIEVERS", "RetrieveSettings", "RetrieverSettings"),
    "comem.store.memory": ("Memory",),
    "comem.training.merge": ("merge",),
    "comem.training.run": ("train",),
    "comem.training.settings": ("MergeSettings", "TrainSettings"),
    "comem.types": (
        "Answer", "Example", "ImageRef", "KnowledgeItem", "Message", "Report", "RetrievedContext", "Score",
    ),
}  # fmt: skip
_HOME = {name: module for module, names in _PLACES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'comem' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
