"""Passages, named questions and prompts of the embedded world for a text-only reader."""
from __future__ import annotations
import dataclasses, random, re
from comem.toy import lexicon
from comem.toy.world import Entity, World, random_facts

QUESTIONS = {
    "founded": ("In which year was {name} founded?", "What year does {name} date from?"),
    "stone": ("What are the walls of {name} made of?", "Which material was used for the wall of {name}?"),
    "height": ("How high is the tower of {name}?", "What is the height of the tower in {name}?"),
    "animal": ("Which animal do the people of {name} honour?", "What is the animal of {name}?"),
    "area": ("How large is the land of {name}?", "What area does {name} cover?"),
    "craft": ("What is {name} known for?", "What do traders come to {name} for?"),
}
FACTS = tuple(QUESTIONS)

def towns(split, size=4000):
    return World(0, size).split(split)

def fresh(town: Entity, seed: int) -> Entity:
    """The same name with facts and wording of another draw (train split only)."""
    return dataclasses.replace(town, facts=random_facts(random.Random(f"fresh/{seed}/{town.index}")), seed=seed)

def core(town, fact):
    """What must stand in an answer: the number or the word."""
    v = town.value(fact)
    return v.split()[0]

def right(answer: str, town, fact) -> bool:
    want = core(town, fact).lower()
    words = re.findall(r"[a-z]+|\d+(?:[.,]\d+)*", answer.lower())
    if want.isdigit():
        numbers = [w.replace(",", "") for w in words if w[0].isdigit()]
        return want in numbers
    stem = want[:-1] if want.endswith("s") else want
    return any(w == want or w == stem or w == want + "s" for w in words)

def official(answer: str, town, fact) -> bool:
    """InfoSeek's tolerance: a number within ten percent."""
    if lexicon.FACTS[fact] != "Numerical":
        return right(answer, town, fact)
    want = float(core(town, fact))
    nums = [float(n) for n in re.findall(r"\d+(?:\.\d+)?", answer.replace(",", ""))]
    return any(abs(n - want) <= 0.1 * want for n in nums)
