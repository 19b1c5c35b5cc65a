"""Which FAISS index fits a number of vectors and a memory budget, and how large it will be."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Up to so many vectors exact search answers in milliseconds on one core, so nothing is approximated.
EXACT_COUNT = 100_000
#: Above that many, HNSW takes hours to build on a laptop (about a millisecond per vector and core).
HNSW_COUNT = 2_000_000
_CODES = (256, 128, 64, 32, 16)  # codes of 4 bits a vector, best first
_LINKS = 32


_NUMBER = "[1-9][0-9]*"
_SEVERAL = "(?:[2-9]|[1-9][0-9]+)"  # links: with a single one FAISS divides by log(1) and crashes
_CODE = rf"(?:PQ{_NUMBER}(?:x{_NUMBER})?(?:np|fs|fsr)?|SQ(?:4|6|8|bf16|fp16))"
#: The kinds of indexes that are searched here: by row, in some languages only, out of a mapped file.
_SEARCHABLE = re.compile(
    rf"(?:(?:OPQ{_NUMBER}(?:_{_NUMBER})?|PCA(?:R|W|WR)?{_NUMBER}|RR{_NUMBER}|L2norm),)*"
    rf"(?:Flat|{_CODE}|IVF{_NUMBER}(?:_HNSW{_SEVERAL})?,(?:Flat|{_CODE})|HNSW{_SEVERAL}(?:,Flat|[,_]{_CODE})?)"
)


def check_factory(factory: str) -> None:
    """Refuse factory strings of what FAISS cannot build, or nobody could search here; before the work.

    Raises:
        ValueError: names the kinds that there are.
    """
    if _SEARCHABLE.fullmatch(factory) is None:
        raise ValueError(
            f"FAISS cannot build {factory!r}, or it cannot be searched here: take 'auto', 'Flat', HNSW32,"
            " IVF256,Flat, IVF256,PQ16x4fs, or a code such as SQ8 or PQ16, with OPQ16_64, PCA64 or RR64 in"
            " front of it; numbers are above 0, and rows are told apart without IDMap"
        )


@dataclass(frozen=True)
class IndexPlan:
    """What will be built.

    Attributes:
        factory: FAISS factory string.
        memory: bytes in RAM while searching, if nothing is paged out.
        disk: bytes of all files of the index.
        train: vectors to train on; 0 where nothing is trained.
        refine: keep the vectors as float16 beside the index, to rank the candidates exactly.
        reason: why, in one sentence.
    """

    factory: str
    memory: int
    disk: int
    train: int
    refine: bool
    reason: str

    def describe(self) -> str:
        """One line for people, printed before the work begins."""
        size = f"about {_size(self.memory)} in memory, {_size(self.disk)} on disk"
        return f"index {self.factory}: {size}; {self.reason}"


def choose_plan(count: int, dimension: int, budget: int) -> IndexPlan:
    """The index for `count` vectors that searches within `budget` bytes of memory.

    Exact while that is quick; then a graph (HNSW), which needs the vectors in RAM; then inverted lists of
    product-quantised vectors (4 bits a code, which FAISS scans in registers), whose candidates are ranked
    again by the vectors themselves, memory-mapped
    (https://github.com/facebookresearch/faiss/wiki/Guidelines-to-choose-an-index). A random rotation (RR)
    spreads the variance evenly over the codes; where these must be coarser than one for four dimensions, a
    learned one (OPQ) is worth its training.

    Raises:
        ValueError: even the smallest index does not fit the budget.
    """
    if count <= EXACT_COUNT and 4 * count * dimension <= budget:
        return plan_for("Flat", count, dimension, f"exact, {count:,} vectors are few")
    graph = f"HNSW{_LINKS}"
    if count <= HNSW_COUNT and expected_bytes(graph, count, dimension) <= budget // 2:
        return plan_for(graph, count, dimension, "a graph fits the memory")
    lists = list_count(count)
    for codes in _CODES:
        if codes > dimension // 4 or (dimension % codes and 4 * codes >= dimension):
            continue
        rotation = f"RR{dimension}," if 4 * codes == dimension else f"OPQ{codes}_{4 * codes},"
        factory = f"{rotation}IVF{lists},PQ{codes}x4fs"
        if expected_bytes(factory, count, dimension) <= budget:
            reason = f"{lists:,} lists of {codes // 2}-byte codes, ranked again by float16 vectors on disk"
            return plan_for(factory, count, dimension, reason)
    raise ValueError(
        f"{count:,} vectors of {dimension} need at least"
        f" {_size(expected_bytes(f'IVF{lists},PQ16x4fs', count, dimension))} of memory, the budget is"
        f" {_size(budget)}: give more memory, or an index.factory of your own"
    )


def plan_for(factory: str, count: int, dimension: int, reason: str = "as asked for") -> IndexPlan:
    """The plan for a given factory string."""
    memory = expected_bytes(factory, count, dimension)
    lossy = re.search(r"PQ|SQ|RQ|LSQ|RaBitQ", factory) is not None
    lists = [int(number) for number in re.findall(r"IVF(\d+)", factory)]
    needs_training = lossy or bool(lists) or "OPQ" in factory or "PCA" in factory
    # FAISS warns below 39 vectors a centroid, and uses no more than 256
    train = min(count, max([20_000, *(50 * number for number in lists)])) if needs_training else 0
    return IndexPlan(factory, memory, memory + (2 * count * dimension if lossy else 0), train, lossy, reason)


def expected_bytes(factory: str, count: int, dimension: int) -> int:
    """Bytes of an index, from its factory string; within a few per cent for the kinds named in this file."""
    width, extra = dimension, 0
    if found := re.search(r"(?:OPQ\d+|PCAR?|RR)_?(\d+)", factory):
        width = int(found.group(1)) if "_" in found.group(0) or "OPQ" not in found.group(0) else dimension
        extra += 4 * dimension * width
    if found := re.search(r"IVF(\d+)", factory):
        extra += int(found.group(1)) * 4 * width + 8 * count  # centroids, and an id per vector
    if found := re.search(r"(?:^|,)HNSW(\d+)", factory):
        extra += count * (8 * int(found.group(1)) + 16)  # links on the ground level, and a little above
    return count * _vector_bytes(factory, width) + extra


def list_count(count: int) -> int:
    """Inverted lists for so many vectors: the power of two next to 4 · √n, at least 256."""
    lists = 256
    while lists * 1.5 < 4 * count**0.5:
        lists *= 2
    return lists


def _vector_bytes(factory: str, width: int) -> int:
    last = factory.rsplit(",", maxsplit=1)[-1]
    if found := re.match(r"PQ(\d+)(?:x(\d+))?", last):
        return -(-int(found.group(1)) * int(found.group(2) or 8) // 8)
    if found := re.match(r"SQ(\d+|fp16|bf16)", last):
        bits = 16 if "16" in found.group(1) else int(found.group(1))
        return -(-width * bits // 8)
    return 4 * width


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"
