"""Letters in free text: what each generation of rules makes of it."""

from __future__ import annotations

import pytest

from comem.benchmarks.video import RULES, LetterAnswer, score_letters

OPTIONS = ("a red car", "a dog", "nothing", "two men", "rain")


@pytest.mark.parametrize(
    ("answer", "first", "bracket", "forms", "priority"),
    [
        ("B", "B", "B", "B", "B"),
        ("B.", "B", "", "B", "B"),
        ("(B) a dog", "B", "B", "B", "B"),
        ("The answer is C", "C", "", "C", "C"),
        ("The best answer is (D).", "D", "D", "D", "D"),
        ("I first thought (A), but the answer is B", "A", "A", "A", "B"),
        ("A is wrong and (B) is right", "A", "B", "B", "A"),
        ("what one sees there is a dog", "", "", "B", ""),
        ("", "", "", "", ""),
        ("no idea", "", "", "", ""),
    ],
)
def test_rules(answer: str, first: str, bracket: str, forms: str, priority: str) -> None:
    found = [
        RULES[name](answer, "ABCDE", OPTIONS)
        for name in ("first_letter", "before_bracket", "last_of_forms", "by_priority")
    ]
    assert found == [first, bracket, forms, priority]


def test_what_has_no_letter_is_counted_apart() -> None:
    answers = [LetterAnswer("A", "A"), LetterAnswer("hm", "B"), LetterAnswer("C", "B")]
    found = score_letters(answers, "videomme")
    assert found == {
        "accuracy": pytest.approx(100 / 3),
        "count": 3,
        "unparsed": 1,
        "rule": "shared: by_priority",
    }
    drawn = [
        score_letters(answers, "videomme", unparsed="random", seed=seed)["accuracy"] for seed in range(20)
    ]
    assert len(set(drawn)) == 2


def test_mlvu_is_a_mean_of_tasks() -> None:
    answers = [
        LetterAnswer("A", "A", "ego"),
        LetterAnswer("A", "B", "count"),
        LetterAnswer("A", "B", "count"),
    ]
    assert score_letters(answers, "mlvu_dev", "2025")["accuracy"] == 50
    assert score_letters(answers, "egoschema", "2025")["accuracy"] == pytest.approx(100 / 3)
    with pytest.raises(ValueError, match="did you mean"):
        score_letters(answers, "mlvu")
