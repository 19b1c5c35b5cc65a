"""Whether a folder (or file) holds the run that is asked for: the one check, for all kinds of runs."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from comem.io.files import read_json, sha256_of, write_json

logger = logging.getLogger(__name__)

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
        "command": [_program(), *map(without_secrets, sys.argv[1:])],
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "git_commit": _git_commit(),
    }
    if "torch" in sys.modules:  # a run without torch must not import it for this
        torch = sys.modules["torch"]
        manifest["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {**manifest, **(extra or {})}


_USER = re.compile(r"(\w+://)[^/?#\s]+@")
_SECRET = re.compile(
    r"([?&;][\w.-]*(?:key|token|secret|password|passwd|pwd|signature|sig|auth)=)[^&;#\s]+", re.I
)


def without_secrets(text: str) -> str:
    """Text as it may be written down: what addresses in it hold of names, passwords and keys is left out."""
    return _SECRET.sub(r"\1***", _USER.sub(r"\1***@", text))


def warn_of_open_key(url: str, key: str) -> None:
    """Warn of a key that goes to another machine unencrypted, beside the address or in it."""
    parts = urlsplit(url)
    here = re.fullmatch(r"(.+\.)?localhost\.?|::1|127(\.\d+){3}", parts.hostname or "")
    if (key or parts.password) and parts.scheme == "http" and not here:
        logger.warning(
            "%s: the key goes over the network unencrypted; is there an https:// address?",
            without_secrets(url),
        )


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


_DIGEST_LIMIT = 256 * 2**20  # larger files in a folder count with name and size only


def settle(
    path: Path, settings: Mapping[str, Any], *, free: Collection[str] = (), place: Path | None = None,
    lead: str = "was begun with other settings",
) -> bool:  # fmt: skip
    """Note the settings of a new run, or check that the run that was begun is of the same ones.

    Args:
        path: the JSON file that keeps them.
        settings: those of today.
        free: as in `check_same`.
        place: as in `check_same`; by default the file's folder.
        lead: as in `check_same`.

    Returns:
        Whether the run was begun before.

    Raises:
        ValueError: the settings differ; names those that do, with both values.
    """
    if path.exists():
        check_same(place or path.parent, read_json(path), settings, free=free, lead=lead)
        return True
    write_json(path, settings)
    return False


def check_same(
    place: str | Path, there: Mapping[str, Any], now: Mapping[str, Any], *, free: Collection[str] = (),
    lead: str = "holds another run", remedy: str = "use the same values or choose another folder",
) -> None:  # fmt: skip
    """Refuse to mix runs of different settings.

    Args:
        place: the folder or file, which begins the message.
        there: the settings that it was begun with.
        now: those of today.
        free: names that may differ, with all that lies below them.
        lead: what the message says of the place.
        remedy: what the message advises.

    Raises:
        ValueError: they differ; names the settings that do, with both values.
    """
    if found := differences(there, now, free):
        raise ValueError(f"{place} {lead} ({'; '.join(found)}); {remedy}")


def differences(there: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str] = ()) -> list[str]:
    """What differs, one line each: `optim.lr: 0.1 there, 0.2 now`; what is missing counts as None."""
    old, new = flat(there), flat(now)
    below = tuple(f"{name}." for name in free)
    return [
        f"{key}: {old.get(key)!r} there, {new.get(key)!r} now"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and key not in free and not key.startswith(below)
    ]


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`, everything as JSON gives it back."""
    return dict(_pairs(json.loads(json.dumps(values)), ""))


def _pairs(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _pairs(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_inputs(place: str | Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse input files whose content has changed.

    Args:
        place: the folder or file, which begins the message.
        there: `checksums` when the run was begun; inputs that are not in both are passed over.
        now: those of today.

    Raises:
        ValueError: names the files.
    """
    changed = [name for name in there if name in now and there[name]["sha256"] != now[name]["sha256"]]
    if changed:
        named = ", ".join(f"{name} ({now[name]['path']})" for name in changed)
        raise ValueError(f"{place}: {named} has changed since the run was begun; use another folder")


def checksums(inputs: Mapping[str, str | Path]) -> dict[str, dict[str, str]]:
    """Path and SHA-256 of every input; of a folder, that of the files directly in it."""
    return {name: {"path": str(path), "sha256": _checksum(Path(path))} for name, path in inputs.items()}


def _checksum(path: Path) -> str:
    if not path.is_dir():
        return sha256_of(path)
    digest = hashlib.sha256()
    for file in sorted(each for each in path.iterdir() if each.is_file()):
        size = file.stat().st_size
        content = sha256_of(file) if size <= _DIGEST_LIMIT else ""
        digest.update(f"{file.name}\0{size}\0{content}\n".encode())
    return digest.hexdigest()
