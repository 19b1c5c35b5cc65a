"""Real prose with questions: countries (the flags' passages) and chemical elements.

`python -m tools.smollm2.prose FOLDER --flags FOLDER --elements WHEEL` writes the dialogues from which a
memory goes on to learn such texts (`comem train … init=tools/smollm2/memory`), from entities that are not
held out. Their values and names are drawn anew from one another, so that only the passage can tell them:
"The capital of Chad is Lima." Held out are the flags' unseen countries, and every third element; these stay
as they are.

The elements come from the package mendeleev (MIT; its description, its uses, who found it, when and where),
which is only unpacked, not installed: `pip download --no-deps mendeleev==1.3.0`.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import random
import re
import sqlite3
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from comem.io.console import print_line
from comem.io.files import read_jsonl
from comem.toy.dataset import write_lines
from tools.smollm2.towns import Plan, dialogues, towns

COUNTRY = re.compile(
    r"(?P<name>.+) is a country or territory in (?P<region>.+), [^,]+\. Its capital is (?P<capital>.+)\. "
    r"It covers (?P<area>[\d.]+) square kilometres\. .*Its currency is the (?P<currency>.+)\. "
    r"It has (?P<borders>\d+) land borders\. Its calling code is \+(?P<code>\d+)\."
)
#: Of each fact: two wordings of the question, and the answer in a sentence.
TURNS = {
    "capital": ("What is the capital of {name}?", "Which city is the capital of {name}?",
                "The capital of {name} is {value}."),
    "area": ("How many square kilometres does {name} cover?", "How large is {name} in square kilometres?",
             "{name} covers {value} square kilometres."),
    "currency": ("What is the currency of {name}?", "Which money is used in {name}?",
                 "The currency of {name} is the {value}."),
    "region": ("In which region does {name} lie?", "Where is {name}?", "{name} lies in {value}."),
    "code": ("What is the calling code of {name}?", "Which code does one dial for {name}?",
             "The calling code of {name} is +{value}."),
    "by": ("Who discovered {name}?", "By whom was {name} discovered?", "{name} was discovered by {value}."),
    "year": ("In which year was {name} discovered?", "When was {name} discovered?",
             "{name} was discovered in {value}."),
    "place": ("In which country was {name} discovered?", "Where was {name} discovered?",
              "{name} was discovered in {value}."),
    "symbol": ("What is the symbol of {name}?", "Which symbol does {name} have?",
               "The symbol of {name} is {value}."),
}  # fmt: skip
#: What the questions that are measured ask for; the other facts are only trained.
ASKED = {"flags": ("capital", "area", "currency"), "elements": ("by", "year", "place", "symbol")}


@dataclass(frozen=True)
class Entry:
    """A passage about one entity.

    Attributes:
        name: of the entity.
        text: the passage, `{name}` and `{fact}` in the places of its name and values.
        facts: the values.
        accepted: further right answers of a fact.
        held: whether it is kept for measuring.
    """

    name: str
    text: str
    facts: dict[str, str]
    accepted: dict[str, tuple[str, ...]]
    held: bool

    def passage(self) -> str:
        """The text with its values."""
        return self.text.format(name=self.name, **self.facts)

    def turn(self, fact: str, wording: int) -> dict[str, str]:
        """A question with its answer and the value in it."""
        *asked, answer = TURNS[fact]
        value = self.facts[fact]
        said = answer.format(name=self.name, value=value)
        return {"question": asked[wording].format(name=self.name), "answer": said, "value": value}


def flags(folder: Path) -> list[Entry]:
    """Countries and territories, English.

    Args:
        folder: of flags in WIT's format, with questions.jsonl.
    """
    with gzip.open(folder / "wit_flags.tsv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, dialect="excel-tab") if row["language"] == "en"]
    found: dict[str, Entry] = {}
    for row in rows:
        text = row["context_page_description"]
        if match := COUNTRY.fullmatch(text):
            facts = match.groupdict()
            name = facts.pop("name")
            for fact in ("area", "capital", "code", "currency", "region"):
                start, end = match.span(fact)
                facts[fact] = text[start:end]
            spans = sorted(((match.span(fact), fact) for fact in ("name", *facts)), reverse=True)
            for (start, end), fact in spans:
                text = f"{text[:start]}{{{fact}}}{text[end:]}"
            found[name] = Entry(name, text, facts, {}, False)
    for row in read_jsonl(folder / "questions.jsonl"):
        if (entry := found.get(row["entity_text"])) is not None:
            fact = row["data_id"].split("_", 2)[2]
            accepted = entry.accepted | {fact: tuple(map(str, row["answer"]))}
            held = entry.held or row["data_split"] == "val_unseen_entity"
            found[entry.name] = replace(entry, accepted=accepted, held=held)
    return list(found.values())


def elements(wheel: Path) -> list[Entry]:
    """Chemical elements.

    Args:
        wheel: of the package mendeleev.
    """
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        path = archive.extract("mendeleev/elements.db", folder)
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            rows = database.execute(
                "select atomic_number, name, symbol, description, uses, discoverers, discovery_year,"
                " discovery_location from elements"
                " where description is not null and discovery_year is not null"
            ).fetchall()
    found = []
    for number, name, symbol, description, uses, discoverers, year, place in rows:
        # What the description itself says of the discovery would contradict a value drawn anew.
        kept = [
            sentence
            for sentence in re.split(r"(?<=[.])\s+", description.strip())
            if not re.search(
                r"\d{4}|[{}]|named|(?i:discover|identified|isolated|produced|prepared|synthes|introduced)",
                sentence,
            )
        ]
        by = re.split(r",| and | & ", discoverers)[0].strip()
        use = re.split(r"(?<=[.])\s+", (uses or "").strip())[:1]
        about = " ".join([*kept[:3], *use]).replace(name, "{name}")
        found_by = "It was discovered by {by} in {year}, in {place}."
        text = f"{{name}} has the symbol {{symbol}}. {about} {found_by}"
        facts = {"symbol": symbol, "by": by, "year": str(year), "place": place}
        last: dict[str, tuple[str, ...]] = {"by": (re.split(r"[ .]", by)[-1],)}
        found.append(Entry(name, text, facts, last, number % 3 == 0))
    return found


READ = {"flags": flags, "elements": elements}


def anew(entry: Entry, others: list[Entry], rng: random.Random) -> Entry:
    """The same sentences about another name, with values of others; numbers of the same length.

    Four names in ten are a town's of the embedded world, so that spelling is learned, not a list.
    """

    def name(of: str) -> str:
        return rng.choice(towns("train")).name if rng.random() < 0.4 else of

    drawn = {}
    for fact in entry.facts:
        value = rng.choice(others).facts[fact]
        if fact in ("capital", "by"):
            value = name(value)
        if value.isdigit():
            low = 1700 if fact == "year" else 10 ** (len(value) - 1)
            value = str(rng.randrange(low, 2020 if fact == "year" else 10 * low))
        drawn[fact] = value
    return Entry(name(rng.choice(others).name), entry.text, drawn, {}, False)


def records(
    corpora: dict[str, list[Entry]], plan: Plan, seed: int, made_up: float = 0.25
) -> Iterator[dict[str, Any]]:
    """Steps of questions about passages of the corpora and, in a share of them, of towns.

    Args:
        corpora: entries by name; held-out ones are left out.
        plan: how many steps, of how many questions; `share` of the steps know three passages.
        seed: of all that is drawn.
        made_up: share of the steps about the embedded world, so that it is not forgotten.
    """
    known = {name: [entry for entry in every if not entry.held] for name, every in corpora.items()}
    other = list(dialogues(replace(plan, one=0), seed))
    place = 0
    for step in range(plan.steps):
        rng = random.Random(f"prose/{seed}/{step}")
        if rng.random() < made_up:
            yield from (row for row in other if row["id"].split("/")[0] == str(step))
            continue
        several = rng.random() < plan.share
        groups, items, asked = (plan.batch // 8, 3, 8) if several else (plan.batch // 4, 1, 4)
        for _ in range(groups):
            every = known[rng.choice(list(known))]
            chosen: list[Entry] = []
            while len(chosen) < items:
                made = anew(rng.choice(every), every, rng)
                if made.name not in {one.name for one in chosen}:
                    chosen.append(made)
            place += 1
            item = [{"id": f"p{place}/{number}", "text": one.passage()} for number, one in enumerate(chosen)]
            facts = [(one, fact) for one in chosen for fact in one.facts if fact in TURNS]
            for number, (one, fact) in enumerate(rng.sample(facts, min(asked, len(facts)))):
                yield {"id": f"p{place}/{number}", **one.turn(fact, rng.randrange(2)), "knowledge": item}


def main() -> None:
    """Write the dialogues, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder")
    parser.add_argument("--flags", type=Path, help="folder of flags")
    parser.add_argument("--elements", type=Path, help="wheel of mendeleev")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=Plan.batch)
    parser.add_argument("--share", type=float, default=0.3, help="of the steps with three passages")
    parser.add_argument("--towns", type=float, default=0.25, help="share of the steps about towns")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    corpora = {name: read(getattr(args, name)) for name, read in READ.items() if getattr(args, name)}
    if not corpora:
        raise SystemExit("give --flags FOLDER or --elements WHEEL")
    plan = Plan(args.steps, args.batch, 0, args.share)
    write_lines(args.output / "train.jsonl", records(corpora, plan, args.seed, args.towns))
    count = {name: sum(not entry.held for entry in every) for name, every in corpora.items()}
    print_line(f"{plan.steps} steps of {plan.batch} questions from {count}: {args.output}")


if __name__ == "__main__":
    main()
