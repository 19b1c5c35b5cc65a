"""What a smaller encoder saves: operations, weights and processor time to encode an item.

    python benchmarks/small_to_large.py --items 4

Random weights of published sizes (SmolLM2-135M, SmolLM2-360M: their config.json), float32, one thread.
Processor time is that of this process, so that others on the machine count little.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from comem.backbones.flops import decoder
from comem.memory.encoder import hidden_size
from comem.memory.lora import LoraSettings, adapters_on, add_lora
from comem.memory.qformer import QFormer, QFormerConfig
from comem.profiling.shapes import SHAPES

TOKENS, WIDTH = 110, 960  # of an item; of the reader


@dataclass(frozen=True)
class Size:
    """A text model's published size."""

    name: str
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int

    def config(self) -> LlamaConfig:
        """As transformers reads it."""
        return LlamaConfig(
            vocab_size=49152, hidden_size=self.hidden, intermediate_size=self.inner, tie_word_embeddings=True,
            num_hidden_layers=self.layers, num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
        )  # fmt: skip


SIZES = (Size("SmolLM2-135M", 576, 1536, 30, 9, 3), Size("SmolLM2-360M", 960, 2560, 32, 15, 5))


def seconds(size: Size, items: int) -> float:
    """Processor time to encode one item for a reader of `WIDTH`."""
    torch.manual_seed(0)
    model = add_lora(LlamaForCausalLM(size.config()), LoraSettings()).eval()
    former = QFormer(QFormerConfig(hidden_size(model), heads=size.heads, output_size=WIDTH)).eval()
    ids = torch.randint(0, 49152, (items, TOKENS))
    with torch.no_grad(), adapters_on(model):
        former(model.model(ids[:1], use_cache=False).last_hidden_state)  # the first call makes room
        before = time.process_time()
        former(model.model(ids, use_cache=False).last_hidden_state)
        return (time.process_time() - before) / items


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=4)
    count = parser.parse_args().items
    torch.set_num_threads(1)
    rows = []
    for size in SIZES:
        config = size.config()
        reading = decoder(config, TOKENS, rank=16) + QFormerConfig(size.hidden, heads=size.heads).flops(
            TOKENS
        )
        rows.append({
            "encoder": size.name, "gflop": round(reading.forward / 1e9, 1),
            "seconds": round(seconds(size, count), 2),
        })  # fmt: skip
    for name in ("qwen2_5_vl_3b", "qwen2_5_vl_7b"):
        text = SHAPES[name].config().get_text_config()
        reading = decoder(text, TOKENS, rank=16) + QFormerConfig(text.hidden_size).flops(TOKENS)
        rows.append({"encoder": name, "gflop": round(reading.forward / 1e9, 1)})
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
