"""The manifest of a run: with which software, on what, from which commit it was made."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

_VERSIONS_OF = (
    "torch", "transformers", "peft", "tokenizers", "pillow", "faiss-cpu", "open_clip_torch", "numpy",
    "bm25s",
)  # fmt: skip


def run_manifest(extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What is needed to say later with which software a run was made.

    Args:
        extra: entries of the caller (resolved config, seed); they stand beside ours.
    """
    manifest: dict[str, Any] = {
        "time": datetime.now(tz=timezone.utc).isoformat(timespec="seconds"),
        "command": [_program(), *sys.argv[1:]],
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "git_commit": _git_commit(),
    }
    if "torch" in sys.modules:  # a run without torch must not import it for this
        torch = sys.modules["torch"]
        manifest["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {**manifest, **(extra or {})}


def _program() -> str:
    """How this program is called, without the folder in which it happens to lie."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return Path(sys.argv[0]).name
    return f"python -m {spec.name.removesuffix('.__main__')}"


def _versions() -> dict[str, str]:
    found = {"comem": sys.modules[__name__.partition(".")[0]].__version__}
    for name in _VERSIONS_OF:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git_commit() -> str | None:
    """The commit of the checkout this package lies in, if it lies in one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
