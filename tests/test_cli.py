"""The comem command: quick, helpful, and clear about errors."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from comem import cli
from comem.cli import COMMANDS, Command, main
from comem.tables import Table


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A sub-command `do` whose work each test sets as `fake.run`."""
    module = types.ModuleType("fake_commands")
    module.add_arguments = lambda parser: parser.add_argument("--what")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_commands", module)
    monkeypatch.setattr(cli, "COMMANDS", Table("sub-command", {"do": Command("fake_commands", "does it")}))
    return module


def run(fake: types.ModuleType, error: BaseException | int, *words: str) -> int:
    def work(args: object) -> int:
        if isinstance(error, BaseException):
            raise error
        return error

    fake.run = work  # type: ignore[attr-defined]
    return main(["do", *words])


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_sub_command_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    usage, _, examples = capsys.readouterr().out.partition("examples:\n")
    assert f"comem {name}" in usage and f"  comem {name}" in examples


def test_help_lists_every_sub_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(f" {name}" in shown for name in COMMANDS)


def test_without_arguments_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "sub-commands" in capsys.readouterr().out


def test_help_and_evaluate_import_no_torch() -> None:
    code = (
        "import sys; from comem.cli import build_parser\n"
        "for name in (None, 'evaluate', 'parity', 'predict', 'encode', 'index', 'quickstart'):\n"
        "    build_parser(name)\n"
        "heavy = {'torch', 'transformers', 'faiss', 'matplotlib', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_sub_command_offers_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evalute"]) == 2
    assert "did you mean evaluate?" in capsys.readouterr().err


def test_exit_code_is_passed_on(fake: types.ModuleType) -> None:
    assert run(fake, 0) == 0
    assert run(fake, 3) == 3


@pytest.mark.parametrize(
    "error", [ValueError("k is 0:\n  give 1 [or] more"), OSError("k is 0: give 1 [or] more")]
)
def test_error_is_one_line(
    fake: types.ModuleType, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fake, error) == 2
    assert capsys.readouterr().err == "comem: error: k is 0: give 1 [or] more\n"


def test_debug_shows_where(fake: types.ModuleType) -> None:
    with pytest.raises(ValueError, match="wrong"):
        run(fake, ValueError("wrong"), "--debug")


def test_a_bug_is_not_dressed_up(fake: types.ModuleType) -> None:
    with pytest.raises(KeyError):
        run(fake, KeyError("oops"))


def test_ctrl_c(fake: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(fake, KeyboardInterrupt()) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_a_wrong_folder_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["parity", str(tmp_path)]) == 2
    assert f"{tmp_path}: no case_" in capsys.readouterr().err
