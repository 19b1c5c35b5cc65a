"""The table of ways to answer that are measured: each readies a batch, and says how it is answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from comem.profiling.bench import Bench
from comem.profiling.cells import Cell
from comem.profiling.decoding import ENGINES
from comem.profiling.timing import Run, now
from comem.tables import Table

#: Answers the batch once with that many tokens.
Answer = Callable[[int], Run]
#: Readies what is not timed (ids, pixels) for a cell.
Way = Callable[[Bench, Cell], Answer]


def _baseline(bench: Bench, cell: Cell) -> Answer:
    return _plain(bench, cell, bench.maker.prompts(cell.batch))


def _rag(bench: Bench, cell: Cell) -> Answer:
    return _plain(bench, cell, bench.maker.prompts(cell.batch, cell.k))


def _plain(bench: Bench, cell: Cell, inputs: Mapping[str, Tensor]) -> Answer:
    bench.bare(ENGINES[cell.engine].attention)
    decoding = bench.decoding(cell.engine)

    def answer(new_tokens: int) -> Run:
        done = decoding(inputs, [None] * cell.batch, new_tokens)
        return Run(done.first_seconds, done.seconds, new_tokens, done.parts)

    return answer


def _comem(bench: Bench, cell: Cell) -> Answer:
    """The encoder in the loop: every question's items are encoded, then it is answered."""
    bench.encoder()
    items = bench.item_batches(cell.batch * cell.k)
    return _remembering(bench, cell, "encode", lambda: list(bench.encode(items).split(cell.k)))


def _comem_bank(bench: Bench, cell: Cell) -> Answer:
    """Every question's memories are read from a bank on disk, then it is answered."""
    bench.bare(ENGINES[cell.engine].attention)
    store = bench.memories(cell.batch * cell.k)
    ids = [[str(row * cell.k + i) for i in range(cell.k)] for row in range(cell.batch)]

    def read() -> list[Tensor]:
        return [store.select(row).embeddings.to(bench.device, bench.dtype) for row in ids]

    return _remembering(bench, cell, "read", read)


def _remembering(bench: Bench, cell: Cell, part: str, memories: Callable[[], list[Tensor]]) -> Answer:
    """Get every row's memories `(k, q, d)`, then answer behind them."""
    inputs, decoding = bench.maker.prompts(cell.batch), bench.decoding(cell.engine)

    def answer(new_tokens: int) -> Run:
        start = now(bench.device)
        prefixes = [memory.flatten(0, 1) for memory in memories()]
        seconds = now(bench.device) - start
        done = decoding(inputs, prefixes, new_tokens)
        first, last = seconds + done.first_seconds, seconds + done.seconds
        return Run(first, last, new_tokens, {part: seconds, **done.parts})

    return answer


WAYS: Table[Way] = Table(
    "mode", {"baseline": _baseline, "rag": _rag, "comem": _comem, "comem-bank": _comem_bank}
)
