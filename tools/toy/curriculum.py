"""In which order the embedded backbone learns: from bare drills over one town to three in the context.

A task at its plateau slows down one that is being learned, so each part of the curriculum drops what is
known by then. What it takes to get here, and what did not work: docs/embedded_models.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tools.toy.episodes import Recipe


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum: until which step, and groups of recipes; a step takes one of each group."""

    until: int
    groups: tuple[tuple[Recipe, ...], ...]


RECALL = Recipe(items=5, questions=14, drill="recall", describe=0.0, hard=0.2, batch=4)
CLOZE = Recipe(items=3, questions=14, drill="cloze", hard=0.2, batch=5)
TERSE = Recipe(items=3, questions=12, terse=True, describe=0.05, batch=5)
FULL = Recipe(items=3, questions=12, describe=0.05, batch=5)
PREFIX = Recipe(items=3, questions=10, drill="prefix", hard=0.3, batch=10)
ONE = (replace(TERSE, items=1), replace(TERSE, items=1, before_system=True))
KEPT = tuple(  # what is known stays known
    replace(recipe, batch=2)
    for recipe in (TERSE, FULL, replace(FULL, before_system=True), replace(FULL, items=1, before_system=True))
)
STAGES = (
    Stage(60, ((RECALL,), (replace(CLOZE, items=1),))),
    Stage(300, ((RECALL,), (CLOZE,))),
    Stage(500, ((CLOZE,), ONE)),
    Stage(1000, ((CLOZE,), (TERSE, replace(TERSE, before_system=True), replace(TERSE, items=2)))),
    Stage(
        3200,
        (
            (replace(CLOZE, batch=3), TERSE, replace(TERSE, before_system=True)),
            (FULL, replace(FULL, before_system=True), replace(FULL, items=1, before_system=True)),
        ),
    ),
    Stage(3400, ((replace(PREFIX, items=1),), KEPT)),
    Stage(3700, ((PREFIX,), KEPT)),
    Stage(10**9, ((replace(PREFIX, disturbance=1.0),), KEPT)),
)


def stage_at(step: int) -> Stage:
    """The part of the curriculum that a step belongs to."""
    return next(stage for stage in STAGES if step < stage.until)


def fewer_slots(step: int, steps: int, slots: Sequence[int]) -> Stage:
    """What may follow on a finished backbone: items in fewer embeddings, which hold several facts each."""
    prefix = tuple(replace(PREFIX, slots=count) for count in slots)
    if step < 0.15 * steps:
        return Stage(steps, (tuple(replace(recipe, items=1) for recipe in prefix), KEPT))
    if step < 0.6 * steps:
        return Stage(steps, (prefix, KEPT))
    return Stage(steps, (tuple(replace(recipe, disturbance=1.0) for recipe in prefix), KEPT))
