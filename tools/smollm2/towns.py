"""The embedded world's English passages with questions that name the town, for a reader of text.

`python -m tools.smollm2.towns FOLDER` writes the dialogues that a memory is trained on: the reader's own
wording of an answer, taken from what it says with the passage before it (the paper's self-synthesis), with
the value that the passage tells marked in it. Towns are of the training split, their facts drawn anew.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comem.io.console import print_line
from comem.toy import lexicon
from comem.toy.dataset import write_lines
from comem.toy.world import Entity, Split, World, random_facts

SIZE = 4000
#: Share of the passages in threes whose questions ask the same few facts of each.
HARD = 0.8
SYSTEM = "Answer from the text in one sentence."
#: Two wordings of each fact's question, and how the reader words its answer.
QUESTIONS = {
    "founded": ("In which year was {name} founded?", "What year does {name} date from?"),
    "stone": ("What are the walls of {name} made of?", "Which material was used for the wall of {name}?"),
    "height": ("How high is the tower of {name}?", "What is the height of the tower in {name}?"),
    "animal": ("Which animal do the people of {name} honour?", "What is the animal of {name}?"),
    "area": ("How large is the land of {name}?", "What area does {name} cover?"),
    "craft": ("What is {name} known for?", "What do traders come to {name} for?"),
}
ANSWERS = {
    "founded": ("{name} was founded in {value}.", "The year that {name} dates from is {value}."),
    "stone": (
        "The walls of {name} are made of {value}.",
        "The material used for the wall of {name} is {value}.",
    ),
    "height": ("The tower of {name} is {value} high.", "The height of the tower in {name} is {value}."),
    "animal": ("The people of {name} honour the {value}.", "The animal of {name} is the {value}."),
    "area": ("The land of {name} is approximately {value}.", "The area of {name} is approximately {value}."),
    "craft": ("{name} is known for its {value}.", "Traders come to {name} for {value}."),
}


@functools.cache
def towns(split: Split) -> tuple[Entity, ...]:
    """The world's towns of a split."""
    return World(0, SIZE).split(split)


def value(town: Entity, fact: str) -> str:
    """What must stand in an answer: the number without its unit, or the word."""
    return town.value(fact).split()[0]


def turn(town: Entity, fact: str, wording: int) -> dict[str, str]:
    """A question with the answer, and the value in it."""
    whole = town.value(fact).replace(" m", " meters") if fact == "height" else town.value(fact)
    answer = ANSWERS[fact][wording].format(name=town.name, value=whole)
    question = QUESTIONS[fact][wording].format(name=town.name)
    return {"question": question, "answer": answer, "value": value(town, fact)}


def right(answer: str, town: Entity, fact: str) -> bool:
    """Whether the value stands in an answer: a number as it is, a word in singular or plural."""
    wanted = value(town, fact).lower()
    words = re.findall(r"[a-z]+|\d+(?:[.,]\d+)*", answer.lower())
    if wanted.isdigit():
        return wanted in [word.replace(",", "") for word in words if word[0].isdigit()]
    return bool({wanted, wanted.removesuffix("s"), wanted + "s"} & set(words))


def near(answer: str, town: Entity, fact: str) -> bool:
    """As `right`, numbers within ten per cent, as InfoSeek has it."""
    if lexicon.FACTS[fact] != "Numerical":
        return right(answer, town, fact)
    wanted = float(value(town, fact))
    numbers = map(float, re.findall(r"\d+(?:\.\d+)?", answer.replace(",", "")))
    return any(abs(number - wanted) <= 0.1 * wanted for number in numbers)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many steps of how many questions.

    Attributes:
        steps: of the training.
        batch: questions of a step: about a batch/4 of passages, or batch/8 of three passages each.
        one: so many steps at the beginning know one passage a question.
        share: of the steps after that know three.
    """

    steps: int = 700
    batch: int = 32
    one: int = 200
    share: float = 0.6


def dialogues(settings: Plan, seed: int = 0, split: Split = "train") -> Iterator[dict[str, Any]]:
    """Steps of questions, in the training record of `comem train`.

    Args:
        settings: how many.
        seed: of all that is drawn.
        split: which towns.
    """
    every = towns(split)
    for step in range(settings.steps):
        rng = random.Random(f"named/{seed}/{step}")
        several = step >= settings.one and rng.random() < settings.share
        groups, items, asked = (settings.batch // 8, 3, 8) if several else (settings.batch // 4, 1, 4)
        for group in range(groups):
            drawn = rng.sample(every, items)
            chosen = [
                dataclasses.replace(town, facts=random_facts(rng), seed=rng.getrandbits(30)) for town in drawn
            ]
            place = f"{step}/{group}"
            item = [{"id": f"{place}/{town.id}", "text": town.passage()} for town in chosen]
            # Of several passages, the same facts of each: only the name tells the answers apart.
            kinds = rng.sample(list(QUESTIONS), 3) if several and rng.random() < HARD else list(QUESTIONS)
            facts = rng.sample([(town, fact) for town in chosen for fact in kinds], asked)
            for number, (town, fact) in enumerate(facts):
                yield {"id": f"{place}/{number}", **turn(town, fact, rng.randrange(2)), "knowledge": item}


def main() -> None:
    """Write the dialogues, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder")
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--batch", type=int, default=Plan.batch)
    parser.add_argument(
        "--one", type=int, default=Plan.one, help="steps with one passage a question, at first"
    )
    parser.add_argument("--share", type=float, default=Plan.share, help="of the steps after them with three")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    plan = Plan(args.steps, args.batch, args.one, args.share)
    write_lines(args.output / "train.jsonl", dialogues(plan, args.seed))
    held = Plan(2, args.batch, plan.steps, 0.0)
    write_lines(args.output / "val.jsonl", dialogues(held, args.seed, "val"))
    print_line(f"{plan.steps} steps of {plan.batch} questions: {args.output}")


if __name__ == "__main__":
    main()
