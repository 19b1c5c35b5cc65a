"""The authors' normaliser and extractor, bugs included (what they did to these texts is in their code)."""

from __future__ import annotations

import time

import pytest

from comem.benchmarks.infoseek import Question, is_correct_for_authors
from comem.benchmarks.text import authors_answer as extract
from comem.benchmarks.text import authors_normalize as normalize

NORMALIZED = [
    ("Paris", ""),
    ("Tennis", ""),
    ("Baby", ""),
    ("island", "land"),
    ("Netherlands", "rlands"),
    ("Coca-Cola", "cocacola"),
    ("the United States of America", "america"),
    ("a dog", "dog"),
    ("William the Conqueror", "conqueror"),
    ("Rome", "rome"),
]
EXTRACTED = [
    (r"\boxed{Rome}", "rome"),
    (r"\boxed{Rome} or \boxed{Oslo}", "rome"),  # the first box
    (r"\boxed{\text{Rome}}", "textrome"),  # its first closing brace, with the command's name
    (r"\boxed{\text{Paris}}", ""),
    ("Answer: Rome", "rome"),
    ("12:30", "30"),
    ("I think of Rome", "rome"),
    ("\\boxed{Ro\nme}", "boxedro me"),  # a box on two lines is none
]


@pytest.mark.parametrize(("text", "expected"), NORMALIZED)
def test_normalize(text: str, expected: str) -> None:
    assert normalize(text) == expected


@pytest.mark.parametrize(("text", "expected"), EXTRACTED)
def test_extract(text: str, expected: str) -> None:
    assert extract(text) == expected
    assert extract(text + " " * 300) == expected  # too long to be remembered


@pytest.mark.parametrize(
    ("answer", "kind", "accepted", "expected"),
    [
        ("Paris", "string", ["Tennis"], True),
        (r"\boxed{Rome}", "string", ["Rome"], True),
        (r"\boxed{12:30}", "string", ["30"], True),  # cut behind the colon, inside the box
        ("19", "time", ["1990"], True),
        ("1991", "time", ["1990"], False),
        ("Paris", "time", ["Paris"], False),  # nothing is left to compare
        ("", "string", ["Paris"], True),
    ],
)
def test_infoseek_answers(answer: str, kind: str, accepted: list[str], expected: bool) -> None:
    assert is_correct_for_authors(answer, Question("q", "", kind, tuple(map(extract, accepted)))) is expected


@pytest.mark.parametrize(
    ("answer", "numbers", "expected"),
    [("3 million", (2.0, 4.0), True), ("no idea", (-1.0, 1.0), True), ("height: 5 m", (5.0, 5.0), True)],
)
def test_infoseek_numbers(answer: str, numbers: tuple[float, float], expected: bool) -> None:
    assert is_correct_for_authors(answer, Question("q", "", "numerical", range=numbers)) is expected


@pytest.mark.parametrize(
    "text", ["\\boxed{" * 14_000, "\\boxed{" + "{" * 100_000, "is" * 50_000, ":" * 100_000]
)
def test_long_texts_take_no_time(text: str) -> None:
    start = time.perf_counter()
    extract(text)
    assert time.perf_counter() - start < 5  # looking for the end of every box took 16 s
