"""The report: run folders and files beside the paper's printed numbers, each with its table."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comem.cli import main
from comem.eval.report import write_report
from comem.eval.results import Measure, cell, find_results, measures, overview, sections
from comem.io.files import RecordError

SPLITS = {"unseen_question_score": {"score": 33.0}, "unseen_entity_score": {"score": 31.0}}


def run(folder: Path, benchmark: str, mode: str, model: str = "qwen2_5_vl_7b", **metrics: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"benchmark": benchmark, "count": 4, **metrics}))
    config = {"benchmark": benchmark, "mode": mode, "model": model}
    (folder / "run.json").write_text(json.dumps({"config": config}))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    run(
        folder / "a", "infoseek", "comem", final_score=32.0, final_score_missing_wrong=16.0, answered=2,
        total=4, confidence={"final_score": [20.0, 40.0]}, scorer="official",
        mean={"context_tokens": 24.0, "seconds": 0.5}, notes=["2 questions are <unanswered>"], **SPLITS,
    )  # fmt: skip
    run(folder / "b", "infoseek", "baseline", final_score=20.0, answered=4, total=4, **SPLITS)
    run(folder / "c", "cvqa", "rag", overall=50.0, by_pair={"Spanish-Spain": 60.0, "Igbo-Nigeria": 40.0})
    return folder


def test_results_are_found_in_order(runs: Path) -> None:
    found = find_results([runs])
    assert [(each.benchmark, each.mode) for each in found] == [
        ("infoseek", "baseline"), ("infoseek", "comem"), ("cvqa", "rag"),
    ]  # fmt: skip
    assert [(each.metric, each.value) for each in measures(found[1])] == [
        ("final_score", 32.0), ("unseen_question_score.score", 33.0), ("unseen_entity_score.score", 31.0),
    ]  # fmt: skip
    assert measures(found[1])[0] == Measure("final_score", 32.0, (20.0, 40.0), 16.0)
    # of the pairs only those that the paper prints
    assert [each.metric for each in measures(found[2])] == ["overall", "by_pair.Spanish-Spain"]


def test_the_paper_stands_below_our_runs_with_its_tables(runs: Path) -> None:
    infoseek, cvqa = sections(find_results([runs]))
    ours = [line for line in infoseek.lines if line.ours]
    assert [line.mode for line in ours] == ["baseline", "comem"]
    assert ours[1].cells[0] == "32.00 [20.0, 40.0]; missing as wrong 16.00"
    assert (ours[1].answered, ours[1].tokens, ours[1].seconds) == ("2 / 4", "24.0", "0.500")
    theirs = {(line.mode, line.model): line for line in infoseek.lines if not line.ours}
    memory = theirs["comem", "Qwen2.5-VL"]
    assert memory.cells == ("30.7 (Table 12)", "32.8 (Table 3)", "28.5 (Table 3)")
    assert theirs["comem", "Qwen2-VL"].cells == ("–", "32.6", "33.1")
    assert theirs["comem", "Qwen2-VL"].source == "paper, Table 3, as printed"
    spanish = {(line.mode, line.model): line.cells for line in cvqa.lines if not line.ours}
    assert spanish["comem", "Qwen2.5-VL"] == ("68.53", "79.87")


def test_a_cell_without_interval_or_difference() -> None:
    assert cell(None) == "–"
    assert cell(Measure("x", 12.345, None, 12.345)) == "12.35"


def test_several_models_stand_side_by_side(runs: Path) -> None:
    run(runs / "d", "infoseek", "comem", "qwen2_vl_7b", final_score=30.0)
    found = overview(find_results([runs]))
    assert [column.label for column in found.columns if column.mode == "comem"] == [
        "comem · qwen2_5_vl_7b", "comem · qwen2_vl_7b",
    ]  # fmt: skip
    (_, _, values), _ = found.rows
    assert [each.value for each in values if each] == [20.0, 32.0, 30.0]


def test_several_runs_of_a_mode_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for items, score in ((10, 30.0), (3, 20.0)):
        run(tmp_path / "comem" / f"items_{items}" / "infoseek", "infoseek", "comem", final_score=score)
        run(tmp_path / "comem" / f"items_{items}" / "okvqa", "okvqa", "comem", overall=score + 1)
    run(tmp_path / "rag" / "infoseek", "infoseek", "rag", final_score=1.0)
    found = overview(find_results([tmp_path]))
    assert [column.label for column in found.columns] == ["rag", "comem · items_3", "comem · items_10"]
    assert [[each and each.value for each in row] for *_, row in found.rows] == [
        [1.0, 20.0, 30.0], [None, 21.0, 31.0],
    ]  # fmt: skip


def test_the_overview_has_every_number_but_those_of_splits(runs: Path) -> None:
    run(runs / "e", "aokvqa", "rag", direct_answer=40.0, multiple_choice=70.0)
    run(runs / "f", "aokvqa", "comem", multiple_choice=80.0)
    rows = [(name, metric, [each and each.value for each in row]) for name, metric, row in overview(
        find_results([runs])).rows]  # fmt: skip
    assert rows == [
        ("infoseek", "final_score", [20.0, None, 32.0]),
        ("aokvqa", "direct_answer", [None, 40.0, None]),
        ("aokvqa", "multiple_choice", [None, 70.0, 80.0]),
        ("cvqa", "overall", [None, 50.0, None]),
    ]


def test_the_papers_scorer_is_shown_but_not_in_the_overview(runs: Path) -> None:
    paper = {"benchmark": "infoseek", "count": 4, "scorer": "paper", "final_score": 99.0}
    (runs / "a" / "metrics_paper.json").write_text(json.dumps(paper))
    results = find_results([runs])
    assert sum(each.scorer == "paper" for each in results) == 1
    assert all(each is None or each.value != 99.0 for _, _, row in overview(results).rows for each in row)
    assert any("paper scorer" in line.source for line in sections(results)[0].lines if line.ours)


class Page(HTMLParser):
    """The tags and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_needs_no_server_and_the_figure_is_a_png(runs: Path, tmp_path: Path) -> None:
    assert main(["report", str(runs), "--output", str(tmp_path / "out"), "--title", "A & B"]) == 0
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert page.open == [] and len(page.addresses) == 1
    assert page.addresses[0].startswith("data:image/png;base64,")
    text = " ".join(page.words)
    assert "A & B" in text and "2 questions are <unanswered>" in text and "Table 12" in text
    with Image.open(tmp_path / "out" / "report.png") as figure:
        assert figure.format == "PNG" and figure.width > 600
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(numbers["results"]) == 3 and numbers["run"]["versions"]["python"]


def test_files_of_evaluate_serve_too(tmp_path: Path) -> None:
    file = tmp_path / "oven.json"
    file.write_text(json.dumps({"benchmark": "oven", "count": 2, "query_score": 30.0, "final_score": 25.0}))
    (result,) = write_report([file], tmp_path / "out")
    assert (result.benchmark, result.mode, result.model) == ("oven", "–", "–")
    lines = sections([result])[0].lines
    assert any(
        line.cells == ("–", "26") for line in lines if (line.mode, line.model) == ("comem", "Qwen2.5-VL")
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", {"total": 4}), ("metrics.json", {"mean": 3}), ("metrics.json", {"notes": 3}),
        ("metrics.json", {"confidence": {"final_score": [1]}}), ("metrics.json", {"confidence": 5}),
        ("metrics.json", {"mean": {"seconds": "long"}}), ("run.json", [1]), ("run.json", {"config": "x"}),
    ],
)  # fmt: skip
def test_a_damaged_report_is_named(runs: Path, name: str, content: Any) -> None:
    file = runs / "b" / name
    old = json.loads(file.read_text())
    old.pop("answered", None)
    file.write_text(json.dumps({**old, **content} if name == "metrics.json" else content))
    with pytest.raises(RecordError, match=r"b/metrics.json: it, or run.json beside it, is not in the form"):
        find_results([runs])


def test_nothing_to_report_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RecordError, match="no metrics.*in it; comem predict makes run folders"):
        find_results([tmp_path])
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(RecordError, match="x.json: no report"):
        find_results([tmp_path / "x.json"])
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "comem predict makes run folders" in " ".join(capsys.readouterr().err.split())


def test_the_fields_numbers_stand_below_with_their_sources(runs: Path, tmp_path: Path) -> None:
    run(runs / "d", "evqa", "rag", exact_match=20.0, scorer="official")
    (runs / "d" / "metrics_bem.json").write_text(
        json.dumps({"benchmark": "evqa", "count": 4, "score": 31.0, "exact_match": 20.0, "scorer": "bem"})
    )
    assert all(line.mode != "others" for part in sections(find_results([runs])) for line in part.lines)
    assert main(["report", str(runs), "--field", "--output", str(tmp_path / "out")]) == 0
    shown = {part.benchmark: part for part in sections(find_results([runs]), field=True)}
    lines = {line.model: line for line in shown["infoseek"].lines if line.mode == "others"}
    at = shown["infoseek"].metrics.index("final_score")
    assert lines["DBAgent"].cells[at] == "49.9" and "arXiv 2604.07146" in lines["DBAgent"].source
    assert "averaged otherwise" in lines["DBAgent"].source and not lines["DBAgent"].ours
    evqa = shown["evqa"]
    both = [line.cells for line in evqa.lines if line.ours]
    assert evqa.metrics == ("exact_match", "score") and both == [("20.00", "–"), ("20.00", "31.00")]
    assert {line.cells[1] for line in evqa.lines if line.model == "WikiSeeker"} == {"55.6"}
    (row,) = ((values) for name, metric, values in overview(find_results([runs])).rows if metric == "score")
    assert sum(value is not None for value in row) == 1, "one column for one folder"
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "WikiSeeker (ACL 2026 Findings)" in page and "they rank nobody" in page


def test_every_number_of_the_field_is_of_a_metric_of_ours() -> None:
    from comem.eval.paper_numbers import FIELD, of_field
    from comem.eval.results import headline

    for row in FIELD:
        assert row.metric.removesuffix(".score") in headline(row.benchmark) and row.source, row
        assert 0 < row.value < 100
    assert of_field("infoseek_filtered") == of_field("infoseek") != []
