"""Traces of the three hottest paths, by torch.profiler: prefill with memory, decoding, encoding."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from comem.io.files import write_atomic
from comem.memory.encoder import hidden_size
from comem.profiling.bench import Bench
from comem.profiling.timing import QUERIES, synchronize

_EVENTS = 20_000  # the longest are kept: enough to see every kernel of a forward pass
_DECODED, _SHORT = 8, 16  # tokens; so short a prompt leaves its prefill out of sight
_ROWS = 15


@dataclass(frozen=True)
class HotPath:
    """What is traced: `ready` makes the model ready for it, `call` does the work once."""

    ready: Callable[[], object]
    call: Callable[[], object]


def hot_paths(bench: Bench, k: int, engine: str) -> dict[str, HotPath]:
    """What is traced, by name.

    Args:
        bench: the model, and what runs on it.
        k: items: their memory stands in front of the prefill, and as many are encoded.
        engine: that answers.
    """
    items, words, question = bench.item_batches(k), bench.maker.text(1, _SHORT), bench.maker.prompts(1)
    memory = torch.randn(QUERIES * k, hidden_size(bench.model), device=bench.device).to(bench.dtype)
    decoding = bench.decoding(engine)

    return {
        "prefill": HotPath(bench.bare, lambda: decoding(question, [memory], 1)),
        "decode": HotPath(bench.bare, lambda: decoding(words, [None], _DECODED)),
        "encode": HotPath(bench.encoder, lambda: bench.encode(items)),
    }


def trace(hot: HotPath, path: Path, device: torch.device) -> dict[str, Any]:
    """Profile one call after a warm-up, write its trace, and say which operations took longest.

    Args:
        hot: what is called.
        path: of the trace, `.json.gz`, for chrome://tracing or ui.perfetto.dev.
        device: where it runs.

    Returns:
        `total_milliseconds` of all operations on the device, and the longest `operations`: name, calls and
        milliseconds without those inside.
    """
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    hot.ready()
    hot.call()
    synchronize(device)
    with profile(activities=activities, acc_events=True) as profiler:
        hot.call()
        synchronize(device)
    _write_trace(profiler, path)
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    averages = profiler.key_averages()
    longest = sorted(averages, key=lambda row: getattr(row, key), reverse=True)[:_ROWS]
    operations = [
        {"name": row.key[:120], "calls": row.count, "milliseconds": getattr(row, key) / 1000}
        for row in longest
    ]
    total = sum(getattr(row, key) for row in averages) / 1000
    return {"total_milliseconds": total, "operations": operations}


def trace_hot_paths(bench: Bench, k: int, engine: str, folder: Path) -> dict[str, Any]:
    """Trace each hot path into `trace_NAME.json.gz`, and say by name which operations took longest."""
    paths = hot_paths(bench, k, engine).items()
    return {name: trace(path, folder / f"trace_{name}.json.gz", bench.device) for name, path in paths}


def _write_trace(profiler: Any, path: Path) -> None:
    """The chrome trace with its longest events, without their arguments."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(raw))
        found = json.loads(raw.read_text(encoding="utf-8"))
    events = [event for event in found["traceEvents"] if event.get("ph") in ("X", "M")]
    names = [event for event in events if event["ph"] == "M"]
    timed = sorted((e for e in events if e["ph"] == "X"), key=lambda e: e.get("dur", 0), reverse=True)
    for event in timed:
        event.pop("args", None)
    kept = {**found, "traceEvents": names + sorted(timed[:_EVENTS], key=lambda e: e["ts"])}
    write_atomic(path, gzip.compress(json.dumps(kept).encode("utf-8")))
