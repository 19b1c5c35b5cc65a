"""BEM: tokens, scores and weights against TensorFlow's own packages (bem/make.py), and E-VQA's whole rule."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from comem.benchmarks import BENCHMARKS, evqa
from comem.benchmarks.bem import FACTS, PUBLISHED, Bem, Compared, WordPieces
from comem.cli import main
from comem.compat.bem import convert_bem
from comem.compat.saved_model import read_variables
from comem.io.files import RecordError

HERE = Path(__file__).with_name("bem")
GOLDEN: list[dict[str, Any]] = json.loads((HERE / "golden.json").read_text(encoding="utf-8"))
ASKED = [Compared(row["question"], row["reference"], row["candidate"]) for row in GOLDEN]
SCORES = [row["score"] for row in GOLDEN]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bem") / "weights"
    found, notes = convert_bem(HERE, out, str(HERE), (ASKED[0], SCORES[0]))
    assert (found.layers, found.width, found.heads, found.refusal) == (2, 16, 2, "")
    assert "padding is masked, activation gelu" in notes[0]
    return out


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: row["candidate"] or "nothing")
def test_the_input_is_tensorflow_texts(row: dict[str, Any]) -> None:
    asked = Compared(row["question"], row["reference"], row["candidate"])
    assert WordPieces(HERE / "vocab.txt").row(asked) == (row["input_ids"], row["segment_ids"])


def test_scores_are_tensorflows(weights: Path) -> None:
    judge = Bem(weights)
    assert judge.scores(ASKED) == pytest.approx(SCORES, abs=1e-5)
    assert judge.scores(ASKED, batch_size=1) == pytest.approx(SCORES, abs=1e-5)
    assert max(SCORES) - min(SCORES) > 0.05, "else nothing would be compared"


def test_padding_that_is_attended_to_changes_scores(weights: Path, tmp_path: Path) -> None:
    """What the facts say of the padding holds."""
    shutil.copytree(weights, tmp_path / "attended")
    (tmp_path / "attended" / FACTS).write_text('{"padding": "attended"}')
    assert Bem(tmp_path / "attended").scores(ASKED) != pytest.approx(SCORES, abs=1e-3)


def test_long_answers_lose_their_end(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    judge = Bem(weights)
    ids, segments = judge.pieces.row(Compared("why?", "the sky", "blue " * 500), judge.length)
    assert len(ids) == len(segments) == 64 and "is cut to" in caplog.text
    assert (
        segments[-4:] == [1, 2, 2, 2] and len(judge.scores([Compared("why?", "the sky", "blue " * 500)])) == 1
    )


def test_a_classifier_with_two_segments_shares_one(weights: Path, tmp_path: Path) -> None:
    """Sequence classifiers that others trained on the same data know two segments."""
    from transformers import BertForSequenceClassification

    model = BertForSequenceClassification.from_pretrained(weights)
    model.bert.embeddings.token_type_embeddings.weight.data = (
        model.bert.embeddings.token_type_embeddings.weight.data[:2].clone()
    )
    model.config.type_vocab_size = 2
    model.save_pretrained(tmp_path)
    shutil.copy(weights / "vocab.txt", tmp_path)
    judge = Bem(tmp_path)
    assert judge.segments == (0, 1, 1) and judge.scores(ASKED) != pytest.approx(SCORES, abs=1e-4)


def test_variables_are_read_without_tensorflow(tmp_path: Path) -> None:
    variables = read_variables(HERE)
    assert variables["word_embeddings/embeddings"].shape == (51, 16)
    assert variables["transformer/layer_1/self_attention/query/kernel"].shape == (16, 2, 8)
    shutil.copytree(HERE / "variables", tmp_path / "cut" / "variables")
    (data,) = (tmp_path / "cut" / "variables").glob("*.data-*")
    data.write_bytes(data.read_bytes()[:-400])
    with pytest.raises(RecordError, match="cut short; fetch it again"):
        read_variables(tmp_path / "cut")
    (tmp_path / "cut" / "variables" / "variables.index").write_bytes(b"<html>404</html>" * 9)
    with pytest.raises(RecordError, match=r"variables\.index: not a whole SavedModel"):
        read_variables(tmp_path / "cut")


def test_other_weights_than_the_published_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert PUBLISHED[0] == ASKED[0] and PUBLISHED[1] == pytest.approx(0.98918, abs=1e-5)
    assert main(["convert", str(HERE)]) == 0 and "2 layers of 16, 2 heads" in capsys.readouterr().out
    assert main(["convert", str(HERE), str(tmp_path / "bem"), "--base", str(HERE)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "the published example scores 0.287018, not 0.989180 as printed" in said
    assert not (tmp_path / "bem").exists()
    with pytest.raises(ValueError, match=r"no assets/vocab\.txt: name BERT's vocabulary"):
        convert_bem(HERE, tmp_path / "bem", "")


def rows(*answers: str, kind: str = "templated") -> dict[str, dict[str, Any]]:
    return {
        f"q{number}": {"question": "why is the sky blue", "answer": answer, "question_type": kind}
        for number, answer in enumerate(answers)
    }


def test_bem_is_asked_once_for_each_reference_that_does_not_match(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Compared] = []

    def scores(self: object, given: list[Compared]) -> list[float]:
        asked.extend(given)
        return [0.5 if each.reference == "a tower" else 0.49 for each in given]

    monkeypatch.setattr(
        "comem.benchmarks.bem.Bem", type("Judge", (), {"__init__": lambda *_: None, "scores": scores})
    )
    table = rows("blue", "red|a tower", "green", "x&&y") | {}
    table["q3"]["question_type"] = "multi_answer"
    said = {"q0": "Blue.", "q1": "tall", "q2": "red", "q3": "z"}
    report = evqa.evaluate_with_bem(said, table, judge=Path("anywhere"))
    assert asked == [
        Compared("why is the sky blue", reference, candidate)
        for reference, candidate in (("red", "tall"), ("a tower", "tall"), ("green", "red"), ("x,y", "z"))
    ]
    metrics = report.metrics
    assert (metrics["score"], metrics["exact_match"], metrics["judged"]) == (50.0, 25.0, 3)
    assert metrics["by_question_type"] == {"multi_answer": 0.0, "templated": pytest.approx(200 / 3)}


def test_the_command_scores_with_bem_or_says_what_it_needs(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = "question,answer,dataset_image_ids,dataset_name,question_type,encyclopedic_vqa_split\n"
    (tmp_path / "test.csv").write_text(
        header
        + "Why?,light scattering,1,landmarks,templated,test\nHow tall?,324,1,landmarks,automatic,test\n"
    )
    said = (
        {"data_id": f"evqa_test_000000{n}", "prediction": text} for n, text in enumerate(("light", "324"))
    )
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    words = [
        "evaluate",
        "evqa",
        "--predictions",
        tmp_path / "said.jsonl",
        "--references",
        tmp_path / "test.csv",
    ]
    words += ["--output", tmp_path / "report.json"]

    def run(*more: object) -> tuple[int, str]:
        code = main([str(word) for word in (*words, *more)])
        caught = capsys.readouterr()
        return code, " ".join((caught.out + caught.err).split())

    code, shown = run("--scorer", "bem", "--judge", weights)
    report = json.loads((tmp_path / "report.json").read_text())
    assert (
        code == 0 and report["exact_match"] == 50.0 and report["judged"] == 1 and report["score"] in (50, 100)
    )
    assert report["scorer"] == "bem" and "score" in shown and str(weights) in report["notes"][0]
    code, shown = run("--scorer", "bem")
    assert code == 2 and "BEM, a BERT that judges answers; give its weights (--judge DIR)" in shown
    assert "answer_equivalence/bem/1" in shown and "comem convert" in shown
    code, shown = run("--judge", weights)
    assert code == 2 and "no model judges here" in shown and "leave out --judge" in shown
    code, shown = run("--scorer", "bem", "--judge", tmp_path)
    assert code == 2 and "BEM needs config.json there" in shown


def test_the_official_names_are_all_there() -> None:
    assert set(BENCHMARKS["evqa"].scorers) == {"official", "bem"}
    assert evqa.process("<extra_id_0> The  Tower") == "tower"
