"""`comem oven`: predictions to linked predictions, interrupted, resumed, and scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comem.cli import main
from comem.io.files import RecordError, StorageError, read_json, read_jsonl
from comem.linking.build import build_title_index
from comem.linking.index import TitleIndex
from comem.linking.link import LinkSettings, link_file
from comem.linking.titles import Words

TITLES = {"Q90": "Paris", "Q2": "Paris, Texas", "Q44440": "Golden Gate Bridge", "Q5": "Rome", "Q6": "Oslo"}


@pytest.fixture()
def index(tmp_path: Path) -> TitleIndex:
    path = tmp_path / "titles.jsonl"
    rows = ({"wikidata_id": qid, "wikipedia_title": title} for qid, title in TITLES.items())
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return build_title_index(path, tmp_path / "index", Words())


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answers(*texts: str) -> list[dict[str, Any]]:
    return [{"data_id": f"q{i}", "prediction": text, "seconds": 0.5} for i, text in enumerate(texts)]


def test_rows_keep_their_fields_and_gain_an_entity(tmp_path: Path, index: TitleIndex) -> None:
    texts = ("the golden gate bridge", r"I think \boxed{Paris}", "", "xyz", "Paris " * 20_000)
    source = write(tmp_path / "p.jsonl", answers(*texts))
    counts = link_file(index, source, tmp_path / "linked.jsonl")
    assert (counts.total, counts.resumed, counts.linked, counts.empty) == (5, 0, 5, 2)
    rows = list(read_jsonl(tmp_path / "linked.jsonl"))
    assert [row["pred_entity_id"] for row in rows] == ["Q44440", "Q90", "", "", "Q90"]
    assert [row["pred_entity_title"] for row in rows[:3]] == ["Golden Gate Bridge", "Paris", ""]
    assert all(row["seconds"] == 0.5 for row in rows) and [row["prediction"] for row in rows] == list(texts)
    manifest = read_json(tmp_path / "linked.manifest.json")
    assert manifest["config"]["tokenizer"] == "words" and manifest["counts"]["linked"] == 5


def test_whole_texts_cut_texts_and_candidates(tmp_path: Path, index: TitleIndex) -> None:
    source = write(tmp_path / "p.jsonl", answers(r"Rome, Rome or \boxed{Oslo}"))

    def linked(name: str, settings: LinkSettings) -> dict[str, Any]:
        link_file(index, source, tmp_path / name, settings)
        return next(read_jsonl(tmp_path / name))

    assert linked("a.jsonl", LinkSettings())["pred_entity_id"] == "Q6"
    assert linked("b.jsonl", LinkSettings(whole=True))["pred_entity_id"] == "Q5"
    assert linked("c.jsonl", LinkSettings(max_chars=1))["pred_entity_id"] == ""
    candidates = linked("d.jsonl", LinkSettings(whole=True, keep=5))["candidates"]
    assert [name for name, _, _ in candidates] == ["Q5", "Q6"] and candidates[0][2] > candidates[1][2]
    for wrong in ({"max_chars": -1}, {"keep": 0}):
        with pytest.raises(ValueError, match="give at least 0 and 1"):
            LinkSettings(**wrong)  # type: ignore[arg-type]


def test_it_goes_on_where_it_stopped(tmp_path: Path, index: TitleIndex) -> None:
    source = write(tmp_path / "p.jsonl", answers(*["Paris", "Rome", "Oslo"] * 300))
    whole, torn = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    link_file(index, source, whole)
    seen: list[int] = []

    def stop(count: int) -> None:
        seen.append(count)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        link_file(index, source, torn, advance=stop)
    torn.write_bytes(torn.read_bytes()[:-7])  # a crash while a line was written
    counts = link_file(index, source, torn, advance=seen.append)
    assert counts.resumed == sum(seen[:2]) - 1 and counts.resumed + counts.linked == counts.total == 900
    assert torn.read_bytes() == whole.read_bytes()
    assert link_file(index, source, torn).linked == 0


def test_what_does_not_belong_together_is_refused(tmp_path: Path, index: TitleIndex) -> None:
    source, output = write(tmp_path / "p.jsonl", answers("Paris", "Rome")), tmp_path / "out.jsonl"
    link_file(index, source, output)
    with pytest.raises(ValueError, match=r"made with other settings \(keep: 1 there, 3 now\)"):
        link_file(index, source, output, LinkSettings(keep=3))
    with pytest.raises(RecordError, match="'q1' has another answer"):
        link_file(index, write(tmp_path / "p.jsonl", answers("Paris", "Oslo")), output)
    with pytest.raises(ValueError, match="would overwrite the predictions"):
        link_file(index, source, source)
    (tmp_path / "out.manifest.json").unlink()
    with pytest.raises(ValueError, match="rows of an unknown run"):
        link_file(index, source, output)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"data_id": "a", "prediction": None}], "'a' is null"),
        ([{"data_id": "a", "prediction": 5}], "'a' is int 5"),
        ([{"data_id": "a", "prediction": "x"}] * 2, "'a' comes twice"),
        ([{"data_id": "a"}], "none of prediction"),
    ],
)
def test_broken_predictions_are_refused(
    tmp_path: Path, index: TitleIndex, rows: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(RecordError, match=said):
        link_file(index, write(tmp_path / "p.jsonl", rows), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_full_disk_loses_nothing(tmp_path: Path, index: TitleIndex) -> None:
    source = write(tmp_path / "p.jsonl", answers("Paris"))
    output = tmp_path / "full.jsonl"
    output.symlink_to("/dev/full")
    with pytest.raises(StorageError, match="free some space"):
        link_file(index, source, output)


def test_from_titles_to_the_official_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    titles = write(tmp_path / "t.jsonl", [{"id": qid, "content": title} for qid, title in TITLES.items()])
    assert main(["oven", "index", "--titles", str(titles), "--output", str(tmp_path / "index")]) == 0
    assert "5 titles" in capsys.readouterr().out
    options: list[str] = []
    for part in ("query", "entity"):
        references = [
            {"data_id": f"q{i}", "entity_id": qid, "data_split": f"{part}_val_{split}"}
            for i, (qid, split) in enumerate([("Q90", "seen"), ("Q5", "seen"), ("Q6", "unseen")])
        ]
        source = write(tmp_path / f"{part}.jsonl", answers("It is Paris", "Oslo", "oslo"))
        output = str(tmp_path / f"{part}_linked.jsonl")
        command = ["oven", "link", "--index", str(tmp_path / "index"), "--predictions", str(source)]
        assert main([*command, "--output", output]) == 0
        file = write(tmp_path / f"{part}_references.jsonl", references)
        options += [f"--predictions-{part}", output, f"--references-{part}", str(file)]
    assert main(["evaluate", "oven", *options, "--output", str(tmp_path / "score.json")]) == 0
    score = read_json(tmp_path / "score.json")
    assert score["query_result"] == {"seen": 50.0, "unseen": 100.0} and score["final_score"] == 66.67


def test_mistakes_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = ["oven", "link", "--predictions", "p.jsonl", "--output", str(tmp_path / "o.jsonl"), "--index"]
    assert main([*link, str(tmp_path / "none")]) == 2
    assert "make one with comem oven index" in capsys.readouterr().err
    build = ["oven", "index", "--titles", str(tmp_path / "t.tsv"), "--output", str(tmp_path / "i")]
    assert main([*build, "--tokenizer", "bert"]) == 2
    assert "--vocabulary vocab.txt" in capsys.readouterr().err
