"""Peak memory of a training step: encoder and reader in one copy of the weights against two.

    python benchmarks/weights_one_copy.py [--million 400] [--output weights_one_copy.json]

Each way runs in a process of its own, which reports how much its peak resident memory (VmHWM) grew after
the imports. The model is sized so that weights dominate, as they do at 7B. Linux only.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

WAYS = ("one copy", "two copies")


def main() -> None:
    args = _arguments()
    if args.way:
        print(json.dumps(_step(args.way, args.million)))
        return
    found = {way: _in_own_process(way, args.million) for way in WAYS}
    ratio = found["one copy"]["peak_mib"] / found["two copies"]["peak_mib"]
    for way, row in found.items():
        weights, loss = row["weights_mib"], row["loss"]
        print(f"{way:12} {row['peak_mib']:9.0f} MiB   (weights {weights:.0f} MiB, loss {loss:.4f})")
    print(f"{'ratio':12} {ratio:9.2f} x")
    if args.output:
        from comem.io.files import write_json
        from comem.io.run_folder import run_manifest

        result = {"benchmark": "weights_one_copy", "million_parameters": args.million, "ways": found}
        write_json(args.output, result | {"ratio": ratio, "manifest": run_manifest()})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--million", type=int, default=400, help="millions of backbone parameters (400)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_own_process(way: str, million: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--way", way, "--million", str(million)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{way}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_mib() -> float:
    """The process's largest resident memory so far, in MiB."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]


def _step(way: str, million: int) -> dict[str, float]:
    import torch

    from comem.memory.checkpointing import enable_checkpointing
    from comem.memory.injection import PREFIX
    from comem.memory.lora import LoraSettings
    from comem.memory.qformer import QFormerConfig
    from comem.memory.qformer_encoder import QFormerEncoder

    torch.manual_seed(0)
    model = _model(million, build=False)
    start = peak_mib()
    model = _model(million, build=True)
    reader = model if way == "one copy" else copy.deepcopy(model).requires_grad_(False)
    weights = sum(p.numel() * p.element_size() for m in {model, reader} for p in m.parameters()) / 2**20
    width = model.config.text_config.hidden_size
    qformer = QFormerConfig(width, ff_mult=1)
    encoder = QFormerEncoder.new(model, None, LoraSettings(dropout=0.0), qformer).train()
    enable_checkpointing(model)
    reader.train()
    if reader is not model:
        enable_checkpointing(reader)
    optimizer = torch.optim.AdamW(encoder.trainable_parameters(), lr=1e-4)
    ids = torch.randint(10, 300, (2, 40))
    memory = encoder({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    question = {"input_ids": torch.randint(10, 300, (1, 40))}
    with PREFIX.attach(reader, question, [memory.flatten(0, 1)]) as inputs:
        labels = torch.nn.functional.pad(question["input_ids"], (16, 0), value=-100)
        loss = reader(**inputs, labels=labels).loss
    loss.backward()
    optimizer.step()
    return {"peak_mib": peak_mib() - start, "weights_mib": weights, "loss": float(loss)}


def _model(million: int, build: bool) -> Any:
    """A Qwen2.5-VL with about that many parameters, float32; without `build`, only its imports."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    width, layer = 1024, 12.6e6  # parameters of a layer with an MLP of 3072
    text = {
        "vocab_size": 512,
        "hidden_size": width,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_hidden_layers": max(1, round(million * 1e6 / layer)),
        "num_key_value_heads": 16,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": width,
    }
    ids = {"image_token_id": 510, "video_token_id": 509, "vision_start_token_id": 508}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    if not build:
        with torch.device("meta"):
            return Qwen2_5_VLForConditionalGeneration(config)
    return Qwen2_5_VLForConditionalGeneration(config)


if __name__ == "__main__":
    main()
