"""Vectors in Milvus behind the same class: found, changed and gone as with the index in RAM."""

from __future__ import annotations

from pathlib import Path

import pytest
from store.conftest import QUESTION

import comem
from comem.toy.draw import image_of

pytest.importorskip("pymilvus", reason="pymilvus is not installed")
pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")
pytestmark = pytest.mark.slow


def test_a_memory_on_milvus_is_as_one_in_ram(opened, remembered, towns, tmp_path: Path) -> None:
    memory = opened("remote", vectors=str(tmp_path / "vectors.db"))
    for number, town in enumerate(towns):
        memory.add(
            f"{town.name}: {town.passage()}", image_of(town, view=0) if number else None, id=town.id,
            user_id="ann" if number % 2 == 0 else "ben",
        )  # fmt: skip
    remembered.delete(towns[0].id)
    remembered.add(f"{towns[0].name}: {towns[0].passage()}", id=towns[0].id, user_id="ann")

    def both(query=None, image=None, **options) -> list[str]:
        one, two = (each.search(query, image, k=6, **options) for each in (remembered, memory))
        assert {item.id: round(item.score, 4) for item in one} == {i.id: round(i.score, 4) for i in two}
        return [item.id for item in two]

    assert both(towns[2].name)[0] == towns[2].id
    assert both(image=image_of(towns[3], view=1))[0] == towns[3].id
    assert set(both("walls", image_of(towns[1], view=1), user_id="ben")) == {t.id for t in towns[1::2]}
    assert memory.ask(QUESTION, image_of(towns[4], view=1)).text == towns[4].value("stone")
    for each in (remembered, memory):
        each.update(towns[2].id, "A windmill.")
        each.delete(towns[3].id)
        each.add("A mill alone.", id="mill")
    assert both("windmill")[0] == towns[2].id and towns[3].id not in both(image=image_of(towns[3], view=1))
    assert both("mill")[0] == "mill"


def test_readers_see_what_milvus_has_not_got_and_the_folder_remembers_where(opened, towns, tmp_path) -> None:
    memory = opened("remote", vectors=str(tmp_path / "vectors.db"))
    memory.add(f"{towns[0].name}: {towns[0].passage()}", image_of(towns[0], view=0), id=towns[0].id)
    assert memory.search(towns[0].name)[0].id == towns[0].id
    memory._table.begin_writing()
    writes, memory._table._writer = memory._table._writer, False  # as a reader, whose writer was killed
    memory._index._revision = 0
    memory._table._writer = writes
    memory._insert(_pending(towns[1]), comem.store.table.Scope())
    memory._table._writer = False
    assert memory.search(image=image_of(towns[1], view=1), k=1)[0].text.startswith(towns[1].name)
    assert memory._index._recent is not None, "compared here"
    memory._table._writer = True
    memory.add("another")
    assert memory.search(image=image_of(towns[1], view=1), k=1)[0].text.startswith(towns[1].name)
    assert memory._index._recent is None, "brought there"
    memory.close()
    again = opened("remote")
    assert type(again._index).__name__ == "MilvusIndex"
    assert again.search(image=image_of(towns[0], view=1))[0].id == towns[0].id


def _pending(town) -> list:
    from comem.store.incoming import item_of

    return [item_of(f"{town.name}: {town.passage()}", image_of(town, view=0), {}, town.id)]
