"""The manifest of a run."""

from __future__ import annotations

import json

from comem.manifest import run_manifest


def test_the_manifest_says_what_ran() -> None:
    manifest = run_manifest({"seed": 7})
    assert manifest["seed"] == 7
    assert {"python", "comem", "pillow"} <= set(manifest["versions"])
    json.dumps(manifest)
