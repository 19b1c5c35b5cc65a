"""The registry of benchmarks: a row says where the data is, how to ask and how to score."""

from __future__ import annotations

from comem.benchmarks.base import Benchmark, Scorer, per_example
from comem.registry import Registry

_LIKE_INFOSEEK = ("infoseek", *(f"infoseek_{language}" for language in ("bg", "zh", "pt", "ru", "es")))
_OVEN = ("oven_entity", "oven_query", "oven")
_OTHERS = ("mrag_bench", "okvqa", "aokvqa", "viquae", "cvqa", "evqa")

BENCHMARKS: Registry[Benchmark] = Registry(
    "benchmark",
    {name: f"comem.benchmarks.infoseek:{name.upper()}" for name in _LIKE_INFOSEEK}
    | {name: f"comem.benchmarks.oven:{name.upper()}" for name in _OVEN}
    | {name: f"comem.benchmarks.{name}:ROW" for name in _OTHERS}
    | {name: f"comem.benchmarks.infoseek:{name.upper()}" for name in ("flags", "toy")},
)

__all__ = ["BENCHMARKS", "Benchmark", "Scorer", "per_example"]
