"""Words become settings; the help is made of docstrings."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from comem.cli import COMMANDS, _classes
from comem.command_help import help_text
from comem.command_line import UsageError, _parse_words, options, parse
from comem.config import ConfigError, DryRun, option
from comem.registry import Registry, UnknownNameError

MODES: Registry[int] = Registry("mode", {"rag": 1, "comem": 2})


@dataclass(frozen=True)
class Inner:
    """What lies inside.

    Attributes:
        depth: number of layers.
        scale: "auto", a number, or none.
    """

    depth: int = 8
    scale: float | Literal["auto"] | None = None


@dataclass(frozen=True)
class Settings:
    """A job.

    It may be run again.

    Attributes:
        folders: what to read.
        output: where to write.
        k: items a question.
        mode: how to answer.
        model: who answers.
        elastic: sizes of a memory
            that are to be usable.
        low, high: limits.
        merge: put the parts together.
        titles: write titles.
        inner: the inside.
    """

    folders: tuple[Path, ...] = option((), positional=True, metavar="DIR")
    output: Path = option(Path("out"), metavar="FILE")
    k: int = 3
    batch_size: int = 8
    mode: tuple[str, ...] = option(("rag",), choices=f"{__name__}:MODES")
    model: str = option("toy", also=("--backbone",))
    elastic: tuple[int, ...] = ()
    low: float | None = None
    high: float | None = None
    kind: Literal["cosine", "linear"] = "cosine"
    merge: bool = False
    titles: bool = True
    seen: bool | None = None
    inner: Inner = field(default_factory=Inner)
    extra: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k={self.k}: give 1 or more")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry is found by the name of this module."""
    import sys

    monkeypatch.setitem(
        sys.modules, __name__, sys.modules.get(__name__) or __import__("types").ModuleType(__name__)
    )
    monkeypatch.setattr(sys.modules[__name__], "MODES", MODES, raising=False)


def read(*words: str) -> Settings:
    return parse(Settings, words)[0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", {}),
        ("--batch-size 4", {"batch_size": 4}),
        ("--batch_size 4", {"batch_size": 4}),
        ("--batch-size=4", {"batch_size": 4}),
        ("batch_size=4", {"batch_size": 4}),
        ("batch-size=4", {"batch_size": 4}),
        ("--set batch_size=4 k=2", {"batch_size": 4, "k": 2}),
        ("-k 5", {"k": 5}),
        ("--k 5", {"k": 5}),
        ("-k 5 -k 6", {"k": 6}),
        ("k=5 -k 6", {"k": 6}),
        ("--mode rag comem", {"mode": ("rag", "comem")}),
        ("--mode rag --mode comem", {"mode": ("rag", "comem")}),
        ("mode=[comem]", {"mode": ("comem",)}),
        ("--mode comem k=2", {"mode": ("comem",), "k": 2}),
        ("--elastic 1 2 4", {"elastic": (1, 2, 4)}),
        ("--elastic [1,2,4]", {"elastic": (1, 2, 4)}),
        ("--backbone big", {"model": "big"}),
        ("--model a=b", {"model": "a=b"}),
        ("--merge", {"merge": True}),
        ("--merge k=2", {"merge": True, "k": 2}),
        ("--no-merge", {"merge": False}),
        ("--no-titles", {"titles": False}),
        ("--no-seen", {"seen": False}),
        ("--low -1.5 --high 1e-4", {"low": -1.5, "high": 1e-4}),
        ("high=null", {"high": None}),
        ("--inner.depth 1", {"inner": Inner(1)}),
        ("inner.depth=1 --inner.scale auto", {"inner": Inner(1, "auto")}),
        ("--inner.scale 0.5", {"inner": Inner(8, 0.5)}),
        ("extra.a=1", {"extra": {"a": 1}}),
        ("a b", {"folders": (Path("a"), Path("b"))}),
        ("a -k 2 b", {"folders": (Path("a"), Path("b")), "k": 2}),
        ("k=2 a", {"folders": (Path("a"),), "k": 2}),
        ("runs/lr=1 ./k=2", {"folders": (Path("runs/lr=1"), Path("k=2"))}),
        ("--output x --kind linear", {"output": Path("x"), "kind": "linear"}),
    ],
)
def test_words_become_settings(words: str, expected: dict[str, object]) -> None:
    assert read(*words.split()) == Settings(**expected)  # type: ignore[arg-type]


def test_a_list_as_yaml() -> None:
    assert read("elastic=[1, 2, 4]").elastic == (1, 2, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--batch-siz 4", r"^unknown option --batch-siz; did you mean --batch-size\?$"),
        ("--batch_siz 4", r"^unknown option --batch_siz; did you mean --batch-size\?$"),
        ("--inner.dept=4", r"^unknown option --inner.dept; did you mean --inner.depth\?$"),
        ("--zzzz", r"^unknown option --zzzz; --help lists all of them$"),
        ("batch_siz=4", r"^override 'batch_siz=4': unknown key 'batch_siz'; did you mean batch_size\?$"),
        ("inner.dept=4", r"unknown key 'inner.dept'; did you mean depth\?$"),
        ("--kind cosin", r'^invalid value "cosin" for --kind.*Did you mean "cosine"\?$'),
        ("kind=cosin", r"kind is 'cosin'; allowed: cosine, linear$"),
        ("-k x", r'^invalid value for -k: unable to convert "x" into int'),
        ("-k", r"^parameter -k requires an argument"),
        ("-k 0", r"^k=0: give 1 or more$"),
        ("--mode", r"--mode"),
        ("--merge=maybe", r"--merge: unable to convert"),
        ("--no-batch-size", r"unknown option --no-batch-size; did you mean --batch-size"),
        ("--config none.yaml", r"^none.yaml: no such config file$"),
    ],
)
def test_mistakes_are_answered(words: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(*words.split())


@pytest.mark.parametrize("words", ["--mode rga", "mode=[rga]"])
def test_choices_are_the_rows_of_a_registry(words: str) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown mode 'rga'; did you mean rag\?"):
        read(words) if "=" in words else read(*words.split())


def test_config_files_lie_below_what_is_said(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("k: 5\nbatch_size: 2\ninner: {depth: 2, scale: 1}\n")
    (tmp_path / "own.yaml").write_text("extends: base.yaml\nbatch_size: 3\n")
    config = str(tmp_path / "own.yaml")
    assert read("--config", config, "k=6", "--inner.depth", "4") == Settings(
        k=6, batch_size=3, inner=Inner(4, 1.0)
    )
    assert read("-c", config, "-k", "7").k == 7
    (tmp_path / "own.yaml").write_text("kk: 1\n")
    with pytest.raises(ConfigError, match=r"own.yaml: unknown key 'kk'"):
        read("--config", config)
    (tmp_path / "own.yaml").write_text("k: 0\n")
    with pytest.raises(ConfigError, match=r"own.yaml: k=0: give 1 or more"):
        read("--config", config)


def test_words_are_read_where_pydantic_is_imported() -> None:
    """cyclopts asks it then, and it checks what was not given, too."""
    pytest.importorskip("pydantic")
    assert parse(Needs, ["a", "--output", "x"])[0] == Needs("a", "x")
    assert read("--low", "0.5").low == 0.5


def test_a_recipe_by_name() -> None:
    from comem.training.settings import TrainSettings

    for name in ("paper", "train/paper"):
        settings, _ = parse(TrainSettings, ["--config", name, "seed=5"], "train")
        assert settings.seed == 5 and settings.optim.lr == 5e-5
    with pytest.raises(ConfigError, match=r"papr: no such config file, nor a recipe; did you mean paper"):
        parse(TrainSettings, ["--config", "papr"], "train")


@dataclass(frozen=True)
class Needs:
    """A job that must be told.

    Attributes:
        source: from where.
        output: to where.
    """

    source: str = option(positional=True)
    output: str


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match=r"^missing: SOURCE, --output$"):
        parse(Needs, [])
    with pytest.raises(ConfigError, match=r"^no value for source$"):
        parse(Needs, ["output=x"])
    assert parse(Needs, ["a", "output=x"])[0] == Needs("a", "x")
    with pytest.raises(UsageError, match=r"^'b' is one word too many"):
        parse(Needs, ["a", "b", "--output", "x"])


def test_options_that_are_no_settings() -> None:
    assert parse(Needs, ["a", "--output", "x", "--dry-run"], extra=DryRun) == (Needs("a", "x"), DryRun(True))
    assert parse(Needs, ["a", "--output", "x"], extra=DryRun)[1] == DryRun()


def test_help_is_made_of_docstrings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    shown = help_text("work", "Works.", Settings, DryRun, ("comem work a b",))
    assert shown.startswith(
        "usage: comem work [DIR …] [--option VALUE | key=value …]\n\nWorks.\n\nIt may be run again."
    )
    lines = {" ".join(line.split()) for line in shown.splitlines()}
    for line in (
        "-k, --k N items a question (default: 3)",
        "--elastic N … sizes of a memory that are to be usable.",
        "--low X limits.",
        "--high X limits.",
        "--kind {cosine,linear} (default: cosine)",
        "--model, --backbone VALUE",
        "who answers (default: toy)",
        "--merge put the parts together.",
        "--[no-]titles write titles (default: on)",
        "--dry-run say what would be done, and stop.",
        "inner:",
        "--inner.depth N number of layers (default: 8)",
        "--mode VALUE … how to answer (one of: rag, comem) (default: rag)",
        "examples:",
        "comem work a b",
    ):
        assert line in lines, line
    assert max(map(len, shown.splitlines())) <= 90


def test_every_setting_has_a_name_of_its_own() -> None:
    names = [name for each in options(Settings) for name in each.names]
    assert len(names) == len(set(names)) and "--batch-size" in names and "--extra" not in names


@dataclass(frozen=True)
class Pairs:
    """A job whose arguments are written NAME=FILE.

    Attributes:
        parts: files by name.
        seed: of the drawing.
    """

    parts: tuple[str, ...] = option(positional=True, metavar="NAME=FILE")
    seed: int = 0


def test_arguments_of_the_form_of_an_override() -> None:
    assert parse(Pairs, ["my-part=a.jsonl:3", "b=c", "seed=4"])[0] == Pairs(("my-part=a.jsonl:3", "b=c"), 4)


def test_a_lone_word_is_the_recipe_where_there_are_some(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("depth: 3\n")
    assert parse(Inner, [str(tmp_path / "plan.yaml"), "scale=0.5"], "data")[0] == Inner(3, 0.5)
    with pytest.raises(ConfigError, match="pln: no such config file, nor a recipe"):
        parse(Inner, ["pln"], "data")


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.settings])
def test_names_with_underscores_are_read_in_every_command(name: str) -> None:
    """`--max_steps 5` is `--max-steps 5`; what is only near gets its hint, however it is written."""
    known = [each for cls in _classes(COMMANDS[name]) if cls for each in options(cls)]
    words, keys = list[str](), list[str]()
    for each in known:
        literal = typing.get_origin(each.hint) is typing.Literal
        values = [str(value) for value in typing.get_args(each.hint)] if literal else ["1"]
        if dashed := next((way for way in each.names if "-" in way[2:]), ""):
            words += [dashed] if each.flag else [dashed, values[0]]
            keys.append(each.key)
    given = _parse_words(known, words, False)
    assert list(given) == keys
    underscored = [word if word[:2] != "--" else "--" + word[2:].replace("-", "_") for word in words]
    assert _parse_words(known, underscored, False) == given
    longest = max((way for each in known for way in each.names), key=len)
    with pytest.raises(UsageError, match=f"unknown option .*; did you mean .*{longest[:4]}"):
        _parse_words(known, ["--" + longest[2:].replace("-", "_") + "q", "1"], False)
