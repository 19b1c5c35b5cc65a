"""Encoding k knowledge items of the embedded world: one batched call against an item-by-item loop.

    python benchmarks/encode_batching.py [--items 10] [--output encode_batching.json]

In one run, alternating, medians: `encode` from pictures and passages to memories, as a user calls it, and
the encoder's forward pass alone, on inputs that are ready. Items are towns of the test split.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from comem.backbones.hf import load_backbone
from comem.io.files import write_json
from comem.io.run_folder import run_manifest
from comem.memory.encoder import load_encoder
from comem.toy.draw import image_of
from comem.toy.world import World
from comem.types import KnowledgeItem


@torch.no_grad()
def main() -> None:
    args = _arguments()
    encoder = load_encoder("toy", load_backbone("toy")).eval()
    towns = World().split("test")[: args.items]
    items = [KnowledgeItem(t.id, f"{t.name}: {t.passage()}", image_of(t, 0)) for t in towns]
    batch, singles = encoder.inputs(items), [encoder.inputs([item]) for item in items]
    seconds = _measure(
        {
            "encode, one batched call": lambda: encoder.encode(items),
            "encode, item by item": lambda: [encoder.encode([item]) for item in items],
            "forward, one batched call": lambda: encoder(batch),
            "forward, item by item": lambda: [encoder(single) for single in singles],
        },
        args.repeat,
    )
    gap = float((encoder(batch) - torch.cat([encoder(single) for single in singles])).abs().max())
    ratios = {
        way: seconds[f"{way}, item by item"] / seconds[f"{way}, one batched call"]
        for way in ("encode", "forward")
    }
    for name, value in seconds.items():
        print(f"{name:27} {1000 * value:9.1f} ms")
    for name, ratio in ratios.items():
        print(f"{'ratio, ' + name:27} {ratio:9.2f} x")
    print(f"largest difference of the memories {gap:.1e}")
    if args.output:
        lengths = [single["input_ids"].shape[1] for single in singles]
        result = {"benchmark": "encode_batching", "items": args.items, "tokens": lengths, "seconds": seconds}
        result |= {"ratio": ratios, "max_abs_difference": gap, "threads": torch.get_num_threads()}
        write_json(args.output, result | {"manifest": run_manifest()})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=10, help="knowledge items of one question (10)")
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser.parse_args()


def _measure(ways: dict[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeat + 2):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn >= 2:  # the first two warm up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
