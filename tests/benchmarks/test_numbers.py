"""Numbers and ranges, read and compared as officially: cases as data."""

from __future__ import annotations

from typing import Any

import pytest

from comem.benchmarks.infoseek import matches, read_number

NUMBERS: list[tuple[str, Any]] = [
    ("14", 14.0),
    ("about 2 m", 2.0),
    ("1,234.5 metres", 1234.5),
    ("1.89e+01", 18.9),
    ("263.", 263.0),
    ("-12", -12.0),
    ("9-10", (9.0, 10.0)),
    ("9 to 10", (9.0, 10.0)),
    ("9–10", (9.0, 10.0)),
    ("between 36 and 18", 36.0),  # falling: no range, the first number counts
    ("3-3", (3.0, 3.0)),
    ("1 2 3", (1.0, 2.0)),
    ("no idea", (0.0, 0.0)),
    ("", (0.0, 0.0)),
    (".5", 5.0),  # as officially
    ("-.5", -0.5),
    ("-.5.3", -0.5),  # the official scorer stops with an error
    ("1e999", float("inf")),
    ("٣", 3.0),
]

NUMERICAL: list[tuple[str, tuple[float, float], bool]] = [
    ("10", (9.0, 11.0), True),
    ("9", (9.0, 11.0), True),
    ("11.01", (9.0, 11.0), False),
    ("9.5-10.5", (9.0, 11.0), True),
    ("9-13", (9.0, 11.0), True),  # IoU 2/4
    ("9-13.1", (9.0, 11.0), False),
    ("unknown", (-1.0, 1.0), True),  # officially "no number" is the range 0 to 0
    ("unknown", (9.0, 11.0), False),
    ("5", (5.0, 5.0), True),
    ("-1", (-0.9, -1.1), False),  # a reference whose range is reversed
]


@pytest.mark.parametrize(("text", "expected"), NUMBERS)
def test_read_number(text: str, expected: Any) -> None:
    assert read_number(text) == expected


@pytest.mark.parametrize(("text", "accepted", "expected"), NUMERICAL)
def test_numerical_answers(text: str, accepted: tuple[float, float], expected: bool) -> None:
    assert matches(read_number(text), accepted) is expected
