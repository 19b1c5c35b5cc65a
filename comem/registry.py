"""Registries: rows looked up by name, open to rows from outside the package.

Three ways in: a call (`MODES.register("mine", row)`), an entry point of the group `comem.plugins`, and a file
or module named by `--plugin` or `load_plugin`. What is loaded by name is noted in the environment variable
COMEM_PLUGINS, so that worker processes load it, too, when they first look something up.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar, cast, overload

T = TypeVar("T")

GROUP = "comem.plugins"
VARIABLE = "COMEM_PLUGINS"


class UnknownNameError(ValueError, KeyError):
    """A name that is in no row; the message offers the nearest ones."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # a KeyError would quote it


class PluginError(ValueError):
    """A plug-in that cannot be found or fails while it is loaded; the message names it."""


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """A sentence naming the nearest of the `known` names (`most` of them), or all when none is near."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=most, cutoff=0.5)
    if close:
        likeness = [difflib.SequenceMatcher(None, each, name).ratio() for each in close]
        close = [each for each, like in zip(close, likeness, strict=True) if like > likeness[0] - 0.4]
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(sorted(names))}"


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from name to row that can be added to.

    A row may be given as "module:attribute": it is imported when it is first looked up, so that listing
    names costs nothing.

    Args:
        kind: what a row is, for error messages ("benchmark", "mode", …).
        rows: the first rows by name.

    Example:
        >>> COLOURS: Registry[int] = Registry("colour", {"red": 1})
        >>> COLOURS.register("green", 2)
        2
        >>> sorted(COLOURS)
        ['green', 'red']
    """

    def __init__(self, kind: str, rows: Mapping[str, T | str] | None = None) -> None:
        self.kind = kind
        self._rows: dict[str, T | str] = dict(rows or {})

    @overload
    def register(self, name: str, row: T | str, *, replace: bool = ...) -> T | str: ...

    @overload
    def register(self, name: str, row: None = ..., *, replace: bool = ...) -> Callable[[T], T]: ...

    def register(self, name: str, row: T | str | None = None, *, replace: bool = False) -> Any:
        """Add a row; without one, a decorator that adds what it stands above.

        Args:
            name: how it is looked up.
            row: the row, or "module:attribute".
            replace: let it take the place of a row of the same name.

        Returns:
            The row as given, or the decorator.

        Raises:
            ValueError: the name is taken, or is no text.
        """
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"a {self.kind} is registered under {name!r}; give it a name")
        if name in self._rows and not replace:
            raise ValueError(
                f"there is a {self.kind} {name!r} already; choose another name, or pass replace=True"
            )
        if row is None:
            return lambda given: self.register(name, given, replace=replace)
        self._rows[name] = row
        return row

    def check(self, name: str) -> str:
        """The name, if there is such a row; nothing is imported for it.

        Raises:
            UnknownNameError: there is none; the nearest ones are offered.
        """
        if name not in self:
            raise UnknownNameError(f"unknown {self.kind} {name!r:.80}; {nearest(str(name)[:80], self._rows)}")
        return name

    def __getitem__(self, name: str) -> T:
        row = self._rows[self.check(name)]
        if isinstance(row, str):
            row = self._rows[name] = cast(T, locate(row))
        return row

    def __contains__(self, name: object) -> bool:
        load_plugins()
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        load_plugins()
        return iter(self._rows)

    def __len__(self) -> int:
        load_plugins()
        return len(self._rows)


def locate(place: str) -> Any:
    """What "module:attribute" names.

    Raises:
        ValueError: it has no colon.
        ImportError: there is no such module, or it has no such attribute.
    """
    module, colon, attribute = place.partition(":")
    if not colon:
        raise ValueError(f"{place!r} names nothing to import; write it as module:attribute")
    try:
        return getattr(importlib.import_module(module), attribute)
    except AttributeError as error:
        raise ImportError(f"{place}: {error}") from error


_loaded: dict[str, object] = {}
_lock = threading.RLock()
_state = {"begun": False, "done": False}


def load_plugins() -> None:
    """Load the entry points and what COMEM_PLUGINS names; once that has succeeded, does nothing.

    Raises:
        PluginError: one of them fails.
    """
    if _state["done"]:
        return
    with _lock:  # another thread waits; this one may come again: plug-ins look rows up, too
        if _state["begun"]:
            return
        _state["begun"] = True
        try:
            for point in entry_points(group=GROUP):
                _load_once(
                    f"entry point {point.name}", f"{point.value} (entry point {point.name})", point.load
                )
            for target in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
                load_plugin(target)
            _state["done"] = True
        finally:
            _state["begun"] = _state["done"]


def load_plugin(target: str | Path) -> None:
    """Load a plug-in, once: a file `mine.py`, a module `package.mine`, or `package.mine:function` to call.

    It registers its rows then. Processes started from here on load it, too.

    Raises:
        PluginError: there is no such file or module, or it fails; names it and what went wrong.
    """
    text = str(target)
    is_file = text.endswith(".py") or os.sep in text
    key = str(Path(text).resolve()) if is_file else text
    load_plugins()  # those that came first may be built upon
    _load_once(key, text, lambda: _import_file(Path(key)) if is_file else _import_module(text))
    _export(key)


def _load_once(key: str, name: str, load: Callable[[], object]) -> None:
    """Load a plug-in, and call it if it is a function; whatever that raises becomes one clear line."""
    with _lock:
        if key in _loaded:
            return
        try:
            found = load()
            _loaded[key] = found if isinstance(found, ModuleType) or not callable(found) else found()
        except PluginError:
            raise
        except Exception as error:
            raise PluginError(f"plug-in {name}: {type(error).__name__}: {error}") from error


def _import_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise PluginError(f"plug-in {file}: no such file")
    # A name of its own: plug-ins of one file name must not meet, nor hide a module that is installed.
    name = f"comem_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"plug-in {file}: not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str) -> object:
    module = name.partition(":")[0]
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        raise PluginError(f"plug-in {name}: no such module; a file is named with its .py")
    return locate(name) if ":" in name else importlib.import_module(module)


def _export(key: str) -> None:
    """Note a plug-in where the processes started from here look."""
    noted = [each for each in os.environ.get(VARIABLE, "").split(os.pathsep) if each]
    if key not in noted:
        os.environ[VARIABLE] = os.pathsep.join([*noted, key])
