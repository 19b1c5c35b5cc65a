"""Finding: exact cosines over all vectors in RAM, and the words of the texts, kept in step with the table."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from comem.io.files import valid
from comem.store.table import SCOPES, Changes, MemoryFolderError, Scope, Table, count_words

_K1, _B = 1.2, 0.75  # BM25's usual constants (Robertson and Zaragoza 2009)
_COMMON = 10_000  # a word of more items than this, and of a tenth of them, tells nothing and costs time
_COMPARE = {"eq": "=", "ne": "IS NOT", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


@dataclass(frozen=True)
class Query:
    """What is looked for.

    Attributes:
        image: float32 `(d,)` of unit length, or None.
        text: float32 `(d,)` of unit length, or None.
        words: of the text.
        weight: the image's share where both are given.
    """

    image: np.ndarray | None = None
    text: np.ndarray | None = None
    words: tuple[str, ...] = ()
    weight: float = 0.5


class Index:
    """The vectors of a table in RAM, brought up to date before each search.

    Exact, because at 100,000 items that takes milliseconds and because an item is then found from the moment
    it is added until the moment it is deleted; graphs and lists of an approximate index promise neither.

    Args:
        table: the items.
    """

    def __init__(self, table: Table) -> None:
        self._table, self._lock = table, threading.RLock()
        self._clear()

    def _clear(self) -> None:
        self._revision, self._count = 0, 0
        self._numbers = np.zeros(0, np.int64)  # (c,), c the capacity
        self._lengths = np.zeros(0, np.int64)  # (c,)
        self._vectors: dict[str, np.ndarray] = {}  # image, text: float32 (c, d), NaN where an item has none
        self._place: dict[int, int] = {}

    def refresh(self) -> None:
        """Take over what was added, changed or deleted since the last time, by whatever process."""
        with self._lock:
            changes = self._table.changes(self._revision)
            if changes is not None:
                self._take(changes)

    def close(self) -> None:
        """Let go of what is open."""

    def _take(self, changes: Changes) -> None:
        for number in (*changes.gone, *changes.numbers.tolist()):
            self._remove(number)
        self._append(changes)
        self._revision = changes.revision

    def _remove(self, number: int) -> None:
        """The last row takes the place of the one that goes."""
        at = self._place.pop(number, None)
        if at is None:
            return
        last = self._count = self._count - 1
        if at != last:
            self._numbers[at], self._lengths[at] = self._numbers[last], self._lengths[last]
            self._place[int(self._numbers[at])] = at
        for rows in self._vectors.values():
            rows[at] = rows[last]
            rows[last] = np.nan  # what was deleted is not kept in RAM either

    def _append(self, changes: Changes) -> None:
        new, start = len(changes.numbers), self._count
        end = start + new
        if end > len(self._numbers):
            self._grow(max(end + end // 8, 1024, len(self._numbers) * 3 // 2))
        self._numbers[start:end], self._lengths[start:end] = changes.numbers, changes.lengths
        for name, given in (("image", changes.images), ("text", changes.texts)):
            if given.shape[1] and name not in self._vectors:
                self._vectors[name] = np.empty((len(self._numbers), given.shape[1]), np.float32)
                self._vectors[name][:start] = np.nan
            if name in self._vectors:
                self._vectors[name][start:end] = given if given.shape[1] else np.nan
        self._place |= zip(changes.numbers.tolist(), range(start, end), strict=True)
        self._count = end

    def _grow(self, capacity: int) -> None:
        """Room for more; what is not in use yet is not touched, which would take longer than an addition."""

        def longer(rows: np.ndarray) -> np.ndarray:
            made = np.empty((capacity, *rows.shape[1:]), rows.dtype)
            made[: self._count] = rows[: self._count]
            return made

        self._numbers, self._lengths = longer(self._numbers), longer(self._lengths)
        self._vectors = {name: longer(rows) for name, rows in self._vectors.items()}

    def search(
        self, query: Query, k: int, conditions: Sequence[str] = (), values: Sequence[Any] = (),
        threshold: float | None = None,
    ) -> list[tuple[int, float]]:  # fmt: skip
        """Numbers and scores of the best items, best first.

        An image is compared with images, and with the texts of items that have none; a text with texts (and
        the images of items without one): half by its vector, half by its words, as the share of the
        question's weight that an item has. With both, the two are averaged by the weight.

        Args:
            query: what is looked for.
            k: at most so many.
            conditions: of `conditions_of`, what must hold.
            values: theirs.
            threshold: leave out what scores less.
        """
        with self._lock:
            self.refresh()
            places = np.arange(self._count)
            if conditions:
                found = self._table.numbers(conditions, values)
                here = [at for n in found.tolist() if (at := self._place.get(n)) is not None]
                places = np.array(here, np.int64)
            if not len(places) or k < 1:
                return []
            scores = self._scores(query, places)
            keep = np.isfinite(scores)
            if threshold is not None:
                keep &= scores >= threshold
            numbers, scores = self._numbers[places[keep]], scores[keep]
        if len(scores) > k:
            top = np.argpartition(-scores, k - 1)[:k]
            numbers, scores = numbers[top], scores[top]
        order = np.lexsort((numbers, -np.round(scores, 6)))  # equal scores: the older item first
        return [(int(numbers[n]), float(scores[n])) for n in order]

    def _scores(self, query: Query, places: np.ndarray) -> np.ndarray:
        """float32 `(n,)`, minus infinity for an item that cannot be compared."""
        parts: list[tuple[float, np.ndarray]] = []
        both = query.image is not None and query.text is not None
        shared = self._shared_words(query.words, places) if query.text is not None and query.words else None
        if query.image is not None:
            found = self._cosines(query.image, "image", "text", places, shared)
            parts.append((query.weight if both else 1.0, found))
        if query.text is not None:
            near = self._cosines(query.text, "text", "image", places, shared)
            if shared is not None:
                near = (near + shared) / 2
            parts.append((1 - query.weight if both else 1.0, near))
        total = np.zeros(len(places), np.float32)
        for weight, scores in parts:
            total += np.float32(weight) * scores
        return total

    def _cosines(
        self, vector: np.ndarray, first: str, second: str, places: np.ndarray, shared: np.ndarray | None
    ) -> np.ndarray:
        """With the vectors of the first kind; with the second kind's where an item lacks that.

        Args:
            vector: `(d,)`.
            first: image or text.
            second: the other.
            places: `(n,)`.
            shared: `(n,)`, how well the words fit: who does not compare all looks at the best of these, too.

        Returns:
            `(n,)`, minus infinity for an item that cannot be compared.
        """
        scores = np.full(len(places), np.nan, np.float32)
        for name in (first, second):
            rows = self._vectors.get(name)
            missing = np.isnan(scores)
            if rows is None or not missing.any():
                continue
            if missing.all() and len(places) == self._count:
                scores = rows[: self._count] @ vector.astype(np.float32)
            else:
                scores[missing] = rows[places[missing]] @ vector.astype(np.float32)
        return np.where(np.isnan(scores), np.float32(-np.inf), scores)

    def _shared_words(self, words: Sequence[str], places: np.ndarray) -> np.ndarray:
        """BM25, divided by the most that an item could get: 0 to 1, `(n,)`."""
        scores = np.zeros(self._count, np.float32)
        mean = float(self._lengths[: self._count].mean()) or 1.0
        best = 0.0
        for word in dict.fromkeys(words):
            postings = self._table.postings(word)
            share = len(postings)
            weight = (
                math.log(1 + (self._count - share + 0.5) / (share + 0.5)) if share <= self._count else 0.0
            )
            best += weight * (_K1 + 1)
            if not share or (share > _COMMON and share > self._count / 10):
                continue
            rows = np.array([self._place.get(int(n), -1) for n in postings[:, 0]], np.int64)
            counts = postings[rows >= 0, 1].astype(np.float32)
            rows = rows[rows >= 0]
            norm = _K1 * (1 - _B + _B * self._lengths[rows] / mean)
            scores[rows] += weight * counts * (_K1 + 1) / (counts + norm)
        shared: np.ndarray = scores[places] / np.float32(best or 1.0)
        return shared


def conditions_of(scope: Scope, given: Mapping[str, Any] | None) -> tuple[list[str], list[Any]]:
    """Conditions of SQL, and their values.

    Keys are `user_id`, `agent_id`, `run_id`, `created_at`, `updated_at` (seconds) or names in the metadata. A
    value must be equal, or is an object of comparisons (eq ne gt gte lt lte in nin contains icontains):
    `{"year": {"gte": 1200}}`, `{"place": {"in": ["Oslo"]}}`. `AND`, `OR` hold lists of such filters, `NOT`
    one or a list.

    Raises:
        MemoryFolderError: an unknown comparison, or a value that cannot be compared.
    """
    conditions, values = scope.where()
    if given:
        text, more = _all(given, 0)
        conditions.append(text)
        values += [valid(each) if isinstance(each, str) else each for each in more]
    return conditions, values


def _all(given: Mapping[str, Any], depth: int) -> tuple[str, list[Any]]:
    if depth > 8:
        raise MemoryFolderError("filters are nested more than 8 deep; write them flatter")
    if not isinstance(given, Mapping) or not given:  # nothing must not mean everything
        raise MemoryFolderError(f"filter {given!r}: give an object, as in {{'year': {{'gte': 1200}}}}")
    texts: list[str] = []
    values: list[Any] = []
    for key, value in given.items():
        if key in ("AND", "OR", "NOT"):
            inner = value if isinstance(value, (list, tuple)) else [value]
            made = [_all(each, depth + 1) for each in inner or [{}]]
            joined = f" {'OR' if key != 'AND' else 'AND'} ".join(text for text, _ in made)
            texts.append(f"NOT ({joined})" if key == "NOT" else f"({joined})")
            values += [each for _, some in made for each in some]
            continue
        compared = value if isinstance(value, Mapping) else {"in" if isinstance(value, list) else "eq": value}
        if not compared:
            raise MemoryFolderError(
                f"filter {key!r}: nothing to compare with, as in {{{key!r}: {{'gte': 1}}}}"
            )
        for name, operand in compared.items():
            text, some = _one(str(key), str(name), operand)
            texts.append(text)
            values += some
    return "(" + " AND ".join(texts) + ")", values


def _one(key: str, name: str, operand: Any) -> tuple[str, list[Any]]:
    columns = {**{scope: scope for scope in SCOPES}, "created_at": "created", "updated_at": "updated"}
    if '"' in key or "\0" in key:
        raise MemoryFolderError(f"filter {key!r}: a name in the metadata cannot be asked for with quotes")
    column, path = (columns[key], []) if key in columns else ("json_extract(metadata, ?)", [f'$."{key}"'])
    plain = operand if isinstance(operand, (list, tuple)) else [operand]
    if any(not isinstance(each, (str, int, float, type(None))) or each != each for each in plain):
        raise MemoryFolderError(f"filter {key!r}: {operand!r} cannot be compared; give text or a number")
    if name in _COMPARE and not isinstance(operand, (list, tuple)):
        sign = "IS" if name == "eq" else _COMPARE[name]
        return f"{column} {sign} ?", [*path, operand]
    if name in ("in", "nin"):
        marks = ",".join("?" * len(plain))
        return f"{column} {'NOT ' if name == 'nin' else ''}IN ({marks})", [*path, *plain]
    if name in ("contains", "icontains"):
        fold = "lower" if name == "icontains" else ""
        return f"instr({fold}({column}), {fold}(?)) > 0", [*path, str(operand)]
    known = ", ".join((*_COMPARE, "in", "nin", "contains", "icontains"))
    raise MemoryFolderError(f"filter {key!r}: unknown comparison {name!r}; known: {known}")


def words_of(text: str) -> tuple[str, ...]:
    """The words that a text is searched by."""
    return tuple(count_words(text))
