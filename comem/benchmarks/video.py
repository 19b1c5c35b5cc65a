"""Answers to the multiple-choice questions of five video benchmarks: how a letter is found, by named rules.

What a number means depends on how letters are found in free text, and lmms-eval has changed that: `2025` are
each benchmark's own rules of mid-2025 (video_memory.md 3), `shared` is the one parser with priorities that it
uses since. Answers without a letter are counted apart: the originals draw one at random.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from comem.registry import Registry

#: Of an answer, the letters that may be given, and the options' texts: the letter, or "".
Rule = Callable[[str, str, Sequence[str]], str]

_PREFIXES = (
    "The best answer is", "The correct answer is", "The answer is", "The answer", "The best option is",
    "The correct option is", "Best answer:", "Best option:", "Answer:", "Option:",
)  # fmt: skip


def first_letter(answer: str, letters: str, options: Sequence[str] = ()) -> str:
    """After phrases like "The answer is" are gone, the first capital that is an option's letter."""
    text = answer.strip()
    for prefix in _PREFIXES:
        text = text.replace(prefix, "")
    found = re.search(f"[{letters}]", text)
    return found[0] if found else ""


def before_bracket(answer: str, letters: str, options: Sequence[str] = ()) -> str:
    """The character in front of the first ")", else the whole answer where it is one letter (MLVU)."""
    text = answer.strip()
    at = text.find(")")
    text = text[at - 1] if at > 0 else text
    return text if text and text in letters else ""


def last_of_forms(answer: str, letters: str, options: Sequence[str] = ()) -> str:
    """The first form found of "(A)", "A ", "A.", then an option's text; the last letter in it (NExT-QA)."""
    text = f" {answer.strip(' ,.!?;:' + chr(39))} "
    for form in ("({})", "{} ", "{}."):
        if found := [letter for letter in letters if form.format(letter) in text]:
            return max(found, key=lambda letter: text.rfind(form.format(letter)))
    if len(text.split()) <= 5:
        return ""
    named = {
        letter: text.lower().rfind(option.lower())
        for letter, option in zip(letters, options, strict=False)
        if option and option.lower() in text.lower()
    }
    return max(named, key=lambda letter: named[letter]) if named else ""


_SAID = re.compile(
    r"(?:answer|option|choice) is|i (?:choose|select|pick)|my (?:answer|choice) is"
    "|答案是|答案为|정답은|답은|答えは",
    re.IGNORECASE,
)


def by_priority(answer: str, letters: str, options: Sequence[str] = ()) -> str:
    """The surest form wins: at the start, the end, after "answer is", then "(A)", "A.", "A:", "A)", "A ".

    Of several letters in that form the last; else a letter that stands alone.
    """
    text = answer.strip().strip(",.!?;:'\"").strip()
    some = f"[{letters}]"
    for form in (rf"^({some})(?![A-Za-z])", rf"(?<![A-Za-z])({some})$"):
        if found := re.search(form, text):
            return found[1]
    if said := list(_SAID.finditer(text)):
        after = re.search(some, text[said[-1].end() :])
        if after:
            return after[0]
    for form in (rf"\(({some})\)", rf"({some})\.", rf"({some}):", rf"({some})\)", rf"({some}) "):
        if hits := list(re.finditer(form, text)):
            return hits[-1][1]
    alone = re.findall(rf"\b({some})\b", text)
    return alone[-1] if alone else ""


RULES: Registry[Rule] = Registry(
    "rule for letters",
    {
        "first_letter": first_letter, "before_bracket": before_bracket, "last_of_forms": last_of_forms,
        "by_priority": by_priority,
    },
)  # fmt: skip


@dataclass(frozen=True)
class VideoScorer:
    """How a benchmark's answers are scored.

    Attributes:
        rules: per generation the rule by which a letter is found.
        letters: that may be given.
        mean_of_groups: the mean of the groups' accuracies, not of all answers (MLVU).
    """

    rules: Mapping[str, str]
    letters: str
    mean_of_groups: bool = False


def _row(own: str, letters: str, mean_of_groups: bool = False) -> VideoScorer:
    return VideoScorer({"2025": own, "shared": "by_priority"}, letters, mean_of_groups)


#: By the task's name in lmms-eval.
VIDEO_SCORERS: Registry[VideoScorer] = Registry(
    "video scorer",
    {
        "longvideobench_val_v": _row("first_letter", "ABCDE"),
        "videomme": _row("first_letter", "ABCD"),
        "mlvu_dev": _row("before_bracket", "ABCDEF", mean_of_groups=True),
        "nextqa_mc_test": _row("last_of_forms", "ABCDE"),
        "egoschema": _row("first_letter", "ABCDE"),
    },
)


@dataclass(frozen=True)
class LetterAnswer:
    """An answer and what was right.

    Attributes:
        text: what the model said.
        right: the letter.
        group: the question's, for means of groups; "" for none.
        options: their texts, which some rules look for.
    """

    text: str
    right: str
    group: str = ""
    options: tuple[str, ...] = ()


def score_letters(
    answers: Sequence[LetterAnswer], task: str, generation: Literal["2025", "shared"] = "shared",
    unparsed: Literal["wrong", "random"] = "wrong", seed: int = 0,
) -> dict[str, float | str]:  # fmt: skip
    """The benchmark's figure, with the rule that it used.

    Args:
        answers: one a question.
        task: a row of `VIDEO_SCORERS`.
        generation: whose rule finds the letters.
        unparsed: answers without a letter are wrong, and counted apart, or a letter drawn, as the originals.
        seed: of what is drawn.

    Returns:
        accuracy in percent, the number of answers, how many have no letter, and the rule's name.

    Example:
        >>> score_letters([LetterAnswer("The answer is B.", "B")], "videomme")["accuracy"]
        100.0
    """
    row, rng = VIDEO_SCORERS[task], random.Random(seed)
    name, missing = row.rules[generation], 0
    groups: dict[str, list[bool]] = {}
    for answer in answers:
        letter = RULES[name](answer.text, row.letters, answer.options)
        missing += not letter
        if not letter and unparsed == "random":
            letter = rng.choice(row.letters[: len(answer.options) or None])
        groups.setdefault(answer.group if row.mean_of_groups else "", []).append(letter == answer.right)
    means = [sum(right) / len(right) for right in groups.values()]
    accuracy = 100 * sum(means) / len(means) if means else 0.0
    return {"accuracy": accuracy, "count": len(answers), "unparsed": missing, "rule": f"{generation}: {name}"}
