"""lmms-eval's own tasks of five video benchmarks, on small local files in their formats.

The package's YAML files and functions run as they are; only `dataset_path` names local files.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from comem.benchmarks import BENCHMARKS
from comem.benchmarks.scoring import ScoreFiles
from comem.benchmarks.video import FORMS
from comem.eval.predict import PredictSettings, predict
from comem.io.video import write_video
from comem.memory.video.encoder import build_encoder
from tests.lmms.conftest import ROOT, call, needed, run_jobs
from tests.memory.video.conftest import encoder_on, frames_of, make_reader

#: By our row: the task's file, its split, where its videos lie below HF_HOME, and the score's name.
TASKS = {
    "longvideobench": ("longvideobench/longvideobench_val_v", "datasets/longvideobench/videos", "lvb_acc"),
    "videomme": ("videomme/videomme", "videomme/data", "videomme_perception_score"),
    "mlvu": ("mlvu/mlvu_dev", "mlvu", "mlvu_percetion_score"),
    "nextqa": ("nextqa/nextqa_mc_test", "nextqa/NExTVideo", "exact_match"),
    "egoschema": ("egoschema/egoschema_subset", "egoschema/videos", "score"),
}
OPTIONS = ["a red car", "two men", "nothing", "rain", "the dog"]
KINDS = ("anomaly_reco", "count", "ego", "needle", "order", "plotQA", "topic_reasoning")
SAID = (
    "A",
    "B.",
    "(C)",
    "The answer is D",
    "It is (B), not (A).",
    "(B) two men",
    "Best option: (A)",
    "C nothing",
)


def records(name: str) -> list[dict[str, Any]]:
    """Eight in a benchmark's published form."""
    rows = []
    for n in range(8):
        asked, letter = f"What is seen{' and heard' * n}?", "ABCD"[n % 4]
        lines = [f"{x}. {option}" for x, option in zip("ABCDE", OPTIONS, strict=True)]
        forms: dict[str, dict[str, Any]] = {
            "longvideobench": {
                "video_id": f"v{n}", "id": f"v{n}_0", "video_path": f"v{n}.mp4",
                "subtitle_path": f"v{n}.json",
                "correct_choice": n % 4, "question": asked, "duration": 9.5,
                "duration_group": (15, 60, 600)[n % 3], "question_category": ("S2E", "E2O")[n % 2],
                "topic_category": "x", **{f"option{k}": option for k, option in enumerate(OPTIONS)},
                **({"option4": "N/A"} if n % 2 else {}),
            },
            "videomme": {
                "video_id": f"{n:03d}", "duration": ("short", "medium", "long")[n % 3], "domain": "Knowledge",
                "sub_category": "Astronomy", "url": "", "videoID": f"v{n}", "question_id": f"{n:03d}-1",
                "task_type": "Counting Problem", "question": asked, "options": lines[:4], "answer": letter,
            },
            "mlvu": {
                "video_name": f"v{n}.mp4", "duration": 9.5, "question": f"{asked}\n(A) a red car\n(B) rain",
                "candidates": OPTIONS[:4], "answer": letter, "task_type": KINDS[n % 7],
                "question_id": f"m{n}",
            },
            "nextqa": {
                "video": n, "frame_count": 9, "width": 28, "height": 28, "question": asked, "answer": n % 4,
                "qid": n % 2, "type": "CW", **{f"a{k}": option for k, option in enumerate(OPTIONS)},
            },
            "egoschema": {
                "question_idx": str(n), "question": asked, "video_idx": f"v{n}", "option": lines,
                "answer": str(n % 4),
            },
        }  # fmt: skip
        rows.append(forms[name])
    return rows


def tasks_in(folder: Path, package: Path) -> dict[str, Path]:
    """A task for each, the package's with local data; by our row its file of records."""
    (folder / "tasks").mkdir()
    files = {}
    for name, (task, _, _) in TASKS.items():
        files[name] = folder / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(row) + "\n" for row in records(name)))
        split = "validation" if name == "longvideobench" else "test"
        kwargs = {"data_files": {split: str(files[name])}}
        lines = {"include": str(package / "tasks" / f"{task}.yaml"), "task": f"local_{name}"}
        lines |= {"dataset_path": "json", "dataset_kwargs": kwargs}
        (folder / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump(lines))
    return files


def videos_in(home: Path) -> None:
    """Clips of unequal length where each task looks for them; the last one cannot be read."""
    home.mkdir()
    clips = []
    for n in range(8):
        clips.append(home / f"v{n}.mkv")
        write_video(clips[-1], list(frames_of(5 + 2 * n, n)))
    for name, (_, place, _) in TASKS.items():
        (home / place).mkdir(parents=True)
        for n, clip in enumerate(clips):
            data = b"damaged" if n == 7 else clip.read_bytes()
            (home / place / (f"{n}.mp4" if name == "nextqa" else f"v{n}.mp4")).write_bytes(data)


@needed
def test_the_five_benchmarks_as_lmms_eval_has_them(tmp_path: Path) -> None:
    found = call(tmp_path, "-c", "import lmms_eval; print(lmms_eval.__path__[0])")
    package = Path(found.stdout.split()[-1])
    files, logs = tasks_in(tmp_path, package), tmp_path / "logs"
    logs.mkdir()
    videos_in(tmp_path / "hub")
    reader = make_reader()
    reader.model.save_pretrained(tmp_path / "model")
    reader.processor.save_pretrained(tmp_path / "model")
    from comem.backbones.hf import load_backbone

    torch.manual_seed(1)
    settings = encoder_on(reader, sampling="uniform", max_frames=8).settings
    build_encoder(load_backbone(tmp_path / "model"), video=settings).save(tmp_path / "memory")
    memory = f"pretrained={tmp_path / 'model'},mode=video_memory,encoder={tmp_path / 'memory'},max_frames=8"
    names = [f"local_{name}" for name in TASKS]
    common = {"tasks": names, "include": [str(tmp_path / "tasks")]}
    jobs: dict[str, dict[str, Any]] = {
        "fixed": {
            "model": "fixed", "answers": {name: list(SAID) for name in names}, "samples": str(logs), **common
        },
        "memory 1": {"model": "comem", "model_args": memory, "batch_size": 1, **common},
        "memory 4": {"model": "comem", "model_args": memory, "batch_size": 4, **common},
        "frames": {
            "model": "comem", "model_args": f"{memory.rpartition(',')[0]},max_frames=4", "batch_size": 2,
            **common, "tasks": ["local_videomme"],
        },
        "baseline": {
            "model": "comem", "model_args": f"pretrained={tmp_path / 'model'},mode=baseline",
            **common, "tasks": ["local_videomme"],
        },
    }  # fmt: skip
    out = run_jobs(tmp_path, jobs)
    assert "ask in the mode video_memory" in out["baseline"]["error"]
    wrong = [out[job]["error"] for job in jobs if job != "baseline" and "error" in out[job]]
    assert not wrong, out["said"][-3000:]
    for name, (_, place, metric) in TASKS.items():
        task, row = f"local_{name}", BENCHMARKS[name]
        examples = list(row.load(files[name], image_folder=tmp_path / "hub" / place))
        seen = out["fixed"]["seen"][task]
        assert [each.question for each in examples] == [text for _, text, _ in seen]
        assert [str(each.video) for each in examples] == [films[0] for _, _, films in seen]
        theirs = out["fixed"]["results"][task][f"{metric},none"]
        log = {"": logs / f"{task}.jsonl"}
        alone = row.score_files(ScoreFiles(log, {})).metrics
        beside = row.score_files(ScoreFiles(log, {"": files[name]})).metrics
        ours = alone[row.headline[0]] / (100 if name in ("longvideobench", "nextqa", "egoschema") else 1)
        assert ours == pytest.approx(theirs, abs=1e-5) and ours > 0 and alone["unparsed"] == 0
        assert alone == beside
        one, four = (out[f"memory {batch}"]["texts"][task] for batch in (1, 4))
        assert one == four and len(one) == 8
    assert len({text for _, _, text in out["memory 1"]["texts"]["local_videomme"]}) > 1
    assert out["frames"]["texts"]["local_videomme"] != out["memory 4"]["texts"]["local_videomme"]
    assert "asked without its video" in out["said"]
    asked = PredictSettings(
        benchmark="videomme", data=files["videomme"], images=tmp_path / "hub/videomme/data",
        model=str(tmp_path / "model"), encoder=str(tmp_path / "memory"), mode=("video_memory",),
        max_new_tokens=16, output=tmp_path / "run",
    )  # fmt: skip
    answers = predict(asked)["video_memory"].answers or {}
    said = [text for _, _, text in out["memory 1"]["texts"]["local_videomme"]]
    assert [answers[f"{n:03d}-1"].text.split("\n\n")[0].strip() for n in range(7)] == said[:7]
    assert "007-1" not in answers  # the damaged one failed, and is recorded


@needed
def test_our_rules_are_lmms_evals(tmp_path: Path) -> None:
    done = call(tmp_path, str(ROOT / "tests/lmms/rules.py"))
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.findall(r"(\w+): (\d+) of (\d+) differ \((\d+) with a letter\)", done.stdout)
    assert len(found) == 4 and all(wrong == "0" and int(some) > 10_000 for _, wrong, _, some in found)


def test_every_form_has_a_task() -> None:
    assert set(FORMS) == set(TASKS)
