"""What all readers of corpora share: their errors, and the count of what happened to the rows."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

WARNINGS = 20  # of a kind and file; all are counted, but ten million warnings help nobody
#: A row before it is judged, and where it stands ("file:line"): the columns of WIT, and `id`, `text`,
#: `image` (path, URL or bytes) and `licence` in corpora of one's own.
RawRow = tuple[str, Mapping[str, Any]]
RawRows = Iterator[RawRow]


class CorpusError(ValueError):
    """A corpus that cannot be read as one."""


class CutShardError(CorpusError):
    """A compressed shard that ends too early; every whole row before the cut was delivered."""


@dataclass
class CorpusStats:
    """What happened to the rows while they were streamed (filled in by the readers)."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)

    def drop(self, reason: str, where: str) -> None:
        """Counts a row that is not delivered; the first broken ones are logged with file and line."""
        self.dropped[reason] += 1
        loud = reason.startswith("broken") and self.dropped[reason] <= WARNINGS
        logger.log(logging.WARNING if loud else logging.DEBUG, "%s: row skipped: %s", where, reason)

    def repair(self, what: str, where: str) -> None:
        """Counts a row that is delivered with a change; the first ones are logged."""
        self.repaired[what] += 1
        loud = self.repaired[what] <= WARNINGS
        logger.log(logging.WARNING if loud else logging.DEBUG, "%s: repaired: %s", where, what)

    def add(self, other: Mapping[str, Any]) -> None:
        """Adds the counts of another shard, as `vars()` gives them."""
        self.read += other["read"]
        self.kept += other["kept"]
        self.dropped.update(other["dropped"])
        self.repaired.update(other["repaired"])
