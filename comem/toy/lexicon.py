"""The words of the embedded world in six languages: names, values, sentences, questions (`lexicon.json`).

Sentences take `{name}` or `{value}`; each fact has two wordings a language; fillers are sentences without a
fact, so that passages differ in length. Values and units are written so that they need no inflection.
Passages state the facts in the order of `FACTS`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "bg", "zh", "pt", "ru", "es")
#: Each fact with its question type of InfoSeek's scorer.
FACTS = {
    "founded": "Time", "stone": "String", "height": "Numerical", "animal": "String", "area": "Numerical",
    "craft": "String",
}  # fmt: skip

_READ: dict[str, Any] = json.loads(Path(__file__).with_name("lexicon.json").read_text(encoding="utf-8"))
NAME_STARTS: list[str] = _READ["name_starts"].split()
NAME_ENDS: list[str] = _READ["name_ends"].split()
NAME_MIDDLES: list[str] = _READ["name_middles"].split()
#: By fact and language.
VALUES: dict[str, dict[str, list[str]]] = {
    fact: {language: words.split() for language, words in named.items()}
    for fact, named in _READ["values"].items()
}
UNITS: dict[str, dict[str, str]] = _READ["units"]
#: By language and fact, and by language.
SENTENCES: dict[str, dict[str, list[str]]] = _READ["sentences"]
QUESTIONS: dict[str, dict[str, list[str]]] = _READ["questions"]
FILLERS: dict[str, list[str]] = _READ["fillers"]

COLOURS = {
    "red": (200, 30, 40), "blue": (30, 60, 180), "green": (20, 130, 60), "yellow": (240, 205, 40),
    "white": (242, 242, 238), "black": (25, 25, 28), "purple": (125, 40, 140), "orange": (235, 125, 30),
}  # fmt: skip
DIVISIONS = ("plain", "bar", "pale", "bend", "cross", "quarters")
CHARGES = ("disc", "ring", "square", "diamond", "triangle", "star", "plus", "crescent", "bars", "drop")
