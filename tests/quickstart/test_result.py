"""Rows, worked examples, table and figure of the quickstart."""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image

from comem.io.console import print_table
from comem.quickstart import Answered, Case, Row, draw_figure, row, table, worked_examples
from comem.types import Answer, Example, ImageRef, KnowledgeItem

ROWS = [Row("baseline", 0.03, 0, 0.01, 200), Row("rag", 0.9, 330, 0.05, 200, 3)]


def picture(colour: str = "red") -> ImageRef:
    buffer = io.BytesIO()
    Image.new("RGB", (900, 600), colour).save(buffer, format="PNG")
    return ImageRef(data=buffer.getvalue())


def case(name: str, *right: bool) -> Case:
    answers = tuple(Answered(f"mode {i}", "granite <b>", good) for i, good in enumerate(right))
    item = KnowledgeItem("k1", "A & B <script>alert(1)</script>", picture("blue"))
    return Case(Example(name, "Of what is it built?", picture(), ("granite",)), (item,), answers)


def test_row_takes_means() -> None:
    predictions = [Answer("x", context_tokens=10, seconds=1.0), Answer("y", seconds=3.0)]
    assert row("rag", predictions, [1.0, 0.0], 3) == Row("rag", 0.5, 5.0, 2.0, 2, 3)


def test_row_refuses_missing_scores() -> None:
    with pytest.raises(ValueError, match="comem: 1 predictions, 0 scores"):
        row("comem", [Answer("x")], [])


def test_worked_examples_show_each_pattern_the_usual_one_first() -> None:
    cases = [case("a", True), case("b", False), case("c", False), case("d", False)]
    assert [each.example.id for each in worked_examples(cases)] == ["b", "a", "c"]
    assert worked_examples([]) == []


def test_table_has_a_line_a_mode(capsys: pytest.CaptureFixture[str]) -> None:
    title, headings, rows = table("unseen towns", ROWS)
    print_table(headings, rows, title)
    text = capsys.readouterr().out
    assert "unseen towns (200 questions)" in text
    assert re.search(r"baseline\W+3\.0 %\W+0\W+–\W+0\.010", text)
    assert re.search(r"rag\W+90\.0 %\W+330\W+110\W+0\.050", text)


def test_figure_is_a_picture() -> None:
    with Image.open(io.BytesIO(draw_figure(ROWS, "unseen towns"))) as drawn:
        assert drawn.format == "PNG" and min(drawn.size) > 200
        assert len(drawn.convert("RGB").getcolors(1 << 24) or []) > 10
    with pytest.raises(ValueError, match="at least one row"):
        draw_figure([], "")
