"""`comem corpus`: from a folder of one's own to an index, and mistakes as one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comem.cli import main
from comem.command_line import parse
from comem.retrieval.corpus.sources import CorpusSettings


@pytest.fixture()
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(5):
        noise = np.random.default_rng(i).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((48, 48), Image.Resampling.NEAREST).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"text {i}")
    return folder


@pytest.mark.slow
def test_from_ones_own_folder_to_an_answering_index(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kb = str(tmp_path / "kb")
    assert main(["corpus", "build", str(pictures), "--output", kb]) == 0
    assert main(["corpus", "info", kb, "--verify"]) == 0
    assert "agrees" in capsys.readouterr().out
    assert main(["index", "build", "--corpus", kb, "--output", kb, "--embedder", "toy"]) == 0
    assert main(["index", "search", "--index", kb, "--image", str(pictures / "3.png"), "-k", "1"]) == 0
    assert "text 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["build", "none.tsv", "--output", "kb"], "none.tsv: no such corpus file or folder"),
        (["build", "PICTURES", "--output", "kb", "--columns", "id"], "--columns id: write OURS=THEIRS"),
        (["build", "PICTURES", "--output", "kb", "--licences", "cc0"], "asks for the column 'licence'"),
        (["info", "nothing"], "nothing: no knowledge base here"),
        (["download", "nothing", "--contact", "me"], "contact 'me': give your e-mail address"),
    ],
)
def test_mistakes_are_one_line(
    pictures: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["corpus", *(word.replace("PICTURES", str(pictures)) for word in words)]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("comem: error")]
    assert len(error) == 1 and message in error[0]


def test_an_index_of_a_corpus_folder_lies_in_it(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kb = str(tmp_path / "kb")
    main(["corpus", "build", str(pictures), "--output", kb])
    assert main(["index", "build", "--corpus", kb, "--output", str(tmp_path / "x"), "--embedder", "toy"]) == 2
    assert f"--output {kb}" in capsys.readouterr().err


def test_columns_and_overrides_stand_side_by_side() -> None:
    words = "items.csv --output kb --columns id=sku text=about --workers 2 max_chars=9".split()
    settings, _ = parse(CorpusSettings, words)
    assert settings.columns == ("id=sku", "text=about")
    assert (settings.sources, settings.workers, settings.max_chars) == (("items.csv",), 2, 9)
