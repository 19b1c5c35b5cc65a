"""The embedded encyclopedia: reproducible, disjoint splits, complete passages."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from comem.toy import lexicon
from comem.toy.draw import draw
from comem.toy.world import SPLITS, World


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=3, size=400)


def test_same_seed_same_world_and_larger_worlds_extend_smaller_ones(world: World) -> None:
    assert World(seed=3, size=100).entities == world.entities[:100]
    assert World(seed=4, size=100).entities != world.entities[:100]


def test_entities_differ_in_name_and_arms(world: World) -> None:
    assert len({entity.name for entity in world.entities}) == len(world)
    assert len({entity.arms for entity in world.entities}) == len(world)


def test_splits_are_disjoint_and_cover_the_world(world: World) -> None:
    names = [{entity.id for entity in world.split(split)} for split in SPLITS]
    assert sum(map(len, names)) == len(set().union(*names)) == len(world)
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        world.split("dev")  # type: ignore[arg-type]


@pytest.mark.parametrize("language", lexicon.LANGUAGES)
def test_every_passage_states_every_fact(world: World, language: str) -> None:
    for entity in world.entities[:50]:
        passage = entity.passage(language)
        assert entity.name in passage
        for fact in lexicon.FACTS:
            assert entity.value(fact, language) in passage


@pytest.mark.parametrize("language", lexicon.LANGUAGES)
def test_every_language_has_every_value_sentence_and_question(language: str) -> None:
    for fact in lexicon.FACTS:
        assert len(lexicon.QUESTIONS[language][fact]) == len(lexicon.SENTENCES[language][fact]) == 2
    for values in lexicon.VALUES.values():
        assert len(set(values[language])) == len(values["en"])


def test_facts_are_of_three_kinds_and_vary(world: World) -> None:
    assert set(lexicon.FACTS.values()) == {"Time", "String", "Numerical"} and len(lexicon.FACTS) >= 6
    for fact in lexicon.FACTS:
        assert len({entity.facts[fact] for entity in world.entities}) > 20


def test_images_of_one_town_differ_but_are_reproducible(world: World) -> None:
    entity = world.entities[0]
    views = [np.asarray(draw(entity, view)) for view in range(3)]
    assert all((a != b).mean() > 0.5 for a, b in itertools.combinations(views, 2))
    assert (np.asarray(draw(entity, 0)) == views[0]).all()


def test_too_large_a_world_is_refused() -> None:
    with pytest.raises(ValueError, match="not 1000000"):
        World(size=1_000_000)
