"""The table of benchmarks: one row says where the data is, how to ask, how to score."""

from __future__ import annotations

from comem.benchmarks import infoseek
from comem.benchmarks.base import Benchmark
from comem.tables import Table

BENCHMARKS: Table[Benchmark] = Table(
    "benchmark",
    {**infoseek.ROWS, "flags": infoseek.FLAGS, "toy": infoseek.TOY},
)

__all__ = ["BENCHMARKS", "Benchmark"]
