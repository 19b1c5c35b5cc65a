"""Import ranks: a module imports only lower ranks or its own sub-package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "comem"

# Sub-packages and top-level modules by rank. What stands in none of them fails the test: give it a rank here.
# The modules of rank 0 build on each other too, in the order of their decimals.
RANKS = {
    0.0: {"types", "registry"},
    0.1: {"io"},
    0.2: {"config"},
    0.3: {"recipes"},
    1.0: {"backbones", "benchmarks", "retrieval"},
    1.1: {"linking"},
    2.0: {"memory"},
    2.1: {"bank", "compat"},
    3.0: {"modes", "training", "toy"},
    3.5: {"engine"},
    4.0: {"eval"},
    4.1: {"store"},
    4.2: {"profiling", "verifying"},
    4.3: {"serve"},
    4.5: {"lmms"},
    5.1: {"data", "quickstart"},
    5.2: {"command_line", "commands"},
    5.21: {"command_help"},
    5.3: {"cli"},
    5.4: {"__main__"},
}
RANK = {name: rank for rank, names in RANKS.items() for name in names}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def unit(path: Path) -> str:
    """The sub-package or top-level module that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """Line and unit of every import of our own modules, also of those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            names = [f"comem.{alias.name}" for alias in node.names] if module == "comem" else [module]
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{path}:{node.lineno}: write imports in full, not with dots")
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "comem" and len(parts) > 1:
                yield node.lineno, parts[1]


def faults(tree: ast.AST, path: Path) -> list[str]:
    """What the module imports that it may not."""
    own, found = unit(path), []
    for line, other in imports(tree, path):
        if other.startswith("__version__") or other == own:
            continue
        if other not in RANK:
            found.append(f"{path}:{line}: {other} has no rank")
        elif RANK[other] >= RANK[own]:
            found.append(f"{path}:{line}: {own} (rank {RANK[own]}) imports {other} (rank {RANK[other]})")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_lower_ranks(path: Path) -> None:
    assert unit(path) in RANK, f"{path} has no rank; give it one in {Path(__file__).name}"
    assert faults(ast.parse(path.read_text(encoding="utf-8")), path) == []


def test_a_fault_is_found() -> None:
    """The test above can fail: an upward import, a sideways one, one inside a function."""
    code = "import comem.cli\nfrom comem import runner\ndef f():\n    import comem.retrieval.corpus\n"
    assert len(faults(ast.parse(code), PACKAGE / "backbones" / "hf.py")) == 3
    assert faults(ast.parse("from comem.types import Example"), PACKAGE / "backbones" / "hf.py") == []


def test_relative_imports_are_refused() -> None:
    with pytest.raises(AssertionError, match="in full"):
        faults(ast.parse("from . import x"), PACKAGE / "memory" / "bank.py")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def modules_of(path: Path) -> set[str]:
    """Our modules that a module imports, wherever in it the import stands."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("comem."):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if (ROOT / f"{full.replace('.', '/')}.py").exists() else str(node.module))
    return found - {module_name(path)}


def test_no_circles_not_even_inside_a_package() -> None:
    """Imports inside functions and those for type checkers count, too."""
    TopologicalSorter({module_name(path): modules_of(path) for path in MODULES}).prepare()
