#!/usr/bin/env python3
"""Writes docs/dependencies.md: every pin of requirements.txt, its licence, and advisories that it is past.

Usage: python scripts/dev/dependencies.py [--check | --database FILE]

It asks nobody: licences are read from the packages' own metadata where they are installed, and the
advisories are those of the table below, with the first version that has the fix. A page made offline can show
no more: run `pip-audit -r requirements.txt` where there is a network. With --check nothing is written: exit
code 1 if a pin is older than a fix, or the page lacks a package or names another version. --database FILE
compares the pins with a database of advisories in safety-db's form (`insecure_full.json` of that package).
"""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "dependencies.md"
#: Package: advisory, and the first version that has the fix; the newest one known when this was written.
ADVISORIES: dict[str, tuple[tuple[str, str], ...]] = {
    "aiohttp": (("CVE-2025-53643", "3.12.14"), ("CVE-2025-69223", "3.13.3")),
    "fastapi": (("CVE-2024-24762", "0.109.1"),),
    "httpx": (("CVE-2021-41945", "0.23.0"),),
    "jinja2": (("CVE-2024-56326", "3.1.5"), ("CVE-2025-27516", "3.1.6")),
    "mcp": (("CVE-2025-53366", "1.9.4"), ("CVE-2025-66416", "1.23.0")),
    "pillow": (("CVE-2023-4863", "10.0.1"), ("CVE-2024-28219", "10.3.0"), ("CVE-2025-48379", "11.3.0")),
    "pyarrow": (("CVE-2023-47248", "14.0.1"),),
    "pyyaml": (("CVE-2020-14343", "5.4"),),
    "ray": (("CVE-2025-62593", "2.52.0"),),
    "torch": (("CVE-2025-32434", "2.6.0"), ("CVE-2025-3730", "2.8.0")),
    "tqdm": (("CVE-2024-34062", "4.66.3"),),
    "transformers": (("CVE-2024-11392", "4.48.0"), ("CVE-2025-6921", "4.53.0")),
}
#: Where the metadata of a package name no licence, or it is not installed here.
LICENCES = {"ray": "Apache-2.0", "playwright": "Apache-2.0", "milvus-lite": "Apache-2.0"}
_HEAD = """# Dependencies

The tested set of versions (`requirements.txt`), each with its licence as its own metadata names it,
and the security advisories that its version is past, as far as `scripts/dev/dependencies.py` knows
them: it makes this page without a network, so newer advisories are not in it.
`pip-audit -r requirements.txt` asks for those. The packages that come along with these are not
listed.

What an offline check can show, and did on 29 November 2026: no pin is older than a fix in the
script's own table (written from memory, up to 2025), and none is affected by an entry of safety-db
2021.7.17 (`python scripts/dev/dependencies.py --database insecure_full.json`; its data is of 1 July
2021, 1,363 packages, 9 of these among them). Advisories of the years after 2021 that are not
in the table were not looked up: pip-audit could not be run where this was made.

CoMEM itself opens no pickles, from any of them (weights are read from safetensors only), runs no
code of a model's repository unless it is told to, and fetches from no private address; see
[knowledge bases](knowledge_base.md#downloads).

| package | version | licence | past |
|---|---|---|---|
"""


def pins() -> list[Requirement]:
    """The lines of requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def version_of(pin: Requirement) -> str:
    """The one version that a pin allows."""
    return next(iter(pin.specifier)).version


def outdated() -> list[str]:
    """Pins that are older than the fix of an advisory, a sentence each."""
    return [
        f"{pin.name} {version_of(pin)}: {advisory} is fixed in {fixed}"
        for pin in pins()
        for advisory, fixed in ADVISORIES.get(canonicalize_name(pin.name), ())
        if Version(version_of(pin)) < Version(fixed)
    ]


def affected(database: Path) -> tuple[str, list[str]]:
    """How many pins a database of safety-db's form knows, and of when it is; those that it tells of."""
    about = json.loads(database.read_text(encoding="utf-8"))
    known = {canonicalize_name(name): entries for name, entries in about.items() if name != "$meta"}
    when = datetime.fromtimestamp(about["$meta"]["timestamp"], tz=timezone.utc).date()
    listed = [pin for pin in pins() if canonicalize_name(pin.name) in known]
    told = [
        f"{pin.name} {version_of(pin)}: {entry.get('cve') or entry.get('id')}"
        for pin in listed
        for entry in known[canonicalize_name(pin.name)]
        if any(SpecifierSet(each).contains(version_of(pin), prereleases=True) for each in entry["specs"])
    ]
    names = {pin.name for pin in listed}
    return f"{len(names)} of the pinned packages are among {len(known):,}, as of {when}", told


def licence(name: str) -> str:
    """As the metadata of the installed package names it, in a few words."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return LICENCES.get(canonicalize_name(name), "not installed where this was made")
    expression = about.get("License-Expression")
    named = [
        text.rsplit(" :: ", 1)[-1]
        for text in about.get_all("Classifier", [])
        if text.startswith("License ::")
    ]
    first = (about.get("License") or "").strip().splitlines()
    said = expression or ", ".join(dict.fromkeys(named)) or (first[0][:60] if first else "")
    return said.replace("|", "/") or LICENCES.get(canonicalize_name(name), "not named in its metadata")


def rows() -> list[str]:
    """The table's lines; of a package with several pins, one."""
    found: dict[str, list[str]] = {}
    for pin in pins():
        found.setdefault(pin.name, []).append(version_of(pin))
    return [
        f"| {name} | {', '.join(versions)} | {licence(name)} | "
        f"{', '.join(advisory for advisory, _ in ADVISORIES.get(canonicalize_name(name), ()))} |"
        for name, versions in found.items()
    ]


def stale() -> list[str]:
    """Pins that the page lacks, or names with other versions."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    listed = {match[1]: match[2] for match in re.finditer(r"^\| ([\w.-]+) \| ([^|]+) \|", text, re.M)}
    wanted = {row.split(" | ")[0].removeprefix("| "): row.split(" | ")[1] for row in rows()}
    return [name for name, versions in wanted.items() if listed.get(name) != versions]


def main() -> int:
    """Write the page, or check it."""
    faults = outdated()
    if "--database" in sys.argv[1:]:
        said, told = affected(Path(sys.argv[-1]))
        sys.stdout.write(f"{said}\n")
        faults += told
    elif "--check" in sys.argv[1:]:
        faults += [f"docs/dependencies.md: {name} is missing or another version" for name in stale()]
    else:
        PAGE.write_text(_HEAD + "\n".join(rows()) + "\n", encoding="utf-8")
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
