"""The page of dependencies agrees with the pins, and no pin is older than a fix that we know of."""

from __future__ import annotations

import importlib.util
import json
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


def test_a_database_of_advisories_is_asked(script: ModuleType, tmp_path: Path) -> None:
    entry = {"id": "pyup.io-1", "cve": "CVE-0000-2", "specs": ["<0.1", ">=1,<999"]}
    about = {"$meta": {"timestamp": 1625119202}, "Pillow": [entry], "numpy": [{**entry, "specs": ["<0.1"]}]}
    (tmp_path / "insecure_full.json").write_text(json.dumps(about))
    said, told = script.affected(tmp_path / "insecure_full.json")
    assert said == "2 of the pinned packages are among 2, as of 2021-07-01"
    assert told and all(each.startswith("pillow ") and "CVE-0000-2" in each for each in told)
