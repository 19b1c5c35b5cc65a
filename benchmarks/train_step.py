"""The training step: seconds, tokens a second, peak memory and FLOPs utilisation, in four ways.

    python benchmarks/train_step.py                                    # the embedded model's sizes, CPU
    python benchmarks/train_step.py --shape 7b --device cuda --output train_step_7b.json
    python benchmarks/train_step.py --shape tiny --device cpu --steps 3   # seconds, to try it out

Ways: encoder and reader in one copy of the weights or in two; all items of a micro-batch in one encoder call
("packed") or one by one; with and without activation checkpointing. Everything is what `comem train` runs
(`Trainer._step`: transfer, forward, backward, clipping, AdamW) on random weights and random inputs of
realistic lengths: three items, of which each has a picture, a question with a picture, an answer. A step is
one micro-batch, so the optimizer works more often than in the paper's setting (16 questions a step), never
less.

"mfu" counts the operations that the model needs (forward, backward, no recomputation), "hfu" those that are
carried out, both from `comem.backbones.flops`, padding not counted, over the rate of one large matrix
product that is measured in the same run. On the CPU each way runs in a process of its own, for its peak
memory, and seconds are the processor's over the number of threads (take OMP_NUM_THREADS=1), so that other
work does not count.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

from comem.backbones.hf import KINDS, quantization_config
from comem.backbones.prepared import liger
from comem.io.files import write_json
from comem.io.run_folder import run_manifest
from comem.memory.checkpointing import enable_checkpointing
from comem.memory.encoder import EncoderPlan
from comem.memory.lora import LoraSettings
from comem.memory.qformer import QFormerConfig
from comem.memory.qformer_encoder import QFormerEncoder
from comem.profiling.shapes import SHAPES as MODELS
from comem.profiling.shapes import text_sizes, tower_sizes
from comem.training.collator import TrainingBatch
from comem.training.model import MemoryTrainingModel
from comem.training.plan import batch_flops, batch_tokens
from comem.training.settings import TrainSettings
from comem.training.trainer import Trainer

PAPER_QUESTIONS = 15_600


@dataclass(frozen=True)
class Shape:
    """Sizes of a model and of what it reads: tokens with the picture's, grids (t, h, w) in patches."""

    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    item_tokens: int
    item_grid: tuple[int, int, int]
    question_tokens: int
    question_grid: tuple[int, int, int]
    answer_tokens: int
    micro_batch: int  # 0: as many as fit, see `_fitting`
    matrix: int
    items: int = 3
    heads: int = 16


SHAPES = {
    # Items of about 640 tokens, 324 of them the picture's; a
    # question of 400 and its picture's 324.
    "7b": Shape(
        MODELS["qwen2_5_vl_7b"].text, MODELS["qwen2_5_vl_7b"].vision,
        640, (1, 36, 36), 724, (1, 36, 36), 64, 0, 8192,
    ),
    # comem/toy: an item has about 84 tokens, 4 of them the picture's.
    "toy": Shape(
        text_sizes(128, 384, 5, 4, 2, 3072), tower_sizes(3, 96, 192, 4, 128, [0, 1, 2]),
        84, (1, 4, 4), 30, (1, 4, 4), 4, 12, 1024, heads=4,
    ),
    "tiny": Shape(
        MODELS["tiny"].text, MODELS["tiny"].vision,
        60, (1, 12, 12), 60, (1, 12, 12), 6, 2, 256, heads=4,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Way:
    """How a step is done."""

    copies: int = 1
    packed: bool = True
    checkpointing: bool = False


WAYS = {
    "one copy, packed": Way(),
    "checkpointing": Way(checkpointing=True),
    "two copies, checkpointing": Way(copies=2, checkpointing=True),
    "item loop": Way(packed=False),
    "two copies": Way(copies=2),
}


def main() -> None:
    args = _arguments()
    device = torch.device(args.device)
    began = time.monotonic()
    shape = SHAPES[args.shape]
    if args.way:  # one of the processes that `_in_own_process` starts
        bench = Bench(shape, device, args)
        print(json.dumps(bench.measure(WAYS[args.way], args.steps, began + args.seconds)))
        return
    found: dict[str, Any] = {
        "benchmark": "train_step", "shape": args.shape, "sizes": asdict(shape),
        "threads": torch.get_num_threads(), "manifest": run_manifest(), "ways": {},
    }  # fmt: skip
    found |= {"liger": args.liger, "quantization": args.quantization}
    found["matmul_tflops"] = _matmul_rate(device, shape.matrix) / 1e12
    print(f"{args.shape}: matrix product of {shape.matrix}³ at {found['matmul_tflops']:,.2f} TFLOP/s")
    bench = Bench(shape, device, args) if device.type == "cuda" else None
    for number, name in enumerate(args.ways):
        steps = args.short_steps if found["ways"] and device.type == "cuda" else args.steps
        share = 0.6 + 0.4 * number / (len(args.ways) - 1) if len(args.ways) > 1 else 1.0
        end = began + args.seconds * share
        row = bench.attempt(WAYS[name], steps, end) if bench else _in_own_process(name, args)
        if "seconds_a_step" in row:
            row |= _utilisation(row, found["matmul_tflops"])
        found["ways"][name] = row
        print(f"{name:26} {_line(row)}", flush=True)
        if args.output:
            write_json(args.output, found)
        if time.monotonic() > began + args.seconds:
            print(f"--seconds {args.seconds:g} are over")
            break


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shape", choices=SHAPES, default="toy")
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--steps", type=int, default=50, help="measured steps (50); on a GPU, of the first way")
    add("--short-steps", type=int, default=8, help="measured steps of the other ways on a GPU (8)")
    add("--warmup", type=int, default=3, help="steps before (3)")
    add("--micro-batch", type=int, default=0, help="questions a step; 0: the shape's, at 7b as fits")
    add("--seconds", type=float, default=600.0, help="no new step after so long (600)")
    add("--ways", nargs="+", default=None, choices=WAYS, metavar="WAY", help=f"of: {', '.join(WAYS)}")
    add("--dropout", type=float, default=0.05, help="of LoRA (0.05, the paper's)")
    add("--liger", action="store_true", help="Liger's kernels (needs liger-kernel and a GPU)")
    add("--quantization", default="", choices=KINDS, help="of the base (needs bitsandbytes)")
    add("--output", type=Path, help="JSON file, rewritten after each way")
    add("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ways is None:
        large = args.shape == "7b"
        args.ways = [
            name for name in WAYS if name != ("two copies" if large else "two copies, checkpointing")
        ]
    return args


def _in_own_process(name: str, args: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--shape", args.shape, "--device", "cpu", "--way", name]
    for option in ("steps", "warmup", "micro_batch", "seconds", "dropout", "quantization"):
        command += [f"--{option.replace('_', '-')}={getattr(args, option)}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


class Bench:
    """A random model on the device, and the steps that are timed on it."""

    def __init__(self, shape: Shape, device: torch.device, args: argparse.Namespace) -> None:
        self.shape, self.device, self.args = shape, device, args
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.before = _peak(device)
        self.held = ExitStack()
        self.network = self._random_model(0)
        torch.manual_seed(0)
        width = shape.text["hidden_size"]
        sizes = QFormerConfig(width, depth=8, heads=shape.heads)
        self.lora = LoraSettings(dropout=args.dropout)
        self.encoder = QFormerEncoder.new(self.network, None, self.lora, sizes)
        for parameter in self.encoder.trainable_parameters():
            parameter.data = parameter.data.float()

    def _random_model(self, seed: int) -> Any:
        """The model with random weights, made on the device itself."""
        torch.manual_seed(seed)
        config = Qwen2_5_VLConfig(text_config=dict(self.shape.text), vision_config=dict(self.shape.vision))
        if config.get_text_config().vocab_size < 100_000:
            config.image_token_id, config.vision_start_token_id, config.video_token_id = 3, 4, 5
        with torch.device(self.device):
            model = AutoModelForImageTextToText.from_config(config, dtype=self.dtype)
        if self.args.quantization:
            model = self._quantized(model)
        if self.args.liger:
            self.held.enter_context(liger(model))
        return model.eval().requires_grad_(False)

    def _quantized(self, model: Any) -> Any:
        """The model as it is loaded in 4 bits, by way of a folder: layers are replaced when they are read."""
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            del model
            return AutoModelForImageTextToText.from_pretrained(
                folder, dtype=self.dtype, device_map=str(self.device),
                quantization_config=quantization_config(self.args.quantization),
            )  # fmt: skip

    def attempt(self, way: Way, steps: int, end: float) -> dict[str, Any]:
        """`measure`, or why not."""
        try:
            return self.measure(way, steps, end)
        except RuntimeError as error:  # out of memory, for one; the other ways may still fit
            return {"error": f"{type(error).__name__}: {error}"[:300]}
        finally:
            self.encoder.zero_grad(set_to_none=True)
            gc.collect()
            torch.cuda.empty_cache()

    def measure(self, way: Way, steps: int, end: float) -> dict[str, Any]:
        """Time `steps` steps, fewer if the clock passes `end`."""
        reader = self._random_model(1) if way.copies == 2 else None
        model = MemoryTrainingModel(self.encoder, reader)
        for network in [self.network] if reader is None else [self.network, reader]:
            _checkpointing(network, way.checkpointing)
        if not way.packed:
            model.prefixes = partial(_one_by_one, model)  # type: ignore[method-assign]
        precision = "bf16" if self.dtype == torch.bfloat16 else "fp32"
        trainer = Trainer(TrainSettings(precision=precision), model, None, [None])  # type: ignore[arg-type, list-item]
        micro = self.args.micro_batch or self.shape.micro_batch or self._fitting(trainer)
        pool = [self.batch(micro, seed) for seed in range(4)]
        seconds: list[float] = []
        began = time.perf_counter()
        for step in range(self.args.warmup + steps):
            if step == self.args.warmup:
                began = time.perf_counter()
                if self.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
            taken = _timed(partial(trainer._step, step, [pool[step % len(pool)]]), self.device)
            seconds += [taken] if step >= self.args.warmup else []
            if time.monotonic() > end and seconds:
                break
        wall = (time.perf_counter() - began) / len(seconds)
        peak = _peak(self.device) - (self.before if self.device.type == "cpu" else 0)
        tokens = sum(batch_tokens(batch) for batch in pool) / len(pool)
        model_flops, done_flops = (
            sum(self.flops(batch, recompute) for batch in pool) / len(pool)
            for recompute in (False, way.checkpointing)
        )
        mean = statistics.mean(seconds)
        return {
            **asdict(way), "micro_batch": micro, "steps": len(seconds), "seconds_a_step": mean,
            "median_seconds": statistics.median(seconds),
            "wall_seconds_a_step": wall, "tokens_a_second": tokens / mean,
            "peak_gib": peak / 2**30, "model_tflop_a_question": model_flops / micro / 1e12,
            "done_tflop_a_question": done_flops / micro / 1e12, "questions_a_second": micro / mean,
            f"hours_for_{PAPER_QUESTIONS}": mean / micro * PAPER_QUESTIONS / 3600,
        }  # fmt: skip

    def _fitting(self, trainer: Trainer, most: int = 8) -> int:
        """Questions a micro-batch that fill nine tenths of the GPU, judged by the peaks of one and of two."""
        peaks = []
        for micro in (1, 2):
            torch.cuda.reset_peak_memory_stats()
            try:
                trainer._step(0, [self.batch(micro, 0)])
            except torch.OutOfMemoryError:
                trainer.optimizer.zero_grad(set_to_none=True)
                return 1
            peaks.append(torch.cuda.max_memory_allocated())
        free = 0.9 * torch.cuda.get_device_properties(0).total_memory - peaks[1]
        return max(1, min(most, 2 + int(free / max(peaks[1] - peaks[0], 1))))

    def lengths(self, micro: int, seed: int) -> list[int]:
        """Tokens of each item: within a quarter of the shape's, which is their mean."""
        generator = torch.Generator().manual_seed(seed)
        count = micro * self.shape.items
        spread = torch.rand(count, generator=generator) * 0.5 - 0.25
        return ((1 + spread - spread.mean()) * self.shape.item_tokens).round().int().tolist()

    def batch(self, micro: int, seed: int) -> TrainingBatch:
        """Random inputs in the CPU's memory, as the collator gives them."""
        generator = torch.Generator().manual_seed(seed)
        shape, count = self.shape, micro * self.shape.items
        items = self._inputs(self.lengths(micro, seed), shape.item_grid, generator)
        length = shape.question_tokens + shape.answer_tokens
        question = self._inputs([length] * micro, shape.question_grid, generator)
        labels = question["input_ids"].clone()
        labels[:, : -shape.answer_tokens] = -100
        rows = torch.arange(count).view(micro, shape.items).tolist()
        ids = tuple(f"q{number}" for number in range(micro))
        return TrainingBatch(ids, {**question, "labels": labels}, items, tuple(map(tuple, rows)))

    def _inputs(
        self, lengths: Sequence[int], grid: Sequence[int], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """A left-padded batch, each row with one picture near its start."""
        config, patches = self.network.config, grid[0] * grid[1] * grid[2]
        ids = torch.randint(100, 400, (len(lengths), max(lengths)), generator=generator)
        mask = torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]
        for row, length in zip(ids, lengths, strict=True):
            first = max(lengths) - length
            row[:first] = 2
            row[first + 1] = config.vision_start_token_id
            row[first + 2 : first + 2 + patches // 4] = config.image_token_id
        pixels = torch.randn(len(lengths) * patches, 3 * 2 * 14 * 14, generator=generator)
        return {
            "input_ids": ids,
            "attention_mask": mask.long(),
            "mm_token_type_ids": (ids == config.image_token_id).int(),
            "pixel_values": pixels,
            "image_grid_thw": torch.tensor([list(grid)] * len(lengths)),
        }

    def flops(self, batch: TrainingBatch, recompute: bool) -> float:
        """Operations of a step."""
        config = self.network.config
        own = self.encoder.qformer.config
        sizes = EncoderPlan({}, own.num_queries, own.flops)
        return batch_flops(batch, config, config, sizes, self.lora.rank, recompute)


def _one_by_one(
    model: MemoryTrainingModel, items: Mapping[str, Tensor], rows: Sequence[Sequence[int]], *_: object
) -> list[Tensor | None]:
    """What `MemoryTrainingModel.prefixes` gives, by one encoder call an item, without padding."""
    patches = len(items["pixel_values"]) // len(items["input_ids"])
    memories = []
    for number, length in enumerate(items["attention_mask"].sum(1).tolist()):
        single = {
            name: items[name][number : number + 1, -length:]
            for name in ("input_ids", "attention_mask", "mm_token_type_ids")
        }
        single["image_grid_thw"] = items["image_grid_thw"][number : number + 1]
        single["pixel_values"] = items["pixel_values"][number * patches : (number + 1) * patches]
        memories.append(model.encoder(single))
    memory = torch.cat(memories).to(model.reader.get_input_embeddings().weight.dtype)
    return [memory[list(row)].flatten(0, 1) for row in rows]


def _checkpointing(network: Any, on: bool) -> None:
    if on:
        enable_checkpointing(network)
    elif hasattr(network, "activation_checkpointing_disable"):
        network.activation_checkpointing_disable()
    else:
        network.gradient_checkpointing_disable()


def _matmul_rate(device: torch.device, size: int, repeat: int = 20) -> float:
    """FLOP/s of a square matrix product, bf16 on a GPU, float32 on the CPU; median."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = [_timed(lambda: a @ b, device) for _ in range(repeat + 3)][3:]
    return 2 * size**3 / statistics.median(times)


def _utilisation(row: Mapping[str, Any], tflops: float) -> dict[str, float]:
    rate = row["questions_a_second"] / tflops
    return {"mfu": row["model_tflop_a_question"] * rate, "hfu": row["done_tflop_a_question"] * rate}


def _line(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return str(row["error"])
    return (
        f"{row['micro_batch']:3} questions {row['seconds_a_step']:8.3f} s {row['tokens_a_second']:10,.0f} "
        f"tokens/s {row['peak_gib']:7.2f} GiB  MFU {row['mfu']:6.1%} HFU {row['hfu']:6.1%} "
        f"{row[f'hours_for_{PAPER_QUESTIONS}']:7.2f} h for {PAPER_QUESTIONS:,} ({row['steps']} steps)"
    )


def _timed(action: Callable[[], Any], device: torch.device) -> float:
    """Seconds until the GPU has done it; on the CPU the processor's, a thread."""
    if device.type != "cuda":
        start = time.process_time()
        action()
        return (time.process_time() - start) / torch.get_num_threads()
    torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak(device: torch.device) -> float:
    """Peak bytes: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]


if __name__ == "__main__":
    main()
