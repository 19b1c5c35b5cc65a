"""scripts/reproduce: one script a table of the paper; the commands that they print are commands of ours."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from comem.cli import _command
from comem.command_line import parse
from comem.commands import COMMANDS
from comem.registry import locate

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path for path in (ROOT / "scripts" / "reproduce").glob("*.sh") if path.name[0] != "_")
TABLES = {"table2", "table3", "table4", "table5", "table6", "table10", "table11", "table12", "figure4"}
REAL = {"MODEL": "qwen2_5_vl_7b", "DATA": "my data", "INDEX": "wit", "ENCODER": "enc", "TITLES": "wiki",
        "TRAIN": "train.jsonl", "TRAIN_2X": "twice.jsonl"}  # fmt: skip


def run(script: Path, cwd: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": os.environ["PATH"], "HOME": str(cwd), "LANG": "C.UTF-8", **env}
    return subprocess.run(
        ["bash", str(script), *words], cwd=cwd, env=clean, capture_output=True, text=True, timeout=60
    )


def commands(text: str) -> list[list[str]]:
    """The commands of ours that a script has printed, without the program."""
    lines = [shlex.split(line[2:]) for line in text.splitlines() if line.startswith("+ ")]
    return [words[1:] for words in lines if Path(words[0]).name == "comem"]


def test_every_table_has_its_script() -> None:
    assert {path.stem for path in SCRIPTS} == TABLES


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("real", [False, True], ids=["embedded", "real"])
def test_a_dry_run_prints_commands_that_exist_and_does_nothing(
    path: Path, real: bool, tmp_path: Path
) -> None:
    shown = run(path, tmp_path, "--dry-run", **(REAL if real else {}))
    assert shown.returncode == 0, shown.stderr
    found = commands(shown.stdout)
    for words in found:
        name, rest = _command(words)
        row = COMMANDS[str(name)]
        parse(locate(row.settings), rest, row.recipes, locate(row.extra) if row.extra else None)
        assert words[0] != "train" or Path(words[words.index("--config") + 1]).is_file()
    kinds = [words[0] for words in found]
    assert kinds[-1] == "report" and "predict" in kinds and not list(tmp_path.iterdir())
    assert ("toy" in kinds) != real, "the embedded world is for those who name no model"
    trained = [words for words in found if words[0] == "train"]
    if path.stem in ("table6", "table12"):
        assert len(trained) == {"table6": 4, "table12": 8 if real else 7}[path.stem]
        assert kinds.count("merge") == len(trained) == kinds.count("predict")
        assert kinds.count("data") == (0 if real else 1), "data is made unless TRAIN names it"
    elif path.stem != "table5":
        assert not trained


def predictions(shown: str) -> list[dict[str, str]]:
    found = [words for words in commands(shown) if words[0] == "predict"]
    return [dict(zip(words, words[1:], strict=False)) for words in found]


def test_figure_4_asks_with_3_to_50_items(tmp_path: Path) -> None:
    asked = predictions(run(ROOT / "scripts/reproduce/figure4.sh", tmp_path, "--dry-run", **REAL).stdout)
    assert [each["-k"] for each in asked] == [
        k for k in ("3", "10", "20", "30", "40", "50") for _ in range(2)
    ]
    assert {each["--data"] for each in asked} == {"my data/infoseek"}
    assert len({each["--output"] for each in asked}) == 12


def test_tables_ask_the_papers_benchmarks_with_ten_items(tmp_path: Path) -> None:
    asked = predictions(run(ROOT / "scripts/reproduce/table3.sh", tmp_path, "--dry-run", **REAL).stdout)
    names = {"infoseek", "oven_query", "oven_entity", "mrag_bench", "okvqa", "aokvqa", "viquae"}
    assert {each["--benchmark"] for each in asked} == names and len(asked) == 21
    assert {each.get("-k") for each in asked} == {None, "10"}
    assert all(("--encoder" in each) == (each["--mode"] == "comem") for each in asked)


def test_ablations_are_trained_by_their_recipes(tmp_path: Path) -> None:
    shown = run(ROOT / "scripts/reproduce/table12.sh", tmp_path, "--dry-run", **REAL).stdout
    trained = [words for words in commands(shown) if words[0] == "train"]
    recipes = [Path(words[2]).stem for words in trained]
    sizes = ["size_0.25x", "size_0.5x", "size_2x", "size_4x"]
    assert recipes == ["queries_8", "data_0.25x", "data_0.5x", "data_2x", *sizes]
    assert "data=twice.jsonl" in trained[3] and "data=train.jsonl" in trained[4]
    assert "TRAIN_4X is not set" in shown


def test_commands_are_run_and_failures_stop(tmp_path: Path) -> None:
    """With a `comem` that notes its arguments, and fails at the report where asked to."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    tool = tmp_path / ".venv" / "bin" / "comem"
    tool.parent.mkdir(parents=True)
    tool.write_text('#!/bin/bash\necho "$1" >> "$LOG"\n[ "$1" != "${FAIL:-}" ] || exit 3\n')
    tool.chmod(0o755)
    script, log = tmp_path / "scripts/reproduce/figure4.sh", tmp_path / "log"
    env = {**REAL, "LOG": str(log), "ITEMS": "3"}
    assert run(script, tmp_path, **env).returncode == 0
    assert log.read_text().split() == ["predict", "predict", "report"]  # no references: no paper scores
    assert run(script, tmp_path, **env, FAIL="predict").returncode == 3
    assert log.read_text().split()[3:] == ["predict"]
    for wrong, message in (({}, "--limit is not known"), ({"MODEL": "m"}, "ENCODER is missing")):
        words = [] if wrong else ["--limit"]
        ran = run(script, tmp_path, *words, **wrong, LOG=str(log), ITEMS="3")
        assert ran.returncode == 2 and message in ran.stderr
