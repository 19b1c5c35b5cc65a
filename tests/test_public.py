"""The public face: what `import comem` gives, that it costs nothing, and that each name is documented."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import comem


def test_importing_costs_nothing() -> None:
    code = "import sys, comem; print(sorted({'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", comem.__all__)
def test_every_name_is_there_and_documented(name: str) -> None:
    value = getattr(comem, name)
    if name.isupper():
        assert len(value) > 0  # a registry with rows
        return
    assert inspect.getdoc(value), f"comem.{name} has no docstring"


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(comem.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module for node in imports for alias in node.names} == comem._HOME


def test_about_forty_names() -> None:
    assert 35 <= len(comem.__all__) <= 55
    assert set(comem.__all__) <= set(dir(comem))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = comem.nonsense
