"""The pages that a newcomer follows run from their text, and the site builds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import comem

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)
#: Pages whose blocks run; and what is made smaller, so that it takes seconds.
WALKS = {"tour": ["tour.md"]}
SMALLER = {"--size 300": "--size 40", "--limit 100": "--limit 8", "max_steps=5": "max_steps=1"}

WALK = """
import contextlib, io, json, shlex, sys
from comem.cli import main

for kind, text in [("new", ""), *json.load(sys.stdin)]:
    if kind == "new":
        names = {"__name__": "page"}
        continue
    if kind == "file":
        name, _, body = text.partition("\\n")
        open(name, "w", encoding="utf-8").write(body + "\\n")
        continue
    if kind == "python":
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(text, "page", "exec"), names)
        print(said.getvalue())
        continue
    for line in text.replace("\\\\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "comem", line
        code = main(words[1:])
        if code:
            sys.exit(f"{line}: exit code {code}")
"""  # in one process, since loading torch takes longer than most commands


@pytest.mark.slow
@pytest.mark.parametrize("name", WALKS)
def test_walk(name: str, tmp_path: Path) -> None:
    """Blocks with a title are written, `bash` and `python` are run, in the page's order; others are shown."""
    steps: list[tuple[str, str]] = []
    promised: list[str] = []
    for page in WALKS[name]:
        for kind, title, body in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
            if title:
                (tmp_path / title).write_text(body, encoding="utf-8")
            elif kind in ("bash", "python"):
                for before, after in SMALLER.items():
                    body = body.replace(before, after)
                steps.append((kind, body))
                promised += re.findall(r"^print\(.*\)  # (.+)$", body, re.MULTILINE)
    run(steps, promised, tmp_path)


def run(steps: list[tuple[str, str]], promised: list[str], folder: Path) -> None:
    """Run steps one after the other in a folder; what `print(…)  # …` promises has to be said."""
    assert {kind for kind, _ in steps} >= {"bash", "python"}
    keep = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    ran = subprocess.run(
        [sys.executable, "-c", WALK], input=json.dumps(steps), capture_output=True, text=True, timeout=600,
        cwd=folder, env={**keep, **quiet, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert promised and all(line in ran.stdout for line in promised)


@pytest.mark.slow
def test_notebooks_run(tmp_path: Path) -> None:
    """All cells of all notebooks, in one process and folder: what several prepare runs once."""
    steps: list[tuple[str, str]] = []
    promised: list[str] = []
    for path in NOTEBOOKS:
        steps.append(("new", ""))  # names live as long as a kernel
        for kind, body in cells(path):
            for before, after in SMALLER.items():
                body = body.replace(before, after)
            promised += re.findall(r"^ *print\(.*\)  # (.+)$", body, re.MULTILINE)
            if (kind, body) not in steps:
                steps.append((kind, body))
    assert len(NOTEBOOKS) == len(list((DOCS / "howto").glob("*.md")))
    run(steps, promised, tmp_path)


def cells(path: Path) -> list[tuple[str, str]]:
    """The code of a notebook that an executor would run: files, commands, Python."""
    found = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        body = "".join(cell["source"])
        if cell["cell_type"] != "code" or "skip-execution" in cell["metadata"].get("tags", ()):
            continue
        if body.startswith("%%writefile "):
            found.append(("file", body.removeprefix("%%writefile ")))
        elif body.startswith("!"):
            found.append(("bash", re.sub(r"^!", "", body, flags=re.MULTILINE)))
        else:
            found.append(("python", body))
    return found


def test_notebooks_are_what_their_pages_say() -> None:
    """By `python scripts/dev/notebooks.py`."""
    words = [sys.executable, "scripts/dev/notebooks.py", "--check"]
    checked = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, f"run python scripts/dev/notebooks.py:\n{checked.stdout}{checked.stderr}"


@pytest.mark.slow
def test_the_site_builds(tmp_path: Path) -> None:
    if find_spec("mkdocs") is None or find_spec("mkdocstrings") is None:
        pytest.skip('the site\'s tools are not installed: pip install -e ".[docs]"')
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir"]
    built = subprocess.run(
        [*words, str(tmp_path / "site")], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert (tmp_path / "site" / "api" / "memory" / "index.html").is_file()


def test_lines_are_wrapped() -> None:
    """By `python scripts/dev/wrap_docs.py`."""
    checked = subprocess.run(
        [sys.executable, "scripts/dev/wrap_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert checked.returncode == 0, (
        f"run python scripts/dev/wrap_docs.py; too long lines in\n{checked.stdout}"
    )


def test_every_public_name_is_in_the_reference() -> None:
    listed = re.findall(r"\[`(\w+)`\]\[comem[\w.]+\]", (DOCS / "api/index.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(comem.__all__)


def test_every_page_is_in_the_menu() -> None:
    menu = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert menu == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
