"""Clock, repetition and peak memory."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

QUERIES = 8  # memory embeddings per item
OWN = "own"  # the engine of a way that has a loop of its own


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        mode: a key of `WAYS`.
        k: items per question.
        batch: questions at once.
        engine: a key of `ENGINES`, or `OWN`.
    """

    mode: str
    k: int
    batch: int
    engine: str = "comem"

    @property
    def key(self) -> str:
        """Its name in results."""
        return f"{self.mode} k={self.k} batch={self.batch} {self.engine}"


def grid(
    modes: Sequence[str], ks: Sequence[int], batches: Sequence[int], engines: Sequence[str]
) -> list[Cell]:
    """All combinations; the baseline, which has no items, once per batch size, every other mode with items.

    Raises:
        ValueError: a number that cannot be.
    """
    if min(ks, default=0) < 0 or min(batches, default=1) < 1:
        raise ValueError(f"--k {list(ks)} --batch {list(batches)}: give items from 0, batches from 1")
    return [
        Cell(mode, k, batch, engine)
        for engine in engines
        for mode in modes
        for k in ([0] if mode == "baseline" else sorted({k for k in ks if k}))
        for batch in batches
    ]


_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Run:
    """One answered batch.

    Attributes:
        first_seconds: until the first token of every row, knowledge included.
        seconds: until the last token.
        tokens: generated for each row.
        parts: seconds of what stands before the first forward pass, by name; inside `first_seconds`.
        ids: the tokens `(b, tokens)`, where they were kept.
    """

    first_seconds: float
    seconds: float
    tokens: int
    parts: Mapping[str, float] = field(default_factory=dict)
    ids: torch.Tensor | None = field(default=None, repr=False, compare=False)


def synchronize(device: torch.device) -> None:
    """Wait for a GPU; a CPU has nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def now(device: torch.device) -> float:
    """Seconds on a clock that waits for the device."""
    synchronize(device)
    return time.perf_counter()


def repeat(run: Callable[[], Run], seconds: float, most: int) -> list[Run]:
    """Runs until the time is over or there are enough of them; at least one."""
    runs, end = [run()], time.perf_counter() + seconds
    end -= runs[0].seconds
    while len(runs) < most and time.perf_counter() + runs[-1].seconds < end:
        runs.append(run())
    return runs


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """p50 and p95, interpolated between the values."""
    return {f"p{q}": float(np.percentile(values, q)) for q in (50, 95)}


class PeakMemory:
    """The most memory in use since it was made: of the GPU, or the process's resident memory.

    On a CPU the kernel's high-water mark is reset first; where it cannot be, there is no figure.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._possible = device, True
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self._possible = False

    def read(self) -> int | None:
        """Bytes, or None where the system does not say."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text()) if self._possible else None
        return None if found is None else 1024 * int(found[1])


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be had: of the GPU, or of the machine; None where the system does not say."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return None if found is None else 1024 * int(found[1])


def device_name(device: torch.device) -> str:
    """The GPU's name; of a CPU its model and how many threads torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return f"{found[1] if found else 'CPU'}, {torch.get_num_threads()} threads"
