"""What README and the other pages show is so: the example runs from their text, commands and links exist."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from comem import command_line
from comem.cli import COMMANDS, _command, _common
from comem.command_help import COMMON
from comem.registry import locate

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("patch/*.md")])
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(text: str, kind: str) -> list[str]:
    return [body for language, body in FENCE.findall(text) if language == kind]


def commands(text: str, inline: bool = True) -> Iterator[list[str]]:
    """The words of every shell line in a page: blocks without a language or with a shell's, and `code`."""
    plain = "\n".join(body for kind in ("", "bash", "sh") for body in blocks(text, kind))
    lines = plain.replace("\\\n", " ").splitlines()
    if inline:
        lines += re.findall(r"`((?:\w+=\S* )*(?:comem|bash|python) [^`\n]+)`", FENCE.sub("", text))
    for line in lines:
        with contextlib.suppress(ValueError):  # an apostrophe in a comment
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"\w+=\S*", words[0]):  # OMP_NUM_THREADS=2 python …
                words = words[1:]
            if words and words[0] in ("comem", "bash", "python"):
                yield words


def test_the_opening_example_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # it makes a folder
    source = blocks(README, "python")[0]
    assert README.index(source) < 1000, "the README opens with it"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(source, "README.md", "exec"), {"__name__": "readme"})
    promised = re.search(r"^print.*#(.*)$", source, re.MULTILINE)
    assert promised and said.getvalue().splitlines()[-1].strip() == promised[1].strip()


def test_the_opening_example_is_about_ten_lines() -> None:
    lines = [line for line in blocks(README, "python")[0].splitlines() if line.strip()]
    assert len([line for line in lines if not line.startswith(("from ", "import "))]) <= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    """Scripts are there; sub-commands are known; options are those of their parser."""
    for words in commands(page.read_text(encoding="utf-8")):
        if words[0] in ("bash", "python"):
            script = next((word for word in words[1:] if not word.startswith("-")), "")
            if words[1].startswith("-") or "{" in script or "…" in script or "*" in script:
                continue
            assert (ROOT / script).is_file(), f"{page.name}: {shlex.join(words)}"
        elif len(words) > 1 and words[1].islower() and words[1].isalpha():
            assert words[1] in COMMANDS, f"{page.name}: {shlex.join(words)}"
            known = options(words[1], words[2] if len(words) > 2 else "")
            for word in words[2:]:
                if re.match(r"--?[a-z]", word):
                    assert word.split("=")[0] in known, f"{page.name}: {shlex.join(words)}: {word}"


def placeholder(word: str) -> bool:
    """DIR, …, SOURCES: a word that stands for another."""
    return "…" in word or (word.isupper() and word.isalpha())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_parse(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in a block is a whole command: nothing is missing, and its values are of the right kind."""
    monkeypatch.chdir(ROOT)  # recipes may be given by their path
    for words in commands(page.read_text(encoding="utf-8"), inline=False):
        if words[0] != "comem" or "--plugin" in words or any(map(placeholder, words)):
            continue
        rest, _ = _common(words[1:])
        name, rest = _command(rest)
        assert name is not None, shlex.join(words)
        row = COMMANDS[name]
        assert row.settings or not rest, f"{page.name}: {shlex.join(words)}: a group of commands"
        try:
            if row.settings:
                extra = locate(row.extra) if row.extra else None
                command_line.parse(locate(row.settings), rest, row.recipes, extra)
        except ValueError as error:
            raise AssertionError(f"{page.name}: {shlex.join(words)}: {error}") from error


def options(command: str, action: str) -> set[str]:
    """The options of a sub-command, and of its own sub-command if `action` names one."""
    row = COMMANDS.get(f"{command} {action}") or COMMANDS[command]
    shared = {name for names, _ in COMMON for name in re.findall(r"--?[a-z]+", names)}
    if row.settings:
        classes = [locate(place) for place in (row.settings, row.extra) if place]
        found = {name for cls in classes for option in command_line.options(cls) for name in option.names}
        return found | shared | {f"--no-{name[2:]}" for name in found}
    assert not action.isalpha(), f"comem {command} {action}: no such job"
    return shared


def test_the_table_of_commands_is_complete() -> None:
    listed = set(re.findall(r"`comem (\w+)", README))
    assert {name for name in COMMANDS if " " not in name} - {"quickstart"} <= listed
