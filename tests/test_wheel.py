"""The wheel alone: built, installed in an empty environment, and used from a folder that is no repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("--size", "8", "--train-questions", "8", "--test-questions", "4", "--languages", "en")


def run(*words: object, cwd: Path, input: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program with a clean environment, offline."""
    clean = {"PATH": os.environ["PATH"], "HOME": str(cwd), "LANG": "C.UTF-8", "HF_HUB_OFFLINE": "1"}
    threads = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "Agg"}
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd, env={**clean, **threads}, input=input, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("pip", "hatchling"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed beside this Python")
    folder = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def comem(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command in an environment of its own; torch and the like are those of this Python."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    done = run(*pip, "install", "--no-deps", "--no-index", "--disable-pip-version-check", wheel, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (site,) = folder.glob("lib/python*/site-packages")
    # A line in a .pth file adds the folder, but does not read its .pth files: an editable comem stays out.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "comem"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: an empty folder at first."""
    return tmp_path_factory.mktemp("desk")


def test_what_is_in_it(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [path for path in (ROOT / "comem").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    ours = {path.relative_to(ROOT).as_posix() for path in files}
    configs = {f"comem/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert configs and ours | configs <= names
    assert {Path(name).suffix for name in ours} >= {".py", ".typed", ".html", ".safetensors", ".jsonl"}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"comem"}, "nothing but the package"
    metadata = zipfile.ZipFile(wheel).read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert "License-Expression: Apache-2.0" in metadata and "Requires-Dist: torch<2.16,>=2.11" in metadata


@pytest.mark.slow
def test_the_package_is_the_wheels(comem: Path, desk: Path) -> None:
    code = "import comem, comem.recipes as r; print(comem.__file__); print(r.find_recipe('paper', 'train'))"
    shown = run(comem.parent / "python", "-c", code, cwd=desk)
    assert shown.returncode == 0, shown.stderr
    module, recipe = map(Path, shown.stdout.split())
    assert module.parents[4] == comem.parents[1] and recipe == module.parent / "configs/train/paper.yaml"


@pytest.mark.slow
def test_help(comem: Path, desk: Path) -> None:
    shown = run(comem, "--help", cwd=desk)
    assert shown.returncode == 0 and "quickstart" in shown.stdout
    shown = run(comem, "configs", cwd=desk)
    assert shown.returncode == 0 and "train/ablations/queries_4" in shown.stdout


ONE_AFTER_ANOTHER = """
import json, sys
from comem.cli import main
for words in json.load(sys.stdin):
    code = main(words)
    if code:
        sys.exit(f"comem {' '.join(words)}: exit code {code}")
"""  # in one process, since loading torch takes longer than each command


@pytest.mark.slow
def test_from_nothing_to_a_trained_memory(comem: Path, desk: Path) -> None:
    """The embedded world, its index, one training step by a recipe, an encoder, and a scored answer."""
    steps = [
        ["toy", "build", "world", *SMALL],
        ["toy", "dialogues", "dialogues", "--entities", "8", "--count", "12", "--languages", "en"],
        ["index", "build", "--corpus", "world/wit.tsv.gz", "--embedder", "toy", "--output", "world/index"],
        ["train", "--config", "toy", "data=dialogues/dialogues.jsonl", "output=run", "max_steps=1"],
        ["merge", "run", "encoder", "--adapter"],
        [
            "predict", "--benchmark", "toy", "--data", "world/test.jsonl", "--mode", "comem", "--limit", "2",
            "--encoder", "encoder", "--index", "world/index", "-k", "1", "--output", "answers",
        ],
    ]  # fmt: skip
    ran = run(comem.parent / "python", "-c", ONE_AFTER_ANOTHER, cwd=desk, input=json.dumps(steps))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (desk / "answers" / "metrics.json").is_file()


@pytest.mark.skipif(
    not os.environ.get("COMEM_TEST_WHEEL"), reason="set COMEM_TEST_WHEEL=1; needs uv and an index"
)
def test_a_strangers_first_minutes(wheel: Path) -> None:
    """README's three lines, the server and the page, in an environment that is empty but for the wheel."""
    script = ROOT / "scripts" / "dev" / "try_wheel.sh"
    tried = subprocess.run(["bash", script, wheel], capture_output=True, text=True, timeout=3000)
    assert tried.returncode == 0 and "all of it works" in tried.stdout, tried.stdout + tried.stderr
