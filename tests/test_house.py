"""What a project needs beside its code is there, and says the same everywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from comem import __version__

ROOT = Path(__file__).resolve().parent.parent


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert re.search(r"Apache License\s+Version 2\.0, January 2004", text)
    assert "END OF TERMS AND CONDITIONS" in text and len(text) > 10_000
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_changelog_knows_this_version_or_what_is_unreleased() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings and (headings[0] == "Unreleased" or headings[0] == __version__)


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__ and citation["license"] == "Apache-2.0"
    assert citation["preferred-citation"]["url"] == "https://arxiv.org/abs/2505.17670"


def test_versions_are_dated() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for line in re.findall(r"^## (.+)$", text, re.MULTILINE):
        assert line == "[Unreleased]" or re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", line)


def test_contributing_names_the_checks() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(word in text for word in ("scripts/test.sh", "ruff", "mypy", "pre-commit"))


def test_pre_commit_runs_the_linters_of_the_environment() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = {hook["id"]: hook for repository in config["repos"] for hook in repository["hooks"]}
    for name in (
        "ruff",
        "mypy",
        "codespell",
    ):  # of .venv, so that no second set of versions has to be kept in step
        assert hooks[name]["entry"].startswith(f".venv/bin/{name}") and hooks[name]["language"] == "system"


@pytest.mark.parametrize("name", ["scripts/quickstart.sh", "scripts/test.sh", "scripts/setup.sh", ".ci/run"])
def test_entry_points_are_there(name: str) -> None:
    assert (ROOT / name).stat().st_mode & 0o111
