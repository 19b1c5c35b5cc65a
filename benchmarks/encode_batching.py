"""Encoding k knowledge items: one batched, masked call against an item-by-item loop.

    python benchmarks/encode_batching.py [--items 10] [--output encode_batching.json]

Both go through `MemoryEncoder.forward` on ready inputs, in one run, alternating; the table and the JSON
give the median of the repetitions and their ratio. The default size is that of the embedded backbone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from comem.memory.encoder import MemoryEncoder
from comem.memory.lora import LoraSettings
from comem.memory.qformer import QFormerConfig
from comem.records import run_manifest, write_json

IMAGE, START, END = 310, 312, 313


def main() -> None:
    args = _arguments()
    torch.manual_seed(0)
    if args.threads:
        torch.set_num_threads(args.threads)
    encoder = _encoder(args.hidden, args.layers)
    batch, singles = _inputs(args.items, args.tokens)
    ways: dict[str, Callable[[], Tensor]] = {
        "one batched call": lambda: encoder(batch),
        "item by item": lambda: torch.cat([encoder(single) for single in singles]),
    }
    seconds = _measure(ways, args.repeat)
    with torch.no_grad():
        gap = float((ways["one batched call"]() - ways["item by item"]()).abs().max())
    ratio = seconds["item by item"] / seconds["one batched call"]
    for name, value in seconds.items():
        print(f"{name:18} {1000 * value:9.1f} ms")
    print(f"{'ratio':18} {ratio:9.2f} x   (largest difference of the memories {gap:.1e})")
    result = {
        "benchmark": "encode_batching", "settings": vars(args) | {"output": None}, "seconds": seconds,
        "ratio": ratio, "max_abs_difference": gap, "threads": torch.get_num_threads(),
    }
    if args.output:
        write_json(args.output, result | {"manifest": run_manifest()})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=10, help="knowledge items of one question (10)")
    parser.add_argument("--tokens", type=int, default=110, help="tokens of an item, 16 of them its image's")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser.parse_args()


def _encoder(hidden: int, layers: int) -> MemoryEncoder:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": 4096, "hidden_size": hidden, "intermediate_size": 3 * hidden,
        "num_hidden_layers": layers, "num_attention_heads": hidden // 32, "num_key_value_heads": hidden // 64,
        "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
    }
    vision = {
        "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": hidden,
        "fullatt_block_indexes": [1],
    }
    ids = {"image_token_id": IMAGE, "vision_start_token_id": START, "vision_end_token_id": END}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    model = Qwen2_5_VLForConditionalGeneration(config)
    return MemoryEncoder.new(model, None, LoraSettings(), QFormerConfig(hidden, heads=4, depth=4)).eval()


def _inputs(count: int, tokens: int) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Items of 90 to 110 % of `tokens`, each with a 112 × 112 image: the batch, and one by one."""
    singles = []
    for row in range(count):
        length = round(tokens * (0.9 + 0.2 * row / max(count - 1, 1)))
        words = torch.randint(400, 4096, (length - 18,))
        ids = torch.cat([torch.tensor([START] + [IMAGE] * 16 + [END]), words])[None]
        singles.append({
            "input_ids": ids, "attention_mask": torch.ones_like(ids),
            "pixel_values": torch.randn(64, 1176), "image_grid_thw": torch.tensor([[1, 8, 8]]),
        })
    longest = max(s["input_ids"].shape[1] for s in singles)

    def padded(name: str, value: int) -> Tensor:
        pad = torch.nn.functional.pad
        return torch.cat([pad(s[name], (longest - s[name].shape[1], 0), value=value) for s in singles])

    batch = {name: torch.cat([s[name] for s in singles]) for name in ("pixel_values", "image_grid_thw")}
    batch |= {"input_ids": padded("input_ids", 2), "attention_mask": padded("attention_mask", 0)}
    return batch, singles


@torch.no_grad()
def _measure(ways: dict[str, Callable[[], Tensor]], repeat: int) -> dict[str, float]:
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
