"""pyproject.toml (ranges) and requirements.txt (pins) agree, and the package carries its data."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).resolve().parent.parent
PINNED_EXTRAS = (
    "articles",
    "captions",
    "dev",
    "download",
    "endpoints",
    "linking",
    "milvus",
    "ray",
    "serve",
    "smolvlm",
    "train",
    "video",
)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def ranges() -> dict[str, Requirement]:
    table = project()
    lines = [*table["build-system"]["requires"], *table["project"]["dependencies"]]
    for extra in PINNED_EXTRAS:
        lines += table["project"]["optional-dependencies"][extra]
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def pins() -> list[Requirement]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_both_name_the_same_packages() -> None:
    assert {canonicalize_name(pin.name) for pin in pins()} == set(ranges())


@pytest.mark.parametrize("pin", pins(), ids=str)
def test_pin_is_exact_and_in_range(pin: Requirement) -> None:
    assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(pin.specifier)), f"{pin} is no exact pin"
    exact = str(pin.specifier).removeprefix("==")
    allowed = ranges()[canonicalize_name(pin.name)].specifier
    assert allowed.contains(exact), f"{pin} lies outside {allowed}"


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_one_pin_a_package_on_every_python(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    here = [pin.name for pin in pins() if pin.marker is None or pin.marker.evaluate(environment)]
    assert sorted(here) == sorted(set(here)) and {canonicalize_name(name) for name in here} == set(ranges())


def test_ranges_include_what_was_promised() -> None:
    promised = {
        "torch": ["2.11.0", "2.12.1", "2.14.1", "2.15.0"],
        "torchvision": ["0.26.0", "0.27.1", "0.29.2", "0.30.0"],
        "transformers": ["5.17.0", "5.23.0"],
    }
    for name, versions in promised.items():
        for each in versions:
            assert ranges()[name].specifier.contains(each)
    assert not ranges()["transformers"].specifier.contains("4.57.0")


def test_installed_versions_are_in_range() -> None:
    for name, requirement in ranges().items():
        assert requirement.specifier.contains(version(name)), f"{version(name)} is not in {requirement}"


def test_command_and_data_are_declared() -> None:
    table = project()
    assert table["project"]["scripts"] == {"comem": "comem.cli:main"}
    wheel = table["tool"]["hatch"]["build"]["targets"]["wheel"]  # tests/test_wheel.py looks into one
    assert wheel["packages"] == ["comem"] and wheel["force-include"] == {"configs": "comem/configs"}
    assert table["project"]["requires-python"] == ">=3.10"


def test_no_machine_paths_are_committed() -> None:
    """A path of somebody's machine in a committed text file would break on every other one."""
    wrong = re.compile(r"(?<![\w.])/(home|root|work|Users)/[a-z]")
    for pattern in ("*.md", "*.toml", "*.txt", "scripts/**/*.sh", "comem/**/*.py", "configs/**/*.yaml"):
        for path in ROOT.glob(pattern):
            assert not wrong.search(path.read_text(encoding="utf-8")), f"{path} names a folder of one machine"
