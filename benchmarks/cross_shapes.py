"""Soft prefix against cross-attention at the shapes of a published model: first token, tokens/s, peak memory.

    python -m benchmarks.cross_shapes [--shape qwen2_5_vl_7b] [--items 10 50 200] [--out cross_shapes.json]

Random weights: only the shapes matter. One question of words alone, k items of eight embeddings each, which
are taken as given, as a bank gives them; transformers' own loop for both ways (our engine steps aside for
blocks). "none" is the question without items. Peak memory is what comes on top of the weights, the blocks'
own among them: on a GPU of tensors, on a CPU of the process.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from comem.backbones.base import Injection
from comem.backbones.media import MediaBlocks
from comem.io.console import print_table
from comem.io.files import write_json
from comem.io.run_folder import run_manifest
from comem.memory.injection.cross import Cross, block_sizes
from comem.memory.injection.prefix import PREFIX
from comem.memory.settings import CrossSettings
from comem.profiling.shapes import SHAPES, random_model
from comem.profiling.timing import PeakMemory, device_name, now

VECTORS, WAYS = 8, ("none", "prefix", "cross")


def ways(model: Any, every: int) -> dict[str, Injection]:
    """The injections, the blocks' with open gates and random weights in the model's type and place."""
    blocks = MediaBlocks(block_sizes(model, CrossSettings(every=every)))
    blocks.start()
    for gate in blocks.gate_parameters():
        gate.data.fill_(0.5)
    weight = model.get_input_embeddings().weight
    cross = Cross(blocks.requires_grad_(False).to(weight.device, weight.dtype))
    return {"none": PREFIX, "prefix": PREFIX, "cross": cross}


def measure(model: Any, injection: Injection, items: int, tokens: int, args: Any) -> dict[str, float]:
    """Medians over the repetitions, after one that does not count."""
    device = torch.device(args.device)
    text, weight = model.config.get_text_config(), model.get_input_embeddings().weight
    ids = torch.randint(100, text.vocab_size - 1, (1, args.question_tokens), device=device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    memory = [torch.randn(VECTORS * items, text.hidden_size, device=device, dtype=weight.dtype)]
    found: dict[int, list[float]] = {1: [], tokens: []}
    before, peak = _held(device), PeakMemory(device)
    for _ in range(args.repeat + 1):
        for count, seconds in found.items():
            start = now(device)
            given = memory if items else [None]
            with torch.no_grad(), injection.attach(model, inputs, given) as ready:
                model.generate(**ready, max_new_tokens=count, min_new_tokens=count, do_sample=False)
            seconds.append(now(device) - start)
    first, whole = (statistics.median(seconds[1:]) for seconds in found.values())
    used = peak.read()
    return {
        "first_token_seconds": first,
        "tokens_per_second": (tokens - 1) / max(whole - first, 1e-9),
        "peak_bytes_above_weights": float("nan") if used is None else used - before,
    }


def _held(device: torch.device) -> int:
    """Bytes that are there before: of the GPU's tensors, or of the process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def main(words: Sequence[str] | None = None) -> None:
    """Measure, show, and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    on_gpu, add = torch.cuda.is_available(), parser.add_argument
    add("--shape", choices=list(SHAPES), default="qwen2_5_vl_7b")
    add("--items", type=int, nargs="+", default=[10, 50, 200])
    add("--every", type=int, default=4, help="a block every so many layers (4)")
    add("--question-tokens", type=int, default=396)
    add("--new-tokens", type=int, default=32)
    add("--repeat", type=int, default=3)
    add("--device", default="cuda" if on_gpu else "cpu")
    add("--dtype", choices=["float32", "bfloat16"], default="bfloat16" if on_gpu else "float32")
    add("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(words)
    model = random_model(SHAPES[args.shape], args.device, getattr(torch, args.dtype))
    known = ways(model, args.every)
    cells = [("none", 0), *((way, k) for k in args.items for way in WAYS[1:])]
    rows: list[dict[str, Any]] = [
        {"way": way, "items": k, **measure(model, known[way], k, args.new_tokens, args)} for way, k in cells
    ]
    print_table(
        ("", "k", "first token, ms", "tokens/s", "peak above weights, MiB"),
        [
            (row["way"], f"{row['items']}", f"{1e3 * row['first_token_seconds']:.1f}",
             f"{row['tokens_per_second']:.1f}", f"{row['peak_bytes_above_weights'] / 2**20:.1f}")
            for row in rows
        ],
        f"{args.shape}, {args.dtype}, {device_name(torch.device(args.device))}",
    )  # fmt: skip
    if args.out:
        weights = known["cross"].weights
        about = {
            "benchmark": "cross_shapes", "settings": vars(args) | {"out": None},
            "block_parameters": sum(p.numel() for p in weights.parameters()) if weights is not None else 0,
        }  # fmt: skip
        write_json(args.out, about | {"results": rows, "manifest": run_manifest()})


if __name__ == "__main__":
    main()
