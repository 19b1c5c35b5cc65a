"""A training set from a plan: the plans that are shipped, the steps in order, the sums in one manifest."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from comem.cli import main
from comem.command_line import parse
from comem.config import load_config
from comem.data import build
from comem.data.build import DataPlan
from comem.data.records import write_records
from comem.data.synthesis import SynthesiseSettings
from comem.data.translate import TranslateSettings
from comem.io.files import read_jsonl

ROOT = Path(__file__).resolve().parents[2]
PLANS = sorted((ROOT / "configs" / "data").glob("*.yaml"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_every_plan_loads_and_names_what_is_there(path: Path) -> None:
    from comem.backbones.specs import BACKBONES
    from comem.benchmarks import BENCHMARKS

    plan = load_config(DataPlan, path)
    assert plan.model in BACKBONES
    for part in plan.jobs.values():
        row = BENCHMARKS[part.benchmark]
        assert not (row.splits and part.split) or part.split.partition(":")[0] in row.splits


def test_the_papers_size() -> None:
    plan = load_config(DataPlan, ROOT / "configs/data/paper.yaml")
    assert set(plan.jobs) == {"infoseek", "evqa", "okvqa"} and plan.items == 3
    assert sum(part.target or 0 for part in plan.jobs.values()) == 13_800
    assert plan.translations == 1_800 and plan.total == 15_600
    for factor in (2, 4):
        larger = load_config(DataPlan, ROOT / f"configs/data/paper_{factor}x.yaml")
        assert larger.total == factor * 15_600 and larger.translations == factor * 1_800


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A plan of two sources and two languages, with an index that is a name only."""
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "index.json").write_text("{}")
    (tmp_path / "questions.jsonl").touch()
    source = {"benchmark": "toy", "data": str(tmp_path / "questions.jsonl"), "target": 3}
    values = {
        "index": str(tmp_path / "index"), "seed": 4,
        "sources": {"one": source, "two": {**source, "candidates": 9}},
        "translate": {"model": "m", "endpoint": "http://x", "languages": ["fr", "ja"], "samples": 2},
    }  # fmt: skip
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand-ins for the two jobs: they write made-up records, and note how they were called."""
    calls: list[Any] = []

    def fake(settings: Any, names: list[str], language: str = "en") -> dict[str, Any]:
        calls.append(settings)
        rows = [{"id": name, "question": "Why?", "answer": "so", "language": language} for name in names]
        return write_records(
            settings.output, rows, {"candidates": 9, "kept": len(rows), "dropped": {"wrong": 5}}
        )

    def synthesise(settings: SynthesiseSettings, progress: Any) -> dict[str, Any]:
        return fake(settings, [f"{settings.output.name}{n}" for n in range(settings.target or 0)])

    def translate(settings: TranslateSettings, progress: Any) -> dict[str, Any]:
        sources = [row["id"] for row in read_jsonl(settings.file)]
        named = [f"{sources[n]}:{code}" for code in settings.languages for n in range(settings.samples)]
        return fake(settings, named, "xx")

    monkeypatch.setattr(build, "synthesise", synthesise)
    monkeypatch.setattr(build, "translate", translate)
    return calls


def test_one_call_makes_the_whole_set(
    plan: Path, called: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*overrides: str) -> list[str]:
        return ["data", "build", str(plan), *overrides, "--output", str(tmp_path / "out")]

    assert main(command("batch_size=2")) == 0
    one, two, translation = called
    assert (one.benchmark, one.k, one.seed, one.candidates, one.target) == ("toy", 3, 4, None, 3)
    assert two.candidates == 9 and two.batch_size == 2 and two.min_score == 1.0
    assert translation.languages == ("fr", "ja") and translation.endpoint == "http://x"
    manifest = json.loads((tmp_path / "out" / "mixed" / "manifest.json").read_text())
    assert manifest["mixture"]["origin"] == {"one": 3, "two": 3, "translated": 4}
    assert manifest["wanted"] == 10 == manifest["kept"] and manifest["candidates"] == 27
    assert manifest["made"]["two"]["dropped"] == {"wrong": 5} and manifest["plan"]["seed"] == 4
    assert len(list(read_jsonl(tmp_path / "out" / "mixed" / "train.jsonl"))) == 10
    assert main(command("batch_size=5")) == 0  # decides no record
    assert main(command("items=2")) == 2
    assert "begun with other settings (items: 3 there, 2 now)" in capsys.readouterr().err


def test_a_dry_run_prints_the_commands(
    plan: Path, called: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "build", str(plan), "--output", str(tmp_path / "out"), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "comem data synthesise --benchmark toy" in shown and "comem data translate" in shown
    assert "2 languages × 2 records = 4" in shown and not called and not (tmp_path / "out").exists()
    commands = [shlex.split(line)[3:] for line in shown.splitlines() if line.startswith("  comem data")]
    jobs = load_config(DataPlan, plan, [f"output={tmp_path / 'out'}"]).jobs
    assert [parse(SynthesiseSettings, words)[0] for words in commands[:2]] == list(jobs.values())
    assert parse(TranslateSettings, commands[2])[0].languages == ("fr", "ja")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sources.two.benchmark=toi", "unknown benchmark 'toi'"),
        ("sources.two.data=nowhere", "sources.two.data is 'nowhere', which is not there"),
        ("sources.two.trget=3", r"sources.two: unknown key 'trget'; did you mean target"),
        ("index=nowhere", "index is 'nowhere', which is no index"),
        ("sources.translated={benchmark: toy}", "none called 'translated'"),
        ("sources.two=3", "sources.two is 3; expected"),
    ],
)
def test_a_wrong_plan_is_named_before_the_work(
    plan: Path,
    called: list[Any],
    override: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert main(["data", "build", str(plan), override, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not called
