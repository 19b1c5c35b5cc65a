"""The table of benchmarks: one row says where the data is, how to ask, how to score."""

from __future__ import annotations

from comem.benchmarks import aokvqa, cvqa, evqa, infoseek, mrag_bench, okvqa, oven, viquae
from comem.benchmarks.base import Benchmark, Scorer, per_example
from comem.registry import Registry

BENCHMARKS: Registry[Benchmark] = Registry(
    "benchmark",
    {
        **infoseek.ROWS,
        **oven.ROWS,
        **mrag_bench.ROWS,
        **okvqa.ROWS,
        **aokvqa.ROWS,
        **viquae.ROWS,
        **cvqa.ROWS,
        **evqa.ROWS,
        **infoseek.OTHER_ROWS,
    },
)

__all__ = ["BENCHMARKS", "Benchmark", "Scorer", "per_example"]
