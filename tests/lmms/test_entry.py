"""comem as a model of lmms-eval, and its tasks: the command, run whole."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from comem.io.video import write_video
from comem.memory.video.encoder import build_encoder
from comem.toy.benchmark_files import FilesSettings, build_files
from tests.lmms.conftest import call, needed
from tests.memory.video.conftest import encoder_on, frames_of, make_reader

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


@needed
def test_lmms_eval_runs_with_our_model_and_tasks(tmp_path: Path) -> None:
    """The command itself: local tasks by their folder, one of ours by the entry point, the video damaged."""
    tasks = [*world(tmp_path), "comem_viquae"]
    build_files(FilesSettings(tmp_path / "data", size=40, questions=3, image_size=28))
    arguments = (
        f"pretrained={tmp_path / 'model'},mode=video_memory,encoder={tmp_path / 'memory'},max_frames=8"
    )
    words = [
        "-m", "lmms_eval", "--model", "comem", "--model_args", arguments, "--tasks", ",".join(tasks),
        "--include_path", str(tmp_path / "tasks"), "--batch_size", "2", "--log_samples",
        "--output_path", str(tmp_path / "out"), "--gen_kwargs", "max_new_tokens=4",
    ]  # fmt: skip
    done = call(tmp_path, *words, COMEM_DATA=str(tmp_path / "data"))
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "Error during evaluation" not in said, said[-3000:]
    samples = [
        json.loads(line) for path in sorted((tmp_path / "out").rglob("*samples*.jsonl"))
        for line in path.read_text().splitlines()
    ]  # fmt: skip
    assert len(samples) == 9 and all(isinstance(one["filtered_resps"][0], str) for one in samples)
    assert "asked without" in said
    assert "|comem_viquae|none" in said.replace(" ", "")
