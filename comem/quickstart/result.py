"""What the quickstart shows at the end: rows of a table and worked examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from comem.types import Answer, Example, KnowledgeItem


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        label: the mode, and which memory where there are several.
        accuracy: share of right answers, 0 to 1; missing answers count as wrong.
        context_tokens: mean number of positions that knowledge added to a prompt.
        seconds: mean wall-clock seconds per question, encoding excluded where a bank was used.
        count: questions.
        items: knowledge items per question.
    """

    label: str
    accuracy: float
    context_tokens: float
    seconds: float
    count: int
    items: int = 0


@dataclass(frozen=True)
class Answered:
    """What one mode answered, and whether that was right."""

    label: str
    text: str
    right: bool


@dataclass(frozen=True)
class Case:
    """A worked example: the question, what was retrieved, and each mode's answer."""

    example: Example
    items: tuple[KnowledgeItem, ...]
    answers: tuple[Answered, ...]


def row(label: str, predictions: Sequence[Answer], values: Sequence[float], items: int = 0) -> Row:
    """The means over the questions of one mode.

    Args:
        label: see `Row`.
        predictions: one per question.
        values: their scores, 0 to 1.
        items: knowledge items per question.

    Raises:
        ValueError: no predictions, or not one score for each.
    """
    if not predictions or len(values) != len(predictions):
        raise ValueError(f"{label}: {len(predictions)} predictions, {len(values)} scores; give one for each")
    count = len(predictions)
    return Row(
        label,
        accuracy=sum(values) / count,
        context_tokens=sum(p.context_tokens for p in predictions) / count,
        seconds=sum(p.seconds for p in predictions) / count,
        count=count,
        items=items,
    )


def worked_examples(cases: Sequence[Case], count: int = 3) -> list[Case]:
    """A fair choice: the first of each pattern of right and wrong answers, the most frequent pattern first.

    Picking only successes would flatter the method; this shows what usually happens, then what else does.
    """
    patterns: dict[tuple[bool, ...], list[Case]] = {}
    for case in cases:
        patterns.setdefault(tuple(answer.right for answer in case.answers), []).append(case)
    by_frequency = sorted(patterns.values(), key=len, reverse=True)
    longest = max(map(len, by_frequency), default=0)
    in_turns = [group[i] for i in range(longest) for group in by_frequency if i < len(group)]
    return in_turns[:count]
