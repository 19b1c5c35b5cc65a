"""Every mode as lmms-eval's model: the answers of `comem predict`, whatever the batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from comem.bank.build import encode
from comem.bank.settings import EncodeSettings
from comem.benchmarks import Benchmark
from comem.eval.predict import PredictSettings, predict
from comem.lmms.manifest import TASKS
from comem.modes import MODES
from comem.retrieval.index import build_index
from comem.retrieval.settings import IndexSettings
from comem.toy.benchmark_files import FilesSettings, build_files
from tests.lmms.conftest import needed, run_jobs

#: Modes over items, and what each is given; videos are in test_videos.py.
GIVEN = {
    "baseline": {},
    "rag": {"k": 2},
    "comem": {"k": 3, "encoder": "toy", "bank": "bank"},
    "hybrid": {"k": 2, "encoder": "toy", "full": 1},
    "vlm_as_memory": {"k": 2, "kv_layers": (1, 2), "kv_fraction": 0.5},
}
TOKENS = 6


def questions(folder: Path) -> Path:
    """Ten of InfoSeek's form, of very different length, every third without a picture."""
    build_files(FilesSettings(folder, size=40, questions=10, image_size=56))
    rows = [json.loads(line) for line in (folder / "infoseek/infoseek_val.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["question"] = "Look closely. " * (number % 4) * 3 + row["question"]
        if number % 3:
            row["image_path"] = f"images/{row['image_id']}.png"
        row.pop("image_id")
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    images = {path.suffix for path in (folder / "images").iterdir()}
    assert images == {".png"} and len(rows) == 10
    return file


@needed
def test_every_mode_whatever_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Benchmark, "require_images", lambda row, examples: None)  # some are asked without
    assert set(GIVEN) == set(MODES) - {"video_memory"}
    file, index = questions(tmp_path), tmp_path / "index"
    build_index(IndexSettings(corpus=tmp_path / "wit.tsv.gz", embedder="toy", output=index))
    encode(EncodeSettings(encoder="toy", index=index, output=tmp_path / "bank"))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "place.json").write_text(json.dumps({"data": str(file), "images": "none"}))
    for name in ("first", "second"):  # two tasks with the same ids, answered in one run
        kwargs = {"data_files": {"test": "place.json"}}
        lines: dict[str, Any] = {
            "include": str(TASKS / "infoseek.yaml"),
            "task": name,
            "dataset_kwargs": kwargs,
        }
        (tasks / f"{name}.yaml").write_text(yaml.safe_dump({"dataset_path": "json", **lines}))
    jobs = {}
    for mode, given in GIVEN.items():
        values = {"mode": mode, **({"index": index} if mode != "baseline" else {}), **given}
        if "bank" in given:
            values["bank"] = tmp_path / "bank"
        words = [f"{k}={'+'.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in values.items()]
        for batch in (1, 4):
            jobs[f"{mode} {batch}"] = {
                "model": "comem", "model_args": ",".join(["pretrained=toy", *words]), "include": [str(tasks)],
                "tasks": ["first", "second"] if batch == 4 else ["first"], "batch_size": batch,
                "gen_kwargs": f"max_new_tokens={TOKENS}",
            }  # fmt: skip
    out = run_jobs(tmp_path, jobs)
    assert not [out[job]["error"] for job in jobs if "error" in out[job]], out["said"][-3000:]
    answers = {}
    for mode, given in GIVEN.items():
        settings = PredictSettings(
            benchmark="infoseek", data=file, mode=(mode,), index=None if mode == "baseline" else index,
            max_new_tokens=TOKENS, batch_size=3, output=tmp_path / "runs" / mode,
            **{**given, **({"bank": tmp_path / "bank"} if "bank" in given else {})},
        )  # fmt: skip
        found = predict(settings)[mode]
        wanted = {name: answer.text.strip() for name, answer in (found.answers or {}).items()}
        for job, task in ((f"{mode} 1", "first"), (f"{mode} 4", "first"), (f"{mode} 4", "second")):
            assert {name: text for _, name, text in out[job]["texts"][task]} == wanted, (mode, job)
        answers[mode] = wanted
        assert len(wanted) == 10 and found.report is not None
        score = out[f"{mode} 4"]["results"]["first"]["final_score,none"]
        assert score == found.report.metrics["final_score"]
    assert answers["comem"] != answers["baseline"] and answers["rag"] != answers["baseline"]  # items count


@needed
def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    wrong = {
        "unknown": "pretrained=toy,mode=baseline,banc=x",
        "no index": "pretrained=toy,mode=rag",
        "frames": "pretrained=toy,mode=baseline,max_frames=8",
        "type": "pretrained=toy,mode=baseline,k=many",
        "mode": "pretrained=toy,mode=ragg",
    }
    task = {"tasks": ["comem_viquae"], "model": "comem"}
    out = run_jobs(tmp_path, {name: {"model_args": words, **task} for name, words in wrong.items()})
    assert "does not know: banc" in out["unknown"]["error"] and "pretrained" in out["unknown"]["error"]
    assert "index" in out["no index"]["error"]
    assert "video_memory" in out["frames"]["error"]
    assert "k is 'many'" in out["type"]["error"]
    assert "did you mean rag" in out["mode"]["error"]
