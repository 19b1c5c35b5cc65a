"""patch/check_version.py agrees with the declared range and explains the rest."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_version", ROOT / "patch" / "check_version.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_range_is_that_of_pyproject(check: ModuleType) -> None:
    declared = re.search(r'"transformers>=(\d+)\.(\d+),<(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert declared is not None
    low_major, low_minor, below = map(int, declared.groups())
    assert (low_major, low_minor) == check.LOWEST and (below, 0) == check.BELOW


@pytest.mark.parametrize(
    ("version", "code", "said"),
    [
        ("5.17.0", 0, "no patch needed"),
        ("5.23.0", 0, "no patch needed"),
        ("4.49.0", 1, "paper's code"),
        ("4.57.1", 1, "too old"),
        ("5.16.9", 1, "too old"),
        ("6.0.0", 1, "newer"),
    ],
)
def test_verdict(
    check: ModuleType, capsys: pytest.CaptureFixture[str], version: str, code: int, said: str
) -> None:
    assert check.main([version]) == code
    assert said in capsys.readouterr().out


def test_installed_version_needs_none(check: ModuleType) -> None:
    assert check.main([]) == 0


def test_not_a_version(check: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["newest"]) == 2
    assert "'newest' is not a version" in capsys.readouterr().err
