"""Prompts: every benchmark can be asked, in its languages, and its answers can be taken out again."""

from __future__ import annotations

import pytest

from comem.benchmarks import BENCHMARKS
from comem.benchmarks.prompts import LANGUAGES, PAPER, PROMPTS, ask
from comem.benchmarks.text import extract_answer
from comem.registry import UnknownNameError
from comem.types import Example


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_papers_prompts_ask_for_a_box(language: str) -> None:
    question = r"Which {question} \boxed{?}"
    plain, grounded = (ask(question, language, knows) for knows in (False, True))
    assert plain != grounded and len(grounded) > len(plain)
    for text in (plain, grounded):
        assert text.count(question) == 1 and r"\boxed{" in text.rpartition("\n")[2]
    final = PAPER[language].plain.rpartition("\n")[2].partition("\\boxed")[0]
    assert extract_answer(f"1: a\n{final}**Paris**\n") == "Paris"  # without the box, too


def test_unknown_styles_and_languages_are_named() -> None:
    with pytest.raises(UnknownNameError, match="unknown prompt style 'shrt'; did you mean short"):
        ask("?", "en", False, "shrt")
    with pytest.raises(UnknownNameError, match="unknown prompt language 'de'"):
        ask("?", "de", False)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_row_can_be_asked_and_scored(name: str) -> None:
    row = BENCHMARKS[name]
    assert row.name == name and row.source and row.licence and row.paper and "official" in row.scorers
    for language in row.languages:
        example = Example("q", "Why?", None, language=language)
        for style in (None, *(name for name in PROMPTS if language in PROMPTS[name])):
            assert "Why?" in row.ask(example, True, style)


def test_options_are_listed_as_each_benchmark_wants_them() -> None:
    options = ("a dog", "a {question} cat ")
    shown = {style: ask("Which?", "en", False, style, options) for style in PROMPTS}
    assert "Which?\nChoose one of the following: a dog, a {question} cat\n" in shown["concise"]
    assert shown["letter"].endswith("Which?\nChoices:\nA: a dog\nB: a {question} cat")
    assert "directly" in shown["letter"] and "directly" not in ask("Which?", "en", True, "letter", options)
    assert "Which?\n1. a dog 2. a {question} cat\n" in shown["number"]
    assert shown["short"] == "Which?\n- a dog\n- a {question} cat" and shown["bare"] == "Which?"


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_are_asked_for_in_every_language(language: str) -> None:
    text = ask("?", language, True, "number", ("x", "y"))
    assert "1. x 2. y" in text and text.endswith("}") and text.count("\\boxed{") == 1
    assert ask("?", language, False, "number", ("x", "y")) == text
