"""`comem data translate` against a local server: killed and resumed, and with a local model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from comem.cli import main
from comem.data.translate import LocalModel, TranslateSettings, translate
from comem.io.files import read_jsonl
from comem.training.data import load_examples
from tests.data.standin import StandIn, serving

COUNT = 12


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "train.jsonl"
    path.parent.mkdir()
    item = {"id": "w", "text": "A passage.", "image": "w.png"}
    rows = [
        {"id": f"q{n}", "question": f"How old is number {n}?", "answer": f"{1000 + n} years",
         "answers": [str(1000 + n)], "image": f"{n}.png", "knowledge": [item]}
        for n in range(COUNT)
    ]  # fmt: skip
    rows.append({"id": "fr", "language": "fr", "question": "Quoi ?", "answer": "rien"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words(source: Path, standin: StandIn, output: Path, *more: str) -> list[str]:
    return [
        "data", "translate", str(source), "--endpoint", standin.url, "--model", "m", "--output", str(output),
        "--languages", "fr", "ja", "--samples", "5", "--timeout", "30", *more,
    ]  # fmt: skip


def test_a_sample_in_each_language_with_troubles_on_the_way(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    troubles = {1: "500", 3: "429", 4: "rubbish", 5: "stall"}
    sayings = {"number 3?": "sorry", "number 4?": ""}
    with serving(StandIn(troubles, sayings, stall=4)) as standin:
        assert main(words(source, standin, tmp_path / "out", "--timeout", "2")) == 0
        sent = sum(standin.asked.values())
        assert main(words(source, standin, tmp_path / "out")) == 0
        assert sum(standin.asked.values()) == sent, "nothing is asked twice"
    kept = load_examples(tmp_path / "out" / "train.jsonl")
    assert [each.language for each in kept] == ["fr"] * 5 + ["ja"] * 5
    assert len({each.id for each in kept}) == 10 and all(each.items[0].text == "A passage." for each in kept)
    assert all(Path(str(each.images[0].path)).resolve().parent == source.parent for each in kept)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["kept"] == 10 == manifest["candidates"] - sum(manifest["dropped"].values())
    assert set(manifest["dropped"]) <= {"empty reply", "not JSON"} and manifest["mixture"]["language"] == {
        "fr": 5,
        "ja": 5,
    }
    assert manifest["settings"]["model"] == "m" and "Translate" in manifest["settings"]["prompt"]
    assert manifest["versions"]["comem"] and manifest["settings"]["decoding"]["temperature"] == 0
    assert main(["data", "check", str(tmp_path / "out" / "train.jsonl"), "--no-pictures"]) == 0
    capsys.readouterr()


def test_killed_and_resumed_gives_the_same_file(source: Path, tmp_path: Path) -> None:
    with serving(StandIn(pause=0.05, sayings={"number 3?": "sorry"})) as standin:
        assert main(words(source, standin, tmp_path / "whole")) == 0
        whole = sum(standin.asked.values())
        torn, command = tmp_path / "torn", words(source, standin, tmp_path / "torn", "--concurrency", "1")
        for lines in (2, 5):
            process = subprocess.Popen([sys.executable, "-m", "comem", *command], env=dict(os.environ))
            wait_for(torn / "replies.jsonl", lines, process)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            assert not (torn / "train.jsonl").exists()
        with open(torn / "replies.jsonl", "ab") as file:
            file.write(b'{"id": "q0:fr", "re')  # as a power cut leaves it
        assert main(command) == 0
        assert sum(standin.asked.values()) - whole <= whole + 2, "one request under way for each kill"
    assert (torn / "train.jsonl").read_bytes() == (tmp_path / "whole" / "train.jsonl").read_bytes()


def wait_for(path: Path, lines: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)


def test_what_got_no_answer_is_named_and_asked_again(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(StandIn({2: "500"})) as standin:
        command = words(source, standin, tmp_path / "out", "--retries", "0")
        assert main([*command, "--dry-run"]) == 0
        assert "10 now (0 replies" in capsys.readouterr().out and not (tmp_path / "out").exists()
        assert main(command) == 2
        assert "1 of 10 requests got no answer" in capsys.readouterr().err
        assert len(list(read_jsonl(tmp_path / "out" / "replies.jsonl"))) == 9
        assert main([*command, "--dry-run"]) == 0 and "1 now (9 replies" in capsys.readouterr().out
        assert main(command) == 0 and sum(standin.asked.values()) == 11
        assert main([*command, "--seed", "3"]) == 2
        said = capsys.readouterr().err
        assert "begun with other settings (decoding.seed: 0 there, 3 now; seed: 0 there, 3 now)" in said
        assert main([*words(source, standin, tmp_path / "new"), "--languages", "de"]) == 2
        assert "known are bg (Bulgarian)" in capsys.readouterr().err


def test_more_than_there_are_is_said(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(StandIn()) as standin:
        assert main(words(source, standin, tmp_path / "out", "--samples", "20")) == 0
    assert "fewer than asked for" in (shown := capsys.readouterr().out) and f"fr {COUNT}, ja {COUNT}" in shown


def test_a_local_model_translates_too(source: Path, tmp_path: Path) -> None:
    class Model:
        def generate(self, conversations: Any, config: Any) -> list[Any]:
            from comem.backbones.base import Answer
            from tests.data.standin import translated

            assert config == "greedy" and len(conversations) <= 2
            texts = [turns[0].content[0] for turns in conversations]
            return [Answer(json.dumps(translated(text)), 0, 1, 0.1) for text in texts]

    local = LocalModel(Model(), "greedy", 2, {"model": "own"})  # type: ignore[arg-type]
    settings = TranslateSettings(
        file=source, output=tmp_path / "out", languages=("ru",), samples=3, model="own"
    )
    manifest = translate(settings, translator=local)
    assert manifest["mixture"]["language"] == {"ru": 3}


def test_the_embedded_model_cannot_and_that_is_said(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.write_text("".join(source.read_text().splitlines(keepends=True)[:2]))
    command = ["data", "translate", str(source), "--model", "toy", "--languages", "fr", "--samples", "2",
               "--max-new-tokens", "4", "--device", "cpu", "--output", str(tmp_path / "out")]  # fmt: skip
    assert main(command) == 2
    assert "no translation is kept: {'not JSON': 2}" in capsys.readouterr().err
