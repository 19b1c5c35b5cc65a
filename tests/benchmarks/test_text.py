"""Answers out of text, and the official normaliser: cases as data."""

from __future__ import annotations

import time

import pytest

from comem.benchmarks.text import extract_answer, normalize

NORMALIZED = [
    ("Paris", "paris"),
    ("The  United-States, of America!", "unitedstates of america"),
    ("a Clockwork Orange", "clockwork orange"),
    ("Netherlands", "netherlands"),  # no cutting at "the", "is", "of", "by" inside words
    ("island", "island"),
    ("Tennis", "tennis"),
    ("an", ""),
    ("Россия", "россия"),
    ("美国。", "美国。"),  # only ASCII punctuation, as officially
    ("U.S.A.", "usa"),
    ("", ""),
]

EXTRACTED = [
    # whole texts
    ("Paris", "Paris"),
    ("  It is Paris.\n", "It is Paris."),
    ("", ""),
    ("12:30", "12:30"),
    ("He is the finalist", "He is the finalist"),
    ("My final answers vary", "My final answers vary"),
    # boxes
    (r"Reasoning: 1:2 … Final answer: \boxed{Paris}", "Paris"),
    (r"\boxed{\text{Paris}}", "Paris"),
    (r"\boxed{\textbf{New} \text{York}}", "New York"),
    (r"\boxed{12:30}", "12:30"),
    (r"\boxed{12{,}000}", "12,000"),
    (r"\boxed{\{a, b\}}", "{a, b}"),
    (r"\boxed{50\%}", "50%"),
    (r"\boxed{Procter \& Gamble}", "Procter & Gamble"),
    (r"$\boxed{10\,\text{km}}$", "10 km"),
    (r"First \boxed{Rome}, no: \boxed{Paris}", "Paris"),
    (r"\boxed {Paris}", "Paris"),
    (r"\fbox{x} \boxed{Paris", "Paris"),
    ("\\boxed{Paris\nand then", "Paris"),
    (r"\boxed{}", ""),
    (r"\boxed 7", "7"),
    (r"\boxed{ 2 }", "2"),
    ("\\boxed{Los\nAngeles}", "Los Angeles"),
    (r"I would say \boxed{**Paris**}", "Paris"),
    # final-answer lines in six languages
    ("Thinking: a, b\nFinal answer: Paris", "Paris"),
    ("**Final Answer:** Paris", "Paris"),
    ("### Final answer\nFinal answer: **Paris**\n", "Paris"),
    ("So the final answer is Paris.\nThank you.", "Paris."),
    ("Final answer:\n\nParis\nmore", "Paris"),
    ("Final answer: Rome\nWait. Final answer: Paris", "Paris"),
    ("FINAL ANSWER: 12:30", "12:30"),
    ("Final answer = 7", "7"),
    ("Окончателен отговор: Париж", "Париж"),
    ("Крайният отговор е Париж", "Париж"),
    ("推理过程：略\n最终答案：巴黎", "巴黎"),
    ("最终答案是巴黎", "巴黎"),
    ("Resposta final: Paris", "Paris"),
    ("A resposta final é Paris", "Paris"),
    ("Окончательный ответ: Париж", "Париж"),
    ("Итоговый ответ — Париж", "Париж"),
    ("Respuesta final: 2", "2"),
    ("La respuesta final es París", "París"),
    ("**Final Answer**\n\nParis", "Paris"),
    ("### Final Answer\n**Paris**\nmore", "Paris"),
    ("I come to my final answer\nThank you", "I come to my final answer\nThank you"),
    ("Final answer (short): Paris", "Paris"),
    ("Final answer → Paris", "Paris"),
    ("**Final Answer: Paris**", "Paris"),
    ("The final answer is $42$.", "42."),
    ("Финальный ответ: «Париж»", "Париж"),
    ("最后的答案是：巴黎。", "巴黎"),
    ("最終答案是：「巴黎」", "巴黎"),
    # boxes and lines together
    (r"Final answer: Paris \boxed{}", "Paris"),
    (r"\boxed{Paris} or, once more, \boxed{}", "Paris"),
    (r"Final answer: $\boxed{\text{Paris}}$.", "Paris"),
    (r"\boxed{\text{Paris (France)}}", "Paris (France)"),
    (r"\boxed{\boxed{Paris}}", "Paris"),
    (r"\boxed{\frac{1}{2}}", "1/2"),
    # thinking models
    ("<think>Final answer: Rome</think>Paris", "Paris"),
]


@pytest.mark.parametrize(("text", "expected"), NORMALIZED)
def test_normalize(text: str, expected: str) -> None:
    assert normalize(text) == expected


@pytest.mark.parametrize(("text", "expected"), EXTRACTED)
def test_extract_answer(text: str, expected: str) -> None:
    assert extract_answer(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "{" * 100_000,
        r"\boxed{" * 15_000,
        "\\boxed{\n" * 15_000,
        "final answer (" * 7_000,
        "# " * 50_000,
        "$" * 100_000,
        r"\frac{" * 20_000,
        r"\boxed{\frac{" * 9_000,
        r"\boxed{" + "{" * 100_000,
        "\\" * 100_000,
        "final answer " * 8_000,
        "final answer:" + "*" * 100_000,
        "final answer" + " " * 100_000,
        "-1" * 50_000,
    ],
)
def test_long_texts_take_no_time(text: str) -> None:
    start = time.perf_counter()
    normalize(extract_answer(text))
    assert time.perf_counter() - start < 5  # quadratic work would take minutes
