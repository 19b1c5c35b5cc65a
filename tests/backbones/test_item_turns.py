"""Items as turns, in each form."""

from __future__ import annotations

import pytest

from comem.backbones.base import item_turns
from comem.backbones.specs import IMAGE_PASSAGE, PASSAGE_IMAGE, PASSAGES, RagFormat
from comem.types import ImageRef, KnowledgeItem, Message

PICTURE = ImageRef(path="a.png")
BOTH = KnowledgeItem("a", "a passage", PICTURE)
BARE = KnowledgeItem("b", "", PICTURE)


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        (PASSAGE_IMAGE, [("a passage", PICTURE), (PICTURE,)]),
        (IMAGE_PASSAGE, [(PICTURE, "a passage"), (PICTURE,)]),
        (PASSAGES, [("a passage",)]),
        (RagFormat(passage_chars=3), [(PICTURE, "a p"), (PICTURE,)]),
    ],
)
def test_one_user_turn_an_item(form: RagFormat, shown: list[tuple[str | ImageRef, ...]]) -> None:
    assert item_turns(form, [BOTH, BARE]) == [Message("user", content) for content in shown]
    assert item_turns(form, []) == []
