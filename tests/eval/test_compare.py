"""Paired comparisons, against the binomial sum and published p-values."""

from __future__ import annotations

import math
import random

import pytest

from comem.benchmarks.scoring import Bootstrap
from comem.eval.score import compare, mcnemar
from comem.types import Score


def scores(*values: float | None, group: str = "") -> list[Score]:
    return [
        Score(f"{group}{i}", value or 0.0, group, answered=value is not None)
        for i, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (150, 86, 3.716e-05),  # R's exact2x2, mcnemar.exact(Performance)
        (15, 25, 0.1539),  # statsmodels, mcnemar(exact=True)
        (0, 0, 1.0),
        (1, 0, 1.0),
        (0, 6, 2 / 64),
        (7, 7, 1.0),
    ],
)
def test_mcnemar_p_values(first: int, second: int, expected: float) -> None:
    assert mcnemar(first, second) == mcnemar(second, first) == pytest.approx(expected, rel=1e-3)


def test_mcnemar_is_the_binomial_sum() -> None:
    draw = random.Random(0)
    for _ in range(50):
        a, b = draw.randrange(40), draw.randrange(40)
        tail = sum(math.comb(a + b, i) for i in range(min(a, b) + 1)) / 2 ** (a + b)
        assert mcnemar(a, b) == pytest.approx(min(1.0, 2 * tail))
    assert 0 <= mcnemar(400_000, 500_000) < 1e-100
    assert mcnemar(500_000, 500_001) == pytest.approx(1.0, abs=1e-2)


def test_two_runs_question_by_question() -> None:
    first, second = scores(1, 1, 0, 0, 1, None), scores(1, 0, 1, 0, 0, 1)
    found = compare(first, second, Bootstrap())
    assert (found.questions, found.both, found.neither, found.only_first, found.only_second) == (
        5,
        1,
        1,
        2,
        1,
    )
    assert (found.first, found.second) == (60.0, 40.0)
    assert found.difference == pytest.approx(20.0)
    assert found.confidence[0] <= 20 <= found.confidence[1]
    back = compare(second, first, Bootstrap())
    assert back.p_value == found.p_value and back.difference == pytest.approx(-20.0)


def test_a_run_against_itself_and_against_strangers() -> None:
    run = scores(1, 0, 0.4)
    same = compare(run, run, Bootstrap())
    assert (same.difference, same.p_value, same.confidence) == (0.0, 1.0, [0.0, 0.0])
    with pytest.raises(ValueError, match="no answered question in common"):
        compare(run, scores(1, group="other"), Bootstrap())
