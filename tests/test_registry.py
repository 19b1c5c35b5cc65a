"""Registries: near misses, own rows, rows imported late, plug-ins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from comem import registry
from comem.registry import PluginError, Registry, UnknownNameError, load_plugin, load_plugins


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process that has looked nothing up yet."""
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.setattr(registry, "_state", {"begun": False, "done": False})
    monkeypatch.setenv(registry.VARIABLE, "")
    monkeypatch.setattr(registry, "entry_points", lambda group: [])


def colours() -> Registry[int]:
    return Registry("colour", {"red": 1, "green": 2})


def test_a_mapping() -> None:
    rows = colours()
    assert dict(rows) == {"red": 1, "green": 2} and len(rows) == 2
    assert "red" in rows and "blue" not in rows and 3 not in rows and rows.get("blue") is None


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown colour 'gren'; did you mean green or red\?"):
        colours()["gren"]
    with pytest.raises(UnknownNameError, match=r"unknown colour 'xyz'; known: green, red"):
        colours().check("xyz")


def test_register() -> None:
    rows = colours()
    assert rows.register("blue", 3) == 3 and rows["blue"] == 3
    with pytest.raises(ValueError, match=r"there is a colour 'red' already; .*replace=True"):
        rows.register("red", 4)
    assert rows["red"] == 1
    rows.register("red", 4, replace=True)
    assert rows["red"] == 4
    with pytest.raises(ValueError, match="give it a name"):
        rows.register(" ", 4)


def test_register_as_a_decorator() -> None:
    rows: Registry[object] = Registry("mode")

    @rows.register("mine")
    def answer() -> int:
        return 3

    assert rows["mine"] is answer and answer() == 3


def test_rows_are_imported_when_they_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "late_rows.py").write_text("row = [1]\n")
    monkeypatch.syspath_prepend(tmp_path)
    rows: Registry[list[int]] = Registry("row", {"late": "late_rows:row", "wrong": "late_rows:none"})
    assert list(rows) == ["late", "wrong"] and "late" in rows and "late_rows" not in sys.modules
    assert rows["late"] == [1] and rows["late"] is rows["late"]
    with pytest.raises(ImportError, match="late_rows:none"):
        rows["wrong"]


PLUGIN = "import tests_rows\ntests_rows.ROWS.register({name!r}, {value})\n"


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Registry[int]:
    """A registry that plug-ins can import."""
    import types

    module = types.ModuleType("tests_rows")
    module.ROWS = Registry("row")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tests_rows", module)
    return module.ROWS  # type: ignore[attr-defined,no-any-return]


def test_a_plug_in_is_a_file_or_a_module(
    fresh: None, rows: Registry[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_text(PLUGIN.format(name="a", value=1))
    (tmp_path / "b_module.py").write_text(PLUGIN.format(name="b", value=2))
    (tmp_path / "c_module.py").write_text(
        "def add():\n    " + PLUGIN.format(name="c", value=3).replace("\n", "; ")
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for target in ("a.py", tmp_path / "a.py", "b_module", "c_module:add", "b_module"):  # each once
        load_plugin(target)
    assert dict(rows) == {"a": 1, "b": 2, "c": 3}


def test_worker_processes_see_plug_ins(
    fresh: None, rows: Registry[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_text(
        "from comem.cli import COMMANDS, Command\nCOMMANDS.register('mine', Command('x'))\n"
    )
    load_plugin(tmp_path / "a.py")
    code = "from comem.cli import COMMANDS; assert 'mine' in COMMANDS"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
    monkeypatch.setenv(registry.VARIABLE, "")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 1
    from comem.cli import COMMANDS

    COMMANDS._rows.pop("mine")


def test_entry_points(fresh: None, rows: Registry[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that names a module, and one that names a function; loaded at the first look-up."""
    from importlib.metadata import EntryPoint

    found = [
        EntryPoint("one", "tests_rows", registry.GROUP),
        EntryPoint("two", "tests_rows:add", registry.GROUP),
    ]
    sys.modules["tests_rows"].add = lambda: rows.register("entry", 1)  # type: ignore[attr-defined]
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == "comem.plugins" else [])
    assert rows["entry"] == 1 and list(rows) == ["entry"]
    load_plugins()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0\n", r"broken.py: ZeroDivisionError: division by zero"),
        ("import no_such_module\n", r"broken.py: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def (\n", r"broken.py: SyntaxError"),
    ],
)
def test_a_broken_plug_in_is_named(fresh: None, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "broken.py").write_text(text)
    for _ in range(2):  # it does not count as loaded
        with pytest.raises(PluginError, match=message):
            load_plugin(tmp_path / "broken.py")


def test_a_plug_in_that_is_not_there(fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PluginError, match=r"none.py: no such file"):
        load_plugin(tmp_path / "none.py")
    with pytest.raises(PluginError, match=r"plug-in no_such_module: no such module"):
        load_plugin("no_such_module")
    monkeypatch.setenv(registry.VARIABLE, str(tmp_path / "none.py"))
    monkeypatch.setattr(registry, "_state", {"begun": False, "done": False})
    for _ in range(2):  # no look-up goes on without it
        with pytest.raises(PluginError, match=r"none.py: no such file"):
            colours()["red"]
