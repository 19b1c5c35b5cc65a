"""Our rules for letters beside lmms-eval's own functions, on random answers: prints where they differ."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from unittest.mock import patch

from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer
from lmms_eval.tasks.egoschema import utils as egoschema
from lmms_eval.tasks.longvideobench import utils as longvideobench
from lmms_eval.tasks.nextqa import utils as nextqa

from comem.benchmarks.video import RULES

OPTIONS = ("a red car", "Two men", "nothing", "rain", "The dog")
WORDS = (
    *"ABCDEF", *(f"({x})" for x in "ABCE"), *(f"{x}." for x in "ABE"), "B:", "C)", "A,", "'D'", "the",
    "answer", "is", "Answer:", "The best answer is", "Best option:", "the correct choice is", "I pick",
    "because", "Because", "An", "Dogs", *OPTIONS, "答案是", "\n", "!", "?", "", " ", '"',
)  # fmt: skip


def answers(count: int) -> list[str]:
    rng = random.Random(3)
    return [
        rng.choice((" ", " ", "")).join(rng.choices(WORDS, k=rng.randint(0, 12))).strip()
        for _ in range(count)
    ]


def ego(text: str) -> str:
    return str(
        egoschema.parse_multi_choice_response(text, list("ABCDE"), dict(zip("ABCDE", OPTIONS, strict=True)))[
            0
        ]
    )


def lvb(text: str) -> str:
    return str(longvideobench.parse_multi_choice_response(text, list("ABCDE"), {}))


def nxt(text: str) -> str:
    return str(
        nextqa.parse_multi_choice_response(text, list("ABCDE"), dict(zip("ABCDE", OPTIONS, strict=True)))
    )


def shared(text: str) -> str:
    return str(extract_mcq_answer(text, choices=list("ABCD")))


THEIRS: dict[str, tuple[Callable[[str], str], str]] = {
    "first_of_forms": (ego, "ABCDE"),
    "first_letter": (lvb, "ABCDE"),
    "last_of_forms": (nxt, "ABCDE"),
    "by_priority": (shared, "ABCD"),
}

if __name__ == "__main__":
    said = answers(20_000)
    with patch("random.choice", lambda _: ""):  # where theirs draw a letter
        for rule, (theirs, letters) in THEIRS.items():
            wrong = [text for text in said if RULES[rule](text, letters, OPTIONS) != theirs(text)]
            found = sum(bool(theirs(text)) for text in said)
            sys.stdout.write(
                f"{rule}: {len(wrong)} of {len(said)} differ ({found} with a letter) {wrong[:3]}\n"
            )
