"""What became of a trial, and of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        kind: "kill", "damage", …
        subject: the job, file or reader that it was about.
        fault: what befell it, so that it can be repeated.
        ended: in a word ("resumed", "refused", "reported", "unharmed", "repaired").
        problems: broken promises; none if all is well.
        count: how many faults it took (a chain of kills is one trial).
    """

    kind: str
    subject: str
    fault: str
    ended: str
    problems: tuple[str, ...] = ()
    count: int = 1


@dataclass
class Tally:
    """All trials of a run."""

    trials: list[Trial] = field(default_factory=list)

    def add(self, trials: Iterable[Trial]) -> None:
        """Take note of some more."""
        self.trials.extend(trials)

    @property
    def problems(self) -> list[Trial]:
        """Those in which a promise was broken."""
        return [trial for trial in self.trials if trial.problems]

    def rows(self) -> list[tuple[str, ...]]:
        """By kind and subject: faults, how they ended, problems."""
        found = []
        for kind, subject in sorted({(trial.kind, trial.subject) for trial in self.trials}):
            here = [trial for trial in self.trials if (trial.kind, trial.subject) == (kind, subject)]
            ends = Counter[str]()
            for trial in here:
                ends[trial.ended] += trial.count
            said = ", ".join(f"{end} {count}" for end, count in sorted(ends.items()))
            bad = sum(bool(trial.problems) for trial in here)
            found.append((kind, subject, str(sum(trial.count for trial in here)), said, str(bad)))
        return found

    def as_json(self) -> dict[str, Any]:
        """For the docs: counts by kind, the table, and every problem."""
        counts = Counter[str]()
        for trial in self.trials:
            counts[trial.kind] += trial.count
        return {
            "faults": dict(sorted(counts.items())),
            "table": self.rows(),
            "problems": [vars(trial) for trial in self.problems],
        }
