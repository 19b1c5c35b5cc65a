"""Two runs over the same questions, compared question by question.

By McNemar's exact test (1947) on right and wrong, and by a bootstrap over the questions' differences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from comem.benchmarks.scoring import Bootstrap
from comem.types import Score

#: A graded score (soft accuracy, F1) counts as right from here on, where right and wrong are asked for.
RIGHT = 0.5


@dataclass(frozen=True)
class Comparison:
    """Two runs over the same questions.

    Args:
        questions: how many both answered.
        first, second: their scores on those, in percent.
        difference: first minus second, in points.
        confidence: the difference's bootstrap interval.
        only_first, only_second: questions that one had right and the other wrong.
        both, neither: questions on which they agree.
        p_value: McNemar's exact test, two-sided.
    """

    questions: int
    first: float
    second: float
    difference: float
    confidence: list[float]
    only_first: int
    only_second: int
    both: int
    neither: int
    p_value: float


def compare(first: Sequence[Score], second: Sequence[Score], bootstrap: Bootstrap) -> Comparison:
    """Compare two runs, question by question, over those that both answered.

    Raises:
        ValueError: there is no such question.
    """
    others = {score.example_id: score.value for score in second if score.answered}
    pairs = [(s.value, others[s.example_id]) for s in first if s.answered and s.example_id in others]
    if not pairs:
        raise ValueError("the two runs have no answered question in common; are they of the same benchmark?")
    cells = Counter((a >= RIGHT, b >= RIGHT) for a, b in pairs)
    means = [100 * sum(values) / len(pairs) for values in zip(*pairs, strict=True)]
    drawn = bootstrap.means(round(a - b, 12) for a, b in pairs)
    return Comparison(
        questions=len(pairs),
        first=means[0],
        second=means[1],
        difference=means[0] - means[1],
        confidence=bootstrap.interval(drawn) if bootstrap.samples else [],
        only_first=cells[True, False],
        only_second=cells[False, True],
        both=cells[True, True],
        neither=cells[False, False],
        p_value=mcnemar(cells[True, False], cells[False, True]),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact two-sided p-value: the questions on which two runs differ as throws of a fair coin.

    Args:
        only_first: questions that only the first run has right.
        only_second: questions that only the second has right.
    """
    import numpy as np

    count, fewer = only_first + only_second, min(only_first, only_second)
    if only_first == only_second:
        return 1.0
    steps = np.arange(1, fewer + 1, dtype=np.float64)
    logs = np.concatenate([[0.0], np.cumsum(np.log(count - steps + 1) - np.log(steps))])  # log C(count, i)
    tail = float(np.exp(logs - count * np.log(2.0)).sum())
    return min(1.0, 2 * tail)
