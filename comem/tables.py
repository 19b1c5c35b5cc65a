"""Tables of rows (benchmarks, modes, backbones, retrievers), looked up by name with helpful errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class UnknownNameError(ValueError):
    """A name that is in no row; the message offers the nearest ones."""


def nearest(name: str, known: list[str]) -> str:
    """A sentence naming the nearest of the `known` names, or all of them when none is near."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(sorted(known))}"


class Table(Mapping[str, T], Generic[T]):
    """A read-only mapping from name to row.

    Args:
        kind: what a row is, for error messages ("benchmark", "mode", …).
        rows: the rows by name.
    """

    def __init__(self, kind: str, rows: Mapping[str, T]) -> None:
        self.kind = kind
        self._rows = dict(rows)

    def __getitem__(self, name: str) -> T:
        if name not in self._rows:
            raise UnknownNameError(f"unknown {self.kind} {name!r}; {nearest(name, list(self._rows))}")
        return self._rows[name]

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
