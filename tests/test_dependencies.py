"""The page of dependencies agrees with the pins, and no pin is older than a fix that we know of."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "dev" / "dependencies.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dependencies", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_pin_is_older_than_a_known_fix(script: ModuleType) -> None:
    assert script.outdated() == []


def test_an_old_pin_is_told(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "ADVISORIES", {"pillow": (("CVE-0000-1", "99.0"),)})
    assert all("CVE-0000-1 is fixed in 99.0" in fault for fault in script.outdated()) and script.outdated()


def test_the_page_lists_every_pin(script: ModuleType) -> None:
    assert script.stale() == [], "run python scripts/dev/dependencies.py"
