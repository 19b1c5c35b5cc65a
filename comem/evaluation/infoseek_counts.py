"""InfoSeek's numbers out of right and wrong answers: counts by split and type, and what is made of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from comem.evaluation.harmonic import harmonic_means
from comem.types import Score

if TYPE_CHECKING:
    from comem.evaluation.infoseek import Question
    from comem.evaluation.statistics import Array

UNSEEN = {"unseen_question": "unseen_question_score", "unseen_entity": "unseen_entity_score"}
TYPES = {"time": "score_time", "numerical": "score_num", "string": "score_string"}


def counts_as(name: str) -> str:
    """The unseen split that a data_split counts as; officially, all but unseen_question are unseen_entity."""
    return "unseen_question" if name.endswith("unseen_question") else "unseen_entity"


@dataclass(frozen=True)
class Cell:
    """How many questions of one split and type there are, were answered, were answered rightly."""

    total: int = 0
    answered: int = 0
    correct: int = 0

    def __add__(self, other: Cell) -> Cell:
        return Cell(self.total + other.total, self.answered + other.answered, self.correct + other.correct)

    def percent(self, missing_wrong: bool = False) -> float:
        """Right answers in percent of those given (or of all), 0 when there are none."""
        count = self.total if missing_wrong else self.answered
        return round((self.correct / count if count else 0) * 100, 2)


Cells = Mapping[tuple[str, str], Cell]


def count(questions: Iterable[Question], scores: Iterable[Score]) -> dict[tuple[str, str], Cell]:
    """Counts by split and type."""
    values = {score.example_id: score.value for score in scores if score.answered}
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for asked in questions:
        count = counts[asked.split, asked.kind]
        count[0] += 1
        if asked.id in values:
            count[1] += 1
            count[2] += values[asked.id] == 1
    return {key: Cell(*count) for key, count in counts.items()}


def split_scores(cells: Cells, split: str, missing_wrong: bool) -> dict[str, float]:
    """The official four numbers of a split."""
    chosen = {key: cell for key, cell in cells.items() if counts_as(key[0]) == split}
    scores = {"score": sum(chosen.values(), Cell()).percent(missing_wrong)}
    for kind, name in TYPES.items():
        scores[name] = sum((c for key, c in chosen.items() if key[1] == kind), Cell()).percent(missing_wrong)
    return scores


def table(cells: Cells, part: int) -> dict[str, dict[str, float]]:
    """Counts and both accuracies by split (part 0) or type (part 1)."""
    rows: dict[str, Cell] = defaultdict(Cell)
    for key, cell in cells.items():
        rows[key[part]] += cell
    return {
        name: {
            "total": cell.total,
            "answered": cell.answered,
            "correct": cell.correct,
            "accuracy": cell.percent(),
            "accuracy_missing_wrong": cell.percent(missing_wrong=True),
        }
        for name, cell in sorted(rows.items())
    }


def split_of(drawn: Mapping[str, Array], split: str) -> Array | None:
    """The drawn means of a split (see `comem.evaluation.statistics`).

    None where nothing was answered, or where several data_splits make it up: means alone do not add up.
    """
    parts = [means for name, means in drawn.items() if counts_as(name) == split]
    return parts[0] if len(parts) == 1 else None


def final_of(drawn: Mapping[str, Array]) -> Array | None:
    """The final score over drawn means by split."""
    parts = [means for split in UNSEEN if (means := split_of(drawn, split)) is not None]
    return harmonic_means(parts) if len(parts) == len(UNSEEN) else None


#: The numbers that are made of the splits' means.
COMBINED = {"final_score": final_of} | {key: partial(split_of, split=split) for split, key in UNSEEN.items()}
