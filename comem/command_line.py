"""From words on the command line to a settings dataclass.

Parsing is cyclopts's (`--batch-size 4`, `--batch_size=4`, lists, flags, short names): of the three that were
tried it alone raises its errors instead of printing a box and leaving (tyro), and takes dashes and lists as
`--mode rag comem` (jsonargparse does neither). Importing it takes 0.07 to 0.11 s (tyro 0.07, jsonargparse
0.10), and only where a command's words are parsed: `comem --help` does without.

Values come from, the later ones over the earlier: the defaults, `--config FILE`, `key=value`, `--key value`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union

from comem.config import load_config
from comem.recipes import find_recipe
from comem.registry import Registry, locate, nearest

if TYPE_CHECKING:
    from docstring_parser import Docstring

S = TypeVar("S")
E = TypeVar("E")

_OVERRIDE = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*=")
_CONFIG = "comem_config"
LISTS = (list, tuple)
MAPPINGS = (dict, Mapping, typing.get_origin(Mapping[str, int]))


class UsageError(ValueError):
    """Words that make no command; the message says which, and what was meant perhaps."""


@dataclass(frozen=True)
class Option:
    """A setting as the command line knows it.

    Attributes:
        key: its place in the settings, with dots for nested ones.
        hint: its type.
        default: its default, `dataclasses.MISSING` if it must be given.
        help: what its docstring says.
        also: more names.
        positional: whether it is given by its place.
        metavar: what stands for the value.
        group: the heading in the help.
        choices: the registry of its values, as "module:attribute".
    """

    key: str
    hint: Any
    default: Any
    help: str
    also: tuple[str, ...] = ()
    positional: bool = False
    metavar: str = ""
    group: str = ""
    choices: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name: `--batch-size`; the one-letter key k is -k, too."""
        letter = (f"-{self.key}",) if len(self.key) == 1 else ()
        return (*letter, f"--{self.key.replace('_', '-')}", *self.also)

    @property
    def label(self) -> str:
        """How messages call it."""
        return self.placeholder if self.positional else self.names[-1 if len(self.key) == 1 else 0]

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is dataclasses.MISSING

    @property
    def flag(self) -> bool:
        """Whether it takes no value."""
        return _plain(self.hint) is bool

    @property
    def several(self) -> bool:
        """Whether it takes any number of values."""
        return typing.get_origin(_plain(self.hint)) in LISTS

    @property
    def takes_pairs(self) -> bool:
        """Whether its values are written NAME=VALUE, as its metavar says; NAME is then no setting."""
        return self.positional and "=" in self.metavar

    @property
    def placeholder(self) -> str:
        """What stands for the value: {a,b} for choices, else the metavar, else after the type."""
        hint = _plain(self.hint)
        if typing.get_origin(hint) is Literal and not self.metavar:
            return "{" + ",".join(map(str, typing.get_args(hint))) + "}"
        inner = (typing.get_args(hint) or (hint,))[0] if self.several else hint
        kinds = {int: "N", float: "X", Path: "PATH"}
        return self.metavar or (self.key.upper() if self.positional else kinds.get(inner, "VALUE"))


def options(cls: type, prefix: str = "") -> tuple[Option, ...]:
    """The settings of a dataclass, nested ones with dots, in the order of its fields.

    A mapping has no option, nor has a nested dataclass that may be None: `key.sub=value` and config files
    set them.
    """
    hints, docs = typing.get_type_hints(cls), _documented(cls)
    found: list[Option] = []
    for field in dataclasses.fields(cls):
        key, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            found += options(typing.cast(type, hint), f"{key}.")
        elif not dataclasses.is_dataclass(plain := _plain(hint)) and typing.get_origin(plain) not in MAPPINGS:
            notes = dict(field.metadata)
            if prefix:
                notes["group"] = notes.get("group") or prefix.rstrip(".")
            found.append(Option(key, hint, _default(field), docs.get(field.name, ""), **notes))
    return tuple(found)


def parse(
    cls: type[S], words: Sequence[str], recipes: str = "", extra: type[E] | None = None
) -> tuple[S, E | None]:
    """The settings that the words give, and what they say of `extra`.

    Args:
        cls: a frozen dataclass.
        words: what stands behind the command's name.
        recipes: the folder of its recipes.
        extra: a dataclass of options that are no settings (`--dry-run`): no config file sets them.

    Raises:
        UsageError: an unknown option, or one without a value or with a wrong one.
        ValueError: settings that do not fit, from whatever source.
    """
    known = options(cls)
    everything = known + (options(extra) if extra else ())
    rest, overrides = _split(words, everything)
    alone = bool(recipes) and not any(option.positional for option in everything)
    given = _parse_words(everything, rest, alone)
    config = given.pop(_CONFIG, None)
    path = find_recipe(config, recipes) if config is not None else None
    mine = {each.key: given.pop(each.key) for each in known if each.key in given}
    if path is None and not overrides:
        _require(known, mine)
    settings = load_config(cls, path, overrides, mine)
    for each in known:
        _check_choice(each, settings)
    return settings, load_config(extra, given=given) if extra else None


def _split(words: Sequence[str], known: Sequence[Option]) -> tuple[list[str], list[str]]:
    """The words without `key=value`, and these; a word that an option before it takes as its value stays.

    So does one whose key is no setting, where such words are the command's own (`comem data mix a=FILE`).
    `--set` before them is what `comem index build` wanted in 0.1.
    """
    by_name = {name: option for option in known for name in option.names}
    rest: list[str] = []
    overrides: list[str] = []
    settings = {option.key.partition(".")[0] for option in known}
    pairs = any(option.takes_pairs for option in known)
    wanted = listed = False  # whether a value is to come, or one of several pairs (`--columns a=b c=d`)
    for place, word in enumerate(words):
        if word == "--":
            return rest + list(words[place:]), overrides
        if word == "--set":
            continue
        if listed and not word.startswith("-"):
            rest.append(word)
            continue
        if not wanted and _OVERRIDE.match(word):
            override = _dashless(word)
            mine = not pairs or override.partition("=")[0].partition(".")[0] in settings
            (overrides if mine else rest).append(override if mine else word)
            continue
        option = by_name.get(_dashed(word))
        listed = option is not None and option.several and "=" in option.metavar
        wanted = word.startswith("-") and "=" not in word and not (option is not None and option.flag)
        rest.append(word)
    return rest, overrides


def _dashed(word: str) -> str:
    return word if not word.startswith("--") else "--" + word[2:].replace("_", "-")


def _dashless(override: str) -> str:
    key, _, value = override.partition("=")
    return f"{key.replace('-', '_')}={value}"


def _parse_words(known: Sequence[Option], words: Sequence[str], alone: bool) -> dict[str, Any]:
    """What the words give, by key.

    Args:
        known: the options.
        words: without overrides.
        alone: a word that no option takes is the config file or recipe (`comem data build PLAN`).
    """
    from cyclopts import App, CycloptsError, Parameter
    from cyclopts.exceptions import UnknownOptionError, UnusedCliTokensError

    config = Option(_CONFIG, str, None, "", also=("--config", "-c"), positional=alone)
    taken = {name for option in known for name in option.names}
    names = {option.key: option.names for option in known}
    names[_CONFIG] = tuple(name for name in config.also if name not in taken)
    parameters = []
    for option in sorted([*known, config], key=lambda option: not option.positional):
        told = Parameter(
            name=names[option.key],
            negative=() if not option.flag else None,
            consume_multiple=(1, None) if option.several and not option.positional else None,
            allow_repeating=None if option.several else True,  # the last one holds
            negative_none=(),
            negative_iterable=(),
        )
        kind = (
            inspect.Parameter.POSITIONAL_OR_KEYWORD if option.positional else inspect.Parameter.KEYWORD_ONLY
        )
        # None is the default, which pydantic checks once anything has imported it
        hint: Any = Annotated[Union[option.hint, None], told]  # noqa: UP007
        parameters.append(
            inspect.Parameter(option.key.replace(".", "__"), kind, default=None, annotation=hint)
        )

    def command(**_: Any) -> None: ...

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app = App(help_flags=(), version_flags=())
    app.default(command)
    try:
        bound = app.parse_args(list(words), exit_on_error=False, print_error=False)[1]
    except UnknownOptionError as error:
        word = (error.token.keyword or error.token.value).partition("=")[0]
        listed = [name for every in names.values() for name in every if name.startswith("--")]
        raise UsageError(f"unknown option {word}; {_meant(word, listed)}") from error
    except UnusedCliTokensError as error:
        word = (error.unused_tokens or [""])[0]
        raise UsageError(f"{word!r} is one word too many; {_meant_word(word, known)}") from error
    except CycloptsError as error:
        text = str(error)
        raise UsageError(text[:1].lower() + text[1:]) from error
    return {
        option.key: bound.arguments[name]
        for option in [*known, config]
        if (name := option.key.replace(".", "__")) in bound.arguments
    }


def _meant(word: str, names: Sequence[str]) -> str:
    """The near miss; where nothing is near, how to see all options."""
    told = nearest(_dashed(word), names, most=1)
    return told if told.startswith("did you mean") else "--help lists all of them"


def _meant_word(word: str, known: Sequence[Option]) -> str:
    told = nearest(word.replace("-", "_"), [option.key for option in known], most=1)
    hint = told if told.startswith("did you mean") else ""
    return f"{hint} settings are given as --name VALUE or name=VALUE".strip()


def _require(known: Sequence[Option], given: Mapping[str, Any]) -> None:
    missing = [option.label for option in known if option.required and option.key not in given]
    if missing:
        raise UsageError(f"missing: {', '.join(missing)}")


def _check_choice(option: Option, settings: Any) -> None:
    """A name that is in no row is answered before the work begins."""
    if not option.choices:
        return
    value = functools.reduce(getattr, option.key.split("."), settings)
    registry: Registry[Any] = locate(option.choices)
    for name in value if isinstance(value, LISTS) else (value,):
        if name not in (None, ""):
            registry.check(name)


def _plain(hint: Any) -> Any:
    """The type without `| None`."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        rest = [each for each in typing.get_args(hint) if each is not type(None)]
        return rest[0] if len(rest) == 1 else hint
    return hint


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _documented(cls: type) -> dict[str, str]:
    """What the docstrings of a dataclass, and of those below it, say about each field."""
    said: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        for entry in docstring(each).params:
            for name in entry.arg_name.split(","):
                said[name.strip()] = " ".join((entry.description or "").split())
    return said


def docstring(cls: type) -> Docstring:
    """A class's own docstring, taken apart."""
    from docstring_parser import DocstringStyle, parse

    return parse(cls.__doc__ or "", DocstringStyle.GOOGLE)
