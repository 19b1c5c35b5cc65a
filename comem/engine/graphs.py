"""CUDA graphs: work on fixed buffers, recorded when it comes for the second time and replayed from then on.

A pass of a 7B model is some 4,000 kernels. Launching them from Python takes longer than running them, for one
question three times as long; a recorded pass is launched as one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class GraphPool:
    """Memory that recorded passes share, since only one of them runs at a time.

    What a pass returns lies in it: use it before the next one runs.
    """

    def __init__(self) -> None:
        self._handle: Any = None

    def record(self, work: Callable[[], Tensor]) -> tuple[Any, Tensor]:
        """The graph of one call of `work`, which is not carried out, and where its result will be."""
        graph = torch.cuda.CUDAGraph()
        # "thread_local": the thread that prepares the next batch may go on allocating meanwhile.
        with torch.cuda.graph(graph, pool=self._handle, capture_error_mode="thread_local"):
            result = work()
        self._handle = graph.pool()
        return graph, result


class Recorded:
    """`work`, run as it is the first time (which warms up), recorded the second, replayed from then on.

    Args:
        work: reads and writes buffers at fixed addresses only, and never waits for the device.
        pool: None runs it as it is for ever.
    """

    def __init__(self, work: Callable[[], Tensor], pool: GraphPool | None) -> None:
        self._work, self._pool = work, pool
        self._graph: Any = None
        self._result: Tensor | None = None
        self._warm = False

    def __call__(self) -> Tensor:
        """The work's result, for as long as no other recorded pass runs."""
        if self._pool is None or not self._warm:
            self._warm = True
            return self._work()
        if self._result is None:
            self._graph, self._result = self._pool.record(self._work)
        self._graph.replay()
        return self._result
