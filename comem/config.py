"""Configuration: a dataclass, filled from a YAML file and from `key.sub=value` overrides."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from comem.io.files import short, write_atomic
from comem.io.run_folder import without_secrets
from comem.registry import nearest

C = TypeVar("C")
EXTENDS = "extends"


class ConfigError(ValueError):
    """A setting that does not exist or has the wrong type; the message says where it stands."""


@dataclasses.dataclass(frozen=True)
class DryRun:
    """For commands that can say what they would do.

    Attributes:
        dry_run: say what would be done, and stop.
    """

    dry_run: bool = False


def option(
    default: Any = dataclasses.MISSING,
    *,
    factory: Any = dataclasses.MISSING,
    positional: bool = False,
    also: Sequence[str] = (),
    metavar: str = "",
    group: str = "",
    choices: str = "",
) -> Any:
    """A dataclass field with what the command line is to know beyond its name, type and docstring.

    Args:
        default: as of `dataclasses.field`; a field without it and without `factory` is required.
        factory: makes the default, as `default_factory` of `dataclasses.field`.
        positional: given by its place instead of by its name.
        also: more names, "-b" or "--backbone".
        metavar: what stands for the value in the help.
        group: the heading under which the help lists it.
        choices: a registry as "module:attribute"; the value, or each of several, is the name of a row.
    """
    notes: dict[str, object] = {"positional": positional, "also": tuple(also), "metavar": metavar}
    notes |= {"group": group, "choices": choices}
    if factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=factory, metadata=notes)
    return dataclasses.field(default=default, metadata=notes)


def as_path(value: str | Path) -> Path:
    """A path that a user gave; no shell sees `--output=~/x` or a YAML file's `~/x` as a home."""
    return Path(os.path.expanduser(value))


def take_paths(settings: Any) -> None:
    """Let text stand for paths in Python, too: call it in a settings class's `__post_init__`."""
    for each in dataclasses.fields(settings):
        value = getattr(settings, each.name)
        if "Path" in str(each.type) and isinstance(value, str | list | tuple):
            path = as_path(value) if isinstance(value, str) else tuple(map(as_path, value))
            object.__setattr__(settings, each.name, path)


def load_config(
    cls: type[C],
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    given: Mapping[str, Any] | None = None,
) -> C:
    """A `cls` from its defaults, then the YAML file, then the overrides, then what was given.

    Args:
        cls: a dataclass; fields may be dataclasses again.
        path: a YAML file with a mapping, or None. Its key `extends` names another such file, relative to it,
            whose values hold where this one has none.
        overrides: `key=value` with dots for nested fields; the value is read as YAML.
        given: values by dotted key that hold over all others.

    Raises:
        ConfigError: an unknown key (the nearest known ones are offered), a value of the wrong type, a
            required field without a value, or a file that is not a YAML mapping.
    """
    values: dict[str, Any] = read_yaml(path) if path is not None else {}
    source = str(path) if path is not None else ""
    _build(cls, values, source, "", partial=True)  # so that a message names the file, not the override
    for override in overrides:
        _apply(cls, values, override)
    for key, value in (given or {}).items():
        _put(values, key.split("."), value)
    changed = " and the overrides" if path is not None and (overrides or given) else ""
    return _build(cls, values, f"{source}{changed}", "")


def from_values(cls: type[C], values: Any, source: str) -> C:
    """A `cls` from plain values, checked as those of a file.

    Args:
        cls: a dataclass.
        values: a mapping.
        source: where they stand, for messages.

    Raises:
        ConfigError: as `load_config`.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source} is {short(repr(values))}; expected `key: value` entries")
    return _build(cls, values, source, "")


def save_config(config: Any, path: str | Path) -> None:
    """Write the resolved config as YAML that `load_config` reads back, atomically."""
    write_atomic(path, yaml.safe_dump(as_dict(config), sort_keys=False, allow_unicode=True))


def as_dict(config: Any) -> dict[str, Any]:
    """A config as nested plain values (dicts, lists, text, numbers), for YAML and JSON.

    Names, passwords and keys in addresses are left out: what this gives is written to files.
    """
    return {name: _plain(value) for name, value in dataclasses.asdict(config).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return without_secrets(str(value)) if isinstance(value, str | Path) else value


def read_yaml(path: str | Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's mapping, over that of the file which it extends; empty for an empty file.

    Args:
        path: the file.
        seen: the files that led here.

    Raises:
        ConfigError: no file, no YAML, no mapping, or files that extend each other.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    except (ValueError, RecursionError) as error:  # a date of month 13, a number of thousands of digits
        raise ConfigError(f"{path}: a value that cannot be read: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found {type(values).__name__}")
    return _extended(values, Path(path), seen) if EXTENDS in values else values


def _extended(values: dict[str, Any], path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The file's values over those of the file that it extends."""
    name, here = values.pop(EXTENDS), path.resolve()
    if not isinstance(name, str):
        raise ConfigError(
            f"{path}: {EXTENDS} is {short(repr(name))}; expected the name of another config file"
        )
    if here in seen:
        raise ConfigError(f"{path}: {EXTENDS} comes back to this file; remove it in one of them")
    return _merged(read_yaml(path.parent / name, (*seen, here)), values)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        inner = result.get(key)
        both = isinstance(value, Mapping) and isinstance(inner, Mapping)
        result[key] = _merged(inner, value) if both else value  # type: ignore[arg-type]
    return result


def _apply(cls: type, values: dict[str, Any], override: str) -> None:
    """Put one `key.sub=value` into the nested values."""
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"override {override!r}: write it as key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not YAML: {error}") from error
    names = key.strip().split(".")
    check: dict[str, Any] = {}
    _put(check, names, value)
    _build(cls, check, f"override {override!r}", "", partial=True)
    _put(values, names, value)


def _put(values: dict[str, Any], names: Sequence[str], value: Any) -> None:
    """Set one nested value."""
    *parents, last = names
    for name in parents:
        inner = values.get(name)
        values[name] = values = dict(inner) if isinstance(inner, Mapping) else {}
    values[last] = value


def _build(cls: type[C], values: Mapping[str, Any], source: str, prefix: str, partial: bool = False) -> C:
    """Check the values against the fields and make the dataclass (`partial`: only check)."""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for name in values:
        if name not in fields:
            hint = nearest(str(name), list(fields))
            raise _error(source, f"unknown key {prefix + str(name)!r}; {hint}")
    checked = {
        name: _convert(value, hints[name], source, prefix + name, partial) for name, value in values.items()
    }
    if partial:
        return typing.cast(C, None)
    missing = [name for name, field in fields.items() if name not in checked and _required(field)]
    if missing:
        raise _error(source, f"no value for {', '.join(prefix + name for name in missing)}")
    try:
        return cls(**checked)
    except ValueError as error:  # the dataclass's own checks
        raise _error(source, f"{error}") from error


def _error(source: str, text: str) -> ConfigError:
    """The error, with where the value stands if that is a file or an override."""
    return ConfigError(f"{source}: {text}" if source else text)


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(  # noqa: C901, PLR0911 (a branch a type)
    value: Any, hint: Any, source: str, key: str, partial: bool
) -> Any:
    """The value as the field's type, or a ConfigError."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if isinstance(value, Mapping):
            return _build(hint, value, source, f"{key}.", partial)
    elif origin is Literal:
        if value in inner:
            return value
        raise _error(source, f"{key} is {short(repr(value))}; allowed: {', '.join(map(str, inner))}")
    elif origin in (Union, types.UnionType):
        return _convert_union(value, inner, source, key, partial)
    elif origin in (list, tuple, Sequence) or hint in (list, tuple):
        if isinstance(value, (list, tuple)):
            return _convert_items(value, origin or hint, inner, source, key, partial)
    elif origin in (dict, Mapping) or hint is dict:
        if isinstance(value, Mapping):
            return dict(value)
    elif _fits(value, hint):
        return as_path(value) if hint is Path else hint(value) if hint is float else value
    raise _error(source, f"{key} is {short(repr(value))}; expected {_name(hint)}")


def _convert_union(value: Any, options: tuple[Any, ...], source: str, key: str, partial: bool) -> Any:
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if len(options) == 1:  # `X | None`: X's own message is the better one
        return _convert(value, options[0], source, key, partial)
    for option in options:
        try:
            return _convert(value, option, source, key, partial)
        except ConfigError:
            continue
    raise _error(source, f"{key} is {short(repr(value))}; expected {' or '.join(map(_name, options))}")


def _convert_items(
    value: Sequence[Any], kind: Any, inner: tuple[Any, ...], source: str, key: str, partial: bool
) -> list[Any] | tuple[Any, ...]:
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        if len(value) != len(inner):
            raise _error(source, f"{key} has {len(value)} values; expected {len(inner)}")
        hints = list(inner)
    else:
        hints = [inner[0] if inner else Any] * len(value)
    items = [
        _convert(item, hint, source, f"{key}[{i}]", partial)
        for i, (item, hint) in enumerate(zip(value, hints, strict=True))
    ]
    return items if kind is list else tuple(items)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a YAML value may stand for a simple type; `true` is no number, and 1e-4 is text in YAML 1.1."""
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return _is_number(value)
    if hint in (str, Path):
        return isinstance(value, (str, Path))
    return isinstance(hint, type) and isinstance(value, hint)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint))
