"""Downloads divided among two Ray workers: the same pictures and records, and together no faster."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from comem.io.parallel import _cluster
from comem.retrieval.corpus.build import build_corpus
from comem.retrieval.corpus.sources import CorpusSettings
from comem.retrieval.download import job
from comem.retrieval.download.job import download_corpus, download_shards
from comem.retrieval.download.settings import DownloadSettings

pytest.importorskip("ray", reason="Ray is not installed")


def outcomes(folder: Path) -> dict[str, tuple[str, str]]:
    lines = [
        line for path in (folder / "downloads").glob("*.jsonl") for line in path.read_text().splitlines()
    ]
    return {row["url"]: (row["reason"], row["sha256"]) for row in map(json.loads, lines)}


def kill(mark: Path, record: Path) -> None:
    """Ends this process when it has fetched three pictures or more, and notes how many."""
    done = 0
    while done < 3:
        time.sleep(0.05)
        done = record.read_text().count("\n") if record.is_file() else 0
    mark.write_text(str(done))
    os.kill(os.getpid(), signal.SIGKILL)


def killed_once(mark: Path, folder: Path, numbers: Sequence[int], settings: DownloadSettings) -> Any:
    """Downloads a shard; the worker of the second one is killed on the way, the first time."""
    if numbers == [1] and not mark.exists():
        mark.touch()
        record = folder / "downloads" / "shard_00001.jsonl"
        threading.Thread(target=kill, args=(mark, record), daemon=True).start()
    return download_shards(folder, numbers, settings)


@pytest.mark.slow
def test_two_workers_fetch_what_one_process_fetches_though_one_is_killed(
    server: Any, quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {i: f"good/{i}" for i in (*range(12), *range(10_280, 10_292))} | {
        3: "status/404",
        10_281: "html/1",
    }
    rows = [f"{i},text {i},{server.url(paths[i]) if i in paths else ''}" for i in range(10_300)]  # two shards
    (tmp_path / "a.csv").write_text("\n".join(["id,text,image", *rows]))
    for name in ("one", "two"):
        table = str(tmp_path / "a.csv")
        settings = CorpusSettings(sources=(table,), output=tmp_path / name, text_only=True)
        build_corpus(settings)
    alone = download_corpus(tmp_path / "one", quick())
    server.times.clear()
    monkeypatch.setattr(job, "download_shards", partial(killed_once, tmp_path / "killed"))
    with _cluster(2) as ray:
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        counts = download_corpus(tmp_path / "two", quick(rate=8.0, connections=2), engine="ray")
    done = int((tmp_path / "killed").read_text())
    assert 0 < done < 12 and 24 <= len(server.times) <= 24 + 12 - done  # these are not asked for again
    assert counts == alone == {"ok": 22, "status 404": 1, "no picture": 1}
    assert outcomes(tmp_path / "one") == outcomes(tmp_path / "two") and len(outcomes(tmp_path / "two")) == 24
    assert max(server.times) - min(server.times) >= 12 / 4 - 1.0  # each worker keeps half the rate
    files = [
        {p.name for p in (tmp_path / name / "images").rglob("*") if p.is_file()} for name in ("one", "two")
    ]
    assert files[0] == files[1] and len(files[0]) == 22
