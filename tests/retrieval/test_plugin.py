"""A retriever from outside the package, and text retrieval, from the command line to the results."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from comem.cli import main
from comem.io.files import read_jsonl
from comem.retrieval.evaluate import RawPixels
from comem.retrieval.index import IndexSettings, build_index

NEWEST = """
from comem import RETRIEVERS, Retriever
from comem.retrieval.knowledge import KnowledgeBase
from comem.types import RetrievedContext


class Newest(Retriever):
    name = "newest"

    def retrieve(self, examples, k, languages=None):
        rows = range(len(self.base) - 1, len(self.base) - 1 - k, -1)
        items = tuple(self.base.items(rows))
        return {example.id: RetrievedContext(example.id, items) for example in examples}


@RETRIEVERS.register("newest")
def open_newest(settings):
    print("greeting:", settings.retriever_options["greeting"])
    return Newest(KnowledgeBase(settings.index))
"""


def test_a_retriever_of_ones_own(corpus: Callable[..., Path], tmp_path: Path) -> None:
    settings = IndexSettings(corpus=(str(corpus(6)),), output=tmp_path / "kb")
    build_index(settings, embedder=RawPixels(4))
    plugin, questions, found = tmp_path / "newest.py", tmp_path / "q.jsonl", tmp_path / "found.jsonl"
    plugin.write_text(NEWEST)
    questions.write_text('{"data_id": "a", "question": "en text 2?"}\n{"data_id": "b"}\n')
    words = ["retrieve", "--index", str(tmp_path / "kb"), "--questions", str(questions), "-k", "2"]
    mine = ["--plugin", str(plugin), "--retriever", "newest", "retriever_options.greeting=hello"]
    command = [sys.executable, "-m", "comem", *words, *mine, "--output", str(found)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "greeting: hello" in done.stdout, done.stderr
    assert [row["ids"] for row in read_jsonl(found)] == [["en5", "en4"]] * 2
    assert json.loads((tmp_path / "found.manifest.json").read_text())["retriever"] == "newest"


def test_by_words_on_the_command_line(
    corpus: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = IndexSettings(corpus=(str(corpus(6)),), output=tmp_path / "kb")
    build_index(settings, embedder=RawPixels(4))
    questions, found = tmp_path / "q.jsonl", tmp_path / "found.jsonl"
    questions.write_text('{"data_id": "a", "question": "What is 3?"}\n')
    words = ["retrieve", "--index", str(tmp_path / "kb"), "--questions", str(questions), "-k", "1"]
    assert main([*words, "--retriever", "bm25", "--output", str(found)]) == 0
    assert [row["ids"] for row in read_jsonl(found)] == [["en3"]]
    assert main([*words, "--retriever", "bm52"]) == 2
    assert "did you mean bm25" in capsys.readouterr().err
