"""Pictures are opened while the model works; order, results and errors are as without."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from comem.eval.answering import answer
from comem.io.images import ImageError, one_ahead, open_image, open_images
from comem.types import Example, ImageRef, KnowledgeItem, RetrievedContext
from tests.eval.fakes import TOY, FakeMode, rows


def test_pairs_come_in_order() -> None:
    for count in (0, 1, 2, 50):
        with one_ahead(lambda x: x * x, range(count)) as pairs:
            assert list(pairs) == [(i, i * i) for i in range(count)]


def test_the_next_is_worked_on_meanwhile_and_no_more() -> None:
    begun = {i: threading.Event() for i in range(6)}

    def work(i: int) -> int:
        begun[i].set()
        return i

    with one_ahead(work, range(6)) as pairs:
        for i, _ in pairs:
            if i < 5:
                assert begun[i + 1].wait(10)  # another thread opens the next while we hold this one
            assert not any(begun[later].is_set() for later in range(i + 2, 6))


def test_an_error_comes_with_its_own_item() -> None:
    def work(i: int) -> int:
        if i == 2:
            raise RuntimeError("broken")
        return i

    seen = []
    with pytest.raises(RuntimeError, match="broken"), one_ahead(work, range(5)) as pairs:
        for i, _ in pairs:
            seen.append(i)
    assert seen == [0, 1]


def test_stopping_leaves_no_thread_at_work() -> None:
    begun: list[int] = []
    with pytest.raises(KeyboardInterrupt), one_ahead(begun.append, range(100)) as pairs:
        for _ in pairs:
            raise KeyboardInterrupt
    assert len(begun) <= 2


def test_pictures_are_opened_once_and_only_where_needed(small_image: Any, tmp_path: Path) -> None:
    shared, own = small_image(seed=1), small_image(seed=2)
    gone = ImageRef(path=str(tmp_path / "gone.png"))
    items = tuple(KnowledgeItem(name, "text", ref) for name, ref in (("a", shared), ("b", gone), ("c", None)))
    asked = [Example("q0", "?", own), Example("q1", "?", None), Example("q2", "?", gone)]
    contexts = [RetrievedContext("q0", items, (3.0, 2.0, 1.0)), None, RetrievedContext("q2", items[:1])]

    examples, same = open_images(asked, contexts, items=False)
    assert examples == asked and same == contexts  # the same in all but the opened pixels
    assert examples[0].image.pixels.tobytes() == open_image(own).tobytes()
    assert same[0].items[0].image.pixels is None

    examples, with_items = open_images(asked, contexts, items=True)
    assert examples == asked and with_items == contexts
    assert with_items[0].items[0].image.pixels is with_items[2].items[0].image.pixels is not None
    assert open_image(with_items[0].items[0].image) is with_items[0].items[0].image.pixels
    with pytest.raises(ImageError, match="gone.png: no such image file"):
        open_image(examples[2].image)


def test_the_modes_get_opened_pictures_where_they_need_them(small_image: Any, tmp_path: Path) -> None:
    seen: list[bool] = []

    class Looking(FakeMode):
        def answer_batch(self, examples: Any, contexts: Any) -> Any:
            seen.append(contexts[0].items[0].image.pixels is not None)
            assert examples[0].image.pixels is not None
            return super().answer_batch(examples, contexts)

    asked = [Example("q", "?", small_image(seed=3), meta={"data_id": "q", "answer_eval": ["1"]})]
    contexts = {"q": RetrievedContext("q", (KnowledgeItem("a", "text", small_image(seed=4)),))}
    for needed in (True, False):
        mode = Looking()
        mode.opens_item_images = needed  # type: ignore[attr-defined]
        answer(TOY, asked, mode, contexts, tmp_path / str(needed))
    assert seen == [True, False]
    first, second = (rows(tmp_path / str(needed)) for needed in (True, False))
    assert first == second and first[0]["knowledge_ids"] == ["a"]
