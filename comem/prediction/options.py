"""The options of `comem predict`, as data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = """\
examples:
  comem predict --benchmark toy --data data/toy --split test --mode baseline --output runs/baseline
  comem predict --benchmark toy --data data/toy --split test --mode comem --encoder toy \\
      --index data/toy/index -k 3 --output runs/comem
  comem predict --benchmark infoseek --data infoseek_val.jsonl --images oven --mode comem \\
      --model qwen2_5_vl_7b --encoder models/encoder --bank bank.safetensors --index wit-index \\
      --contexts retrieved.jsonl --output runs/infoseek
  comem predict --benchmark flags --data ../shared/data/flags --mode rag comem vlm_as_memory \\
      --index runs/flags/index --bank runs/flags/bank --output runs/flags/answers
Modes: baseline (the question alone), rag (items in the prompt), comem (items as memory),
  vlm_as_memory (keys and values of a few layers of the untrained model).
Run the same command again after an interruption: it goes on where it stopped.
Several GPUs or processes, each with a part of the questions; the last one merges the parts and scores:
  accelerate launch --multi_gpu --num_processes 4 -m comem predict … --output runs/infoseek
  comem predict … --output runs/infoseek --shard 1/4        # on one machine, 2/4 on another, …
  comem predict … --output runs/infoseek --merge            # what there is by now
"""

_QUESTIONS: dict[str, dict[str, Any]] = {
    "--benchmark": {
        "required": True,
        "metavar": "NAME",
        "help": "infoseek, infoseek_es …, okvqa, cvqa, toy …",
    },
    "--data": {"type": Path, "metavar": "PATH", "help": "its file or folder (default: from the hub)"},
    "--images": {"type": Path, "metavar": "DIR", "help": "where its pictures lie"},
    "--split": {"help": "only this split"},
    "--question-types": {"type": Path, "metavar": "FILE", "help": "if the benchmark has such a file"},
    "--prompt": {"metavar": "STYLE", "help": "paper, short, bare … (default: the benchmark's)"},
    "--limit": {"type": int, "metavar": "N", "help": "only the first N questions"},
}
_MODEL: dict[str, dict[str, Any]] = {
    "--mode": {
        "required": True,
        "nargs": "+",
        "metavar": "NAME",
        "help": "baseline, rag, comem, vlm_as_memory; of several, each gets a folder in --output",
    },
    "--model": {"default": "toy", "help": "table row, hub id or folder (%(default)s: the embedded one)"},
    "--encoder": {"metavar": "DIR", "help": 'memory encoder folder, or "toy"; for comem'},
    "--bank": {"type": Path, "metavar": "PATH", "help": "of comem bank build or comem encode; for comem"},
    "--embeddings": {"type": int, "metavar": "N", "help": "of each item, the first N (an elastic memory)"},
    "--item-order": {"default": "retrieval", "metavar": "ORDER", "help": "retrieval (best first), reversed"},
    "--question-layout": {
        "default": "comem",
        "metavar": "NAME",
        "help": "comem; authors_llm, authors_llm_training (text-only readers: docs/receivers.md)",
    },
    "--kv-layers": {"type": int, "nargs": "+", "default": (), "metavar": "L", "help": "for vlm_as_memory"},
    "--kv-fraction": {"type": float, "default": 1.0, "metavar": "X", "help": "… tokens kept (1: all)"},
    "--dtype": {"default": "auto", "help": "auto, float32, bfloat16, float16"},
    "--device": {"help": "cpu, cuda, cuda:1, auto (default: a GPU if there is one)"},
    "--attn": {"help": "sdpa, eager, flash_attention_2 (default: transformers' choice)"},
    "--trust-remote-code": {"action": "store_true", "help": "run code from the model's repository"},
    "--min-pixels": {"type": int, "metavar": "N", "help": "smallest picture, in pixels"},
    "--max-pixels": {"type": int, "metavar": "N", "help": "largest picture, in pixels"},
}
_KNOWLEDGE: dict[str, dict[str, Any]] = {
    "--index": {"type": Path, "metavar": "DIR", "help": "made by comem index build; for rag and comem"},
    "--contexts": {"type": Path, "metavar": "FILE", "help": "made by comem retrieve: nothing is searched"},
    "--languages": {"nargs": "+", "metavar": "CODE", "help": "only items in these; own: in the question's"},
    "-k": {"type": int, "default": 3, "help": "items a question (%(default)s, as the paper)"},
}
_DECODING: dict[str, dict[str, Any]] = {
    "--max-new-tokens": {"type": int, "default": 64, "metavar": "N", "help": "longest answer (%(default)s)"},
    "--temperature": {"type": float, "default": 0.0, "metavar": "X", "help": "0 is greedy (%(default)s)"},
    "--top-p": {"type": float, "default": 1.0, "metavar": "X", "help": "when sampling (%(default)s)"},
    "--repetition-penalty": {"type": float, "default": 1.0, "metavar": "X", "help": "1: none (%(default)s)"},
    "--seed": {"type": int, "default": 0, "metavar": "N", "help": "when sampling (%(default)s)"},
    "--engine": {
        "default": "comem",
        "choices": ("comem", "transformers"),
        "help": "comem: the same greedy answers sooner; transformers: its own generate (%(default)s)",
    },
    "--paper-sampling": {"action": "store_true", "help": "as the paper's inference, instead of the above"},
}
_RUN: dict[str, dict[str, Any]] = {
    "--output": {"required": True, "type": Path, "metavar": "DIR", "help": "the run folder"},
    "--batch-size": {"type": int, "default": 8, "metavar": "N", "help": "questions a batch (%(default)s)"},
    "--shard": {"default": "1/1", "metavar": "I/N", "help": "only part I of N, 1/4 to 4/4 for four"},
    "--merge": {"action": "store_true", "help": "answer nothing: put the parts together, and score"},
    "--strict": {"action": "store_true", "help": "stop at the first question that fails"},
}
GROUPS = {
    "questions": _QUESTIONS, "model": _MODEL, "knowledge": _KNOWLEDGE, "decoding": _DECODING, "run": _RUN,
}  # fmt: skip

#: Other names of options.
ALIASES = {"--model": ("--backbone",)}


def add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem predict`."""
    parser.epilog = HELP
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for name, settings in options.items():
            group.add_argument(name, *ALIASES.get(name, ()), **settings)
