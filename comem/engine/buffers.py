"""What decoding reads and writes at fixed addresses: slots for keys and values, recorded passes over them.

Every row begins at its own slot 0, so nothing is padded on the left. A pass of a 7B model is some 4,000
kernels. Launching them from Python takes longer than running them, for one question three times as long; a
recorded pass (a CUDA graph) is launched as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from comem.backbones.packing import Segments


class SlotCache:
    """What transformers' models need of a cache: `update`, in place, at fixed addresses.

    Filled from packed rows (`filling`), then with one token a row and step (`at`). The last slot is for
    padding and never looked at.

    Args:
        rows: rows `b` that it holds.
        slots: tokens a row can hold, and one.
    """

    is_compileable = False

    def __init__(self, rows: int, slots: int, device: torch.device) -> None:
        self.rows, self.slots = rows, slots
        self.at = torch.zeros(rows, dtype=torch.long, device=device)  # where the next token goes
        self.keys: dict[int, Tensor] = {}  # by layer, (b, kv_heads, slots, w)
        self.values: dict[int, Tensor] = {}
        self._every = torch.arange(rows, device=device)
        self._filling: tuple[Tensor, Tensor] | None = None

    def start(self, segments: Segments) -> None:
        """The next token of each row goes behind these.

        Raises:
            ValueError: more rows than there are, or a row longer than the slots.
        """
        n = len(segments.lengths)
        if n > self.rows or segments.longest >= self.slots:
            raise ValueError(
                f"{n} rows of up to {segments.longest} tokens do not fit into {self.rows} rows of "
                f"{self.slots} slots, one of them for padding"
            )
        self.at.copy_(torch.tensor([*segments.lengths, *[0] * (self.rows - n)]), non_blocking=True)

    @contextmanager
    def filling(self, segments: Segments) -> Iterator[None]:
        """Inside the context, what comes is these packed rows; errors as `start`."""
        self.start(segments)
        shape = segments.real.shape
        slot = torch.arange(segments.longest, device=self.at.device).expand(shape)[segments.real]
        row = self._every[: shape[0], None].expand(shape)[segments.real]
        with self.filling_at(row, slot):
            yield

    @contextmanager
    def filling_at(self, row: Tensor, slot: Tensor) -> Iterator[None]:
        """Inside the context, what comes is tokens for these rows and slots, `(total,)` each."""
        self._filling = row, slot
        try:
            yield
        finally:
            self._filling = None

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values, and return those that attention needs.

        Args:
            key, value: `(1, kv_heads, total, w)` while filling, then `(b, kv_heads, 1, w)`.
        """
        keys, values = self._of_layer(layer_idx, key)
        if self._filling is not None:
            row, slot = self._filling
            keys[row, :, slot] = key[0].transpose(0, 1)
            values[row, :, slot] = value[0].transpose(0, 1)
            return key, value
        keys[self._every, :, self.at] = key[:, :, 0]
        values[self._every, :, self.at] = value[:, :, 0]
        return keys, values

    def _of_layer(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        if layer not in self.keys:
            shape = (self.rows, like.shape[1], self.slots, like.shape[3])
            self.keys[layer], self.values[layer] = like.new_zeros(shape), like.new_zeros(shape)
        return self.keys[layer], self.values[layer]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Not asked where positions and masks are given; transformers' models name it nevertheless."""
        return 0


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
