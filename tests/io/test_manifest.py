"""The manifest of a run."""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec

import pytest

from comem.io.run_folder import run_manifest


def test_the_manifest_says_what_ran() -> None:
    manifest = run_manifest({"seed": 7})
    assert manifest["seed"] == 7
    assert {"python", "comem", "pillow"} <= set(manifest["versions"])
    json.dumps(manifest)


@pytest.mark.parametrize(
    ("module", "program"), [(None, "comem"), ("comem.__main__", "python -m comem"), ("x.y", "python -m x.y")]
)
def test_the_command_is_what_was_typed(
    module: str | None, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/some/where/comem", "predict", "-k", "3"])
    spec = ModuleSpec(module, None) if module else None
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    assert run_manifest()["command"] == [program, "predict", "-k", "3"]
