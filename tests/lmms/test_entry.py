"""comem as a model of lmms-eval: run whole, with lmms-eval from the package index, in its own environment.

COMEM_LMMS names that environment's python (`pip install lmms-eval==0.7.3 comem`); skipped without it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from comem.io.video import write_video
from comem.memory.video.encoder import build_encoder
from tests.memory.video.conftest import encoder_on, frames_of, make_reader

ROOT = Path(__file__).resolve().parent.parent
PYTHON = os.environ.get("COMEM_LMMS", "")
needed = pytest.mark.skipif(not PYTHON, reason="COMEM_LMMS names no python with lmms-eval")

#: The documents of the five benchmarks as they are published, one question each (video_memory.md 3).
TASK = """
task: comem_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function tasks.visual
doc_to_text: !function tasks.text
doc_to_messages: !function tasks.messages
doc_to_target: answer
process_results: !function tasks.results
generation_kwargs: {{max_new_tokens: 4, temperature: 0, do_sample: false, until: ["\\n"]}}
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: [{{version: 0.0}}]
"""
CODE = """
def visual(doc): return [doc["video"]]
def text(doc, lmms_eval_specific_kwargs=None): return doc["question"]
def messages(doc, lmms_eval_specific_kwargs=None):
    film, words = {"type": "video", "url": doc["video"]}, {"type": "text", "text": doc["question"]}
    return [{"role": "user", "content": [film, words]}]
def results(doc, results): return {"acc": float(results[0].strip() == doc["answer"])}
"""


def world(folder: Path) -> list[str]:
    """Model, memory and two local tasks; the last video cannot be read."""
    reader = make_reader()
    reader.model.save_pretrained(folder / "model")
    reader.processor.save_pretrained(folder / "model")
    from comem.backbones.hf import load_backbone

    torch.manual_seed(1)
    build_encoder(load_backbone(folder / "model"), video=encoder_on(reader).settings).save(folder / "memory")
    records = []
    for number in range(3):
        path = folder / f"{number}.mkv"
        write_video(path, list(frames_of(6 + number, number)))
        records.append({"video": str(path), "question": f"What is number {number}?", "answer": "A"})
    Path(records[-1]["video"]).write_bytes(b"damaged")
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "tasks.py").write_text(CODE)
    for name in ("one", "two"):
        data = tasks / f"{name}.json"
        data.write_text(json.dumps(records))
        (tasks / f"{name}.yaml").write_text(TASK.format(name=name, data=data))
    return [f"comem_{name}" for name in ("one", "two")]


def installed(folder: Path) -> Path:
    """What pip writes of our entry points, for a path of its own: the working tree is not installed there."""
    import tomllib

    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][
        "lmms_eval.models"
    ]
    about = folder / "site" / "comem-9.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: comem\nVersion: 9\n")
    lines = [f"{name} = {place}" for name, place in points.items()]
    (about / "entry_points.txt").write_text("\n".join(["[lmms_eval.models]", *lines, ""]))
    return about.parent


@needed
def test_lmms_eval_runs_with_our_model(tmp_path: Path) -> None:
    tasks = world(tmp_path)
    arguments = (
        f"pretrained={tmp_path / 'model'},mode=video_memory,encoder={tmp_path / 'memory'},max_frames=8"
    )
    words = [
        PYTHON, "-m", "lmms_eval", "--model", "comem", "--model_args", arguments, "--tasks", ",".join(tasks),
        "--include_path", str(tmp_path / "tasks"), "--batch_size", "2", "--log_samples",
        "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    environment = {
        **os.environ,
        "PYTHONPATH": f"{installed(tmp_path)}{os.pathsep}{ROOT}",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hub"),
    }
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=500)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "Error during evaluation" not in said, said[-3000:]
    samples = [
        json.loads(line) for path in sorted((tmp_path / "out").rglob("*samples*.jsonl"))
        for line in path.read_text().splitlines()
    ]  # fmt: skip
    assert len(samples) == 6 and all(isinstance(one["filtered_resps"][0], str) for one in samples)
    assert "asked without" in said
