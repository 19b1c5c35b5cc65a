"""Makes the files of this folder with comem 0.1, see README.md: `python make.py OUT TESTS_OF_0.1`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

OUT, TESTS = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()


def comem(*words: str, kill_when: Callable[[], bool] | None = None) -> None:
    """Run a command; with `kill_when`, end it by SIGKILL as soon as that is true."""
    child = subprocess.Popen([sys.executable, "-m", "comem", *words])
    while kill_when and child.poll() is None:
        if kill_when():
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            return
        time.sleep(0.002)
    assert child.wait() == 0 and kill_when is None, words


def world() -> None:
    """Ten items and six questions of the embedded world, their images made small."""
    comem("toy", "build", "data", "--size", "10")
    rows = Path("data/test.jsonl").read_text().splitlines()[:6]
    Path("data/test.jsonl").write_text("\n".join(rows) + "\n")
    wanted = {json.loads(row)["image_path"] for row in rows} | {f"images/T0000{n}_0.png" for n in range(10)}
    for path in Path("data/images").iterdir():
        if f"images/{path.name}" in wanted:
            Image.open(path).convert("RGB").resize((56, 56)).quantize(16).save(path)
        else:
            path.unlink()
    for name in ("train.jsonl", "val.jsonl"):
        Path("data", name).unlink()


def banks() -> None:
    """The index, and its memories in one file and in two folders."""
    comem("index", "build", "--corpus", "data/wit.tsv.gz", "--output", "index", "--embedder", "toy")
    comem("encode", "--encoder", "toy", "--index", "index", "--output", "bank.safetensors")
    for form in ("bf16", "int8"):
        words = ("--index", "index", "--output", f"bank-{form}", "--form", form)
        comem("bank", "build", "--encoder", "toy", *words)


def runs() -> None:
    """A whole run, of which only the answers are kept, and the same one killed after two answers."""
    words = (
        "predict --benchmark toy --data data --split test --mode comem --model toy --encoder toy"
        " --bank bank.safetensors --index index -k 2 --batch-size 1 --max-new-tokens 8 --output"
    ).split()
    comem(*words, "whole")
    answers = Path("run/predictions.jsonl")
    comem(*words, "run", kill_when=lambda: answers.exists() and answers.read_text().count("\n") >= 2)
    Path("whole/predictions.jsonl").rename("whole.jsonl")
    shutil.rmtree("whole")


def base() -> None:
    """A random Qwen2.5-VL of width 32, and four questions that differ in their item alone."""
    sys.path.insert(0, str(TESTS))
    import conftest
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = conftest._text_config(1, 2) | {"hidden_size": 32, "intermediate_size": 32}
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
        "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **conftest._TOKEN_IDS)
    torch.manual_seed(0)
    conftest._lively(Qwen2_5_VLForConditionalGeneration(config)).save_pretrained("base")
    conftest.build_tiny_processor().save_pretrained("base")
    rng, rows = np.random.default_rng(0), []
    for number, answer in enumerate(("ab", "cd", "ef", "gh")):
        pixels = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).quantize(16).save(f"base/{number}.png")
        item = {"id": f"k{number}", "text": f"It is {answer}.", "image": f"{number}.png"}
        rows.append({"id": f"q{number}", "question": "What is it?", "answer": answer, "knowledge": [item]})
    Path("base/train.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def trainings() -> None:
    """A training run, its encoder and its losses; and the same run killed after its first checkpoint."""
    words = (
        "train model=base data=base/train.jsonl batch_size=4 epochs=6 save_every=2 log_every=1"
        " tensorboard=false precision=fp32 lora.rank=2 lora.alpha=4 lora.dropout=0.05 qformer.num_queries=2"
        " qformer.depth=2 qformer.heads=4 qformer.ff_mult=1 qformer.output_scale=auto optim.lr=5e-3"
    ).split()
    comem(*words, "output=trained")
    comem(*words, "output=train", kill_when=Path("train/checkpoints/step-00000002").exists)
    comem("merge", "trained", "encoder", "--adapter")
    Path("trained/metrics.jsonl").rename("trained.jsonl")
    shutil.rmtree("trained")


OUT.mkdir(parents=True)
os.chdir(OUT)
for job in (world, banks, runs, base, trainings):
    job()
