"""Answering from a memory bank against RAG and stored keys and values: first token, speed, peak memory.

    python benchmarks/answer_bank_vs_rag.py [--shape reference] [--items 10 50] [--ways …] [--output FILE]

    bank              memories that are in RAM
    bank_bf16 …       the same out of a bank on the disk, in each of its forms
    rag               the items' pictures and passages in the prompt
    kv                keys and values of all layers, a file an item, read and put in a row (LMCache's case,
                      but for any items in any order)
    kv_few            the same of the layers that vlm_as_memory has (the paper's 17 to 19 of 28)
    prefix            keys and values of all layers that are in RAM in this order: a hit of a prefix cache

Files were just written, so that they come from the page cache.

Random weights: only the shapes matter. Each measurement runs in a process of its own, so that its peak
memory is its own. Inputs are ready tensors: reading and resizing pictures is not counted, in neither
way; RAG's vision tower is. A bank's memories are taken as given, which is what a bank is for.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

QUERIES = 8  # memory embeddings per item
IMAGE, START, END = 3, 4, 5
FORMS = ("bf16", "int8", "prq")
WAYS = ("bank", "rag")
MORE = (*(f"bank_{form}" for form in FORMS), "kv", "kv_few", "prefix")
#: Memories in a bank on the disk, of which the question's are read.
BANKED = 512


@dataclass(frozen=True)
class Shape:
    """Sizes of model and prompt; an item is `item_tokens` long, `grid` x `grid` image tokens included."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    vocab: int = 4096
    vision_hidden: int = 64
    vision_layers: int = 2
    grid: int = 4
    item_tokens: int = 110
    question_tokens: int = 60


# A shape that a CPU still carries, with prompts as long as the authors' (512 x 512 pictures: 324 tokens;
# authors_code.md, section 2).
REFERENCE = Shape(512, 12, 8, 32000, 256, 6, grid=18, item_tokens=649, question_tokens=396)
SHAPES = {"tiny": Shape(), "reference": REFERENCE}


def main() -> None:
    args = _arguments()
    given = {name: getattr(args, name) for name in ("hidden", "layers", "heads")}
    shape = replace(SHAPES[args.shape], **{name: size for name, size in given.items() if size is not None})
    if args.worker:
        way, items = args.worker.split(":")
        print(json.dumps(measure(shape, way, int(items), args)))
        return
    jobs = [("baseline", 0), *((way, k) for k in args.items for way in args.ways)]
    rows = []
    print(f"{'way':9}{'items':>6}{'context':>9}{'first token':>13}{'tokens/s':>10}{'peak above model':>18}")
    for way, items in jobs:
        row = _in_own_process(way, items)
        rows.append(row)
        print(
            f"{way:9}{items:6}{row['context_tokens']:9}{row['first_token_seconds']:11.3f} s "
            f"({row['first_token_cpu_seconds']:.3f} of the processor)"
            f"{row['tokens_per_second']:10.1f}{row['peak_bytes_above_model'] / 2**20:14.1f} MiB",
            flush=True,
        )
    if args.output:
        from comem.io.files import write_json
        from comem.io.run_folder import run_manifest

        settings = vars(args) | {"output": None, "worker": None}
        result = {"benchmark": "answer_bank_vs_rag", "settings": settings, "shape": asdict(shape)}
        write_json(args.output, result | {"results": rows, "manifest": run_manifest()})


def _arguments() -> argparse.Namespace:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--shape", choices=list(SHAPES), default="tiny")
    parser.add_argument("--hidden", type=int, help="another hidden size (divisible by 16 x heads)")
    parser.add_argument("--layers", type=int, help="another number of layers")
    parser.add_argument("--heads", type=int, help="another number of attention heads (even)")
    parser.add_argument("--items", type=int, nargs="+", default=[10, 50], help="items per question (10 50)")
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, *MORE], default=list(WAYS), help="(%(default)s)")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens to decode (32)")
    parser.add_argument("--repeat", type=int, default=3, help="runs; the median counts (3)")
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_own_process(way: str, items: int) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", f"{way}:{items}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{way} with {items} items failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(shape: Shape, way: str, items: int, args: argparse.Namespace) -> dict[str, Any]:
    """One way with one number of items, in this process."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    model = _model(shape).to(args.device, dtype).eval()
    inputs = _inputs(shape, items if way == "rag" else 0, args.device, dtype)
    with tempfile.TemporaryDirectory(prefix="comem-answer-") as folder:
        source = _source(way, model, shape, items, Path(folder))
        before = _bytes_now(args.device)
        _answer(model, _inputs(shape, 0, args.device, dtype), _source("baseline", model, shape, 0, Path()), 2)
        answers = [_answer(model, inputs, source, args.new_tokens) for _ in range(args.repeat)]
        stored = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    runs = [stamps for stamps, _ in answers]
    first = statistics.median(stamps[0] for stamps in runs)
    rest = statistics.median(stamps[-1] - stamps[0] for stamps in runs)
    tokens = {"baseline": 0, "bank": QUERIES}.get(way.partition("_")[0], shape.item_tokens)
    return {
        "way": way,
        "items": items,
        "context_tokens": items * tokens,
        "first_token_seconds": first,
        "first_token_cpu_seconds": statistics.median(cpu for _, cpu in answers),
        "stored_bytes": stored if way.startswith("kv") else None,
        "tokens_per_second": (args.new_tokens - 1) / rest if args.new_tokens > 1 else 0.0,
        "peak_bytes_above_model": _peak_bytes(args.device) - before,
        "threads": torch.get_num_threads(),
    }


def _source(way: str, model: Any, shape: Shape, items: int, folder: Path) -> Callable[[], tuple[Any, Any]]:
    """What gives a question its memory: an injection and what it takes; called while the clock runs."""
    import torch
    from safetensors.torch import load_file, save_file

    from comem.memory.injection import PREFIX
    from comem.memory.injection.keys_values import KeysValues, KVMemory, default_layers, join

    place = {"device": model.device, "dtype": model.dtype}
    if way in ("baseline", "rag"):
        return lambda: (PREFIX, None)
    if way == "bank":
        memory = torch.randn(QUERIES * items, shape.hidden, **place)
        return lambda: (PREFIX, memory)
    if way.startswith("bank_"):
        from comem.bank.upkeep import bank_of

        bank = _bank(folder, way.removeprefix("bank_"), shape.hidden)
        names = [f"item {i}" for i in range(items)]
        return lambda: (PREFIX, bank_of(bank, names).prefix().to(**place))
    layers = default_layers(model) if way == "kv_few" else range(shape.layers)
    size = shape.heads // 2, shape.item_tokens, shape.hidden // shape.heads
    for item in range(items):
        tensors = {
            f"{part}{layer}": torch.randn(size, dtype=model.dtype) for part in "kv" for layer in layers
        }
        save_file(tensors, folder / f"{item}.safetensors")

    def read() -> KVMemory:
        rows = [load_file(folder / f"{item}.safetensors") for item in range(items)]
        found = [
            KVMemory(
                *({n: row[f"{part}{n}"].to(**place) for n in layers} for part in "kv"), shape.item_tokens
            )
            for row in rows
        ]
        return join(model, found)

    if way == "prefix":
        joined = read()
        return lambda: (KeysValues(), joined)
    return lambda: (KeysValues(), read())


def _bank(folder: Path, form: str, width: int) -> Path:
    """A bank of random memories in a form."""
    import numpy as np

    from comem.bank.format import EncoderInfo
    from comem.bank.forms import PLAIN_FORMS
    from comem.bank.upkeep import export_store
    from comem.bank.writer import StoreWriter, create_store

    create_store(folder / "fp32", PLAIN_FORMS["fp32"](QUERIES, width), EncoderInfo("0" * 64))
    with StoreWriter(folder / "fp32") as writer:
        made = np.random.default_rng(0).standard_normal((BANKED, QUERIES, width)).astype(np.float32)
        writer.append([f"item {i}" for i in range(BANKED)], [bytes(16)] * BANKED, made)
    export_store(folder / "fp32", folder / form, form).close()
    return folder / form


def _model(shape: Shape) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    half = shape.hidden // shape.heads // 2
    side = 3 * half // 8  # Qwen's shares: 16, 24, 24 of 64
    text = {
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": 3 * shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads // 2,
        "bos_token_id": 1,
        "eos_token_id": None,
        "pad_token_id": 2,
        "max_position_embeddings": 65536,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [half - 2 * side, side, side],
        },
    }
    vision = {
        "depth": shape.vision_layers,
        "hidden_size": shape.vision_hidden,
        "num_heads": 4,
        "intermediate_size": 3 * shape.vision_hidden,
        "out_hidden_size": shape.hidden,
        "fullatt_block_indexes": [shape.vision_layers - 1],
    }
    ids = {"image_token_id": IMAGE, "vision_start_token_id": START, "vision_end_token_id": END}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = None  # never stops early
    return model


def _inputs(shape: Shape, items: int, device: str, dtype: Any) -> dict[str, Any]:
    """A prompt of `items` turns and the question, each with one picture."""
    import torch

    parts = []
    for length in [shape.item_tokens] * items + [shape.question_tokens]:
        words = torch.randint(100, shape.vocab - 1, (length - shape.grid**2 - 2,))
        parts += [torch.tensor([START] + [IMAGE] * shape.grid**2 + [END]), words]
    ids = torch.cat(parts)[None]
    pictures, side = items + 1, 2 * shape.grid
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE).int(),
        "pixel_values": torch.randn(pictures * side**2, 3 * 2 * 14 * 14).to(dtype),
        "image_grid_thw": torch.tensor([[1, side, side]] * pictures),
    }
    return {name: value.to(device) for name, value in inputs.items()}


def _answer(
    model: Any, inputs: dict[str, Any], source: Callable[[], tuple[Any, Any]], new_tokens: int
) -> tuple[list[float], float]:
    """Seconds from the start to each new token, and processor seconds to the first."""
    import torch
    from transformers import StoppingCriteriaList

    stamps: list[float] = []
    busy: list[float] = []

    def stamp(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        ids[0, -1].item()  # waits for a GPU
        stamps.append(time.perf_counter() - start)
        busy.append(time.process_time() - used)
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    start, used = time.perf_counter(), time.process_time()
    stops = StoppingCriteriaList([stamp])
    injection, memory = source()
    with torch.no_grad(), injection.attach(model, inputs, [memory]) as extended:
        model.generate(**extended, max_new_tokens=new_tokens, do_sample=False, stopping_criteria=stops)
    return stamps, busy[0]


def _bytes_now(device: str) -> int:
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    return _peak_bytes(device)  # the model has just been built: nothing larger came before


def _peak_bytes(device: str) -> int:
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
