"""Downloads from a server that is slow, cuts off, turns in circles, refuses, lies and never ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comem.cli import main
from comem.io.files import StorageError
from comem.io.images import open_image
from comem.retrieval.corpus.build import build_corpus
from comem.retrieval.corpus.sources import CorpusSettings
from comem.retrieval.download.job import download_corpus
from comem.retrieval.knowledge import KnowledgeBase

FINAL = {  # path: how it ends, and how often it is asked for
    "status/403": ("status 403", 1), "status/404": ("status 404", 1), "html/1": ("no picture", 1),
    "svg/1": ("no picture", 1), "empty/1": ("no picture", 1), "endless/1": ("too many bytes", 1),
    "bomb/1": ("no picture", 1), "good/1": ("ok", 1), "moved/1": ("ok", 1), "flaky/1": ("ok", 3),
}  # fmt: skip
PASSING = {
    "status/500": ("status 500", 3), "status/429": ("status 429", 3), "cut/1": ("cut off", 3),
    "silent/1": ("timeout", 3), "drip/1": ("timeout", 3),
}  # fmt: skip


def outcomes(folder: Path) -> dict[str, str]:
    lines = (folder / "downloads" / "shard_00000.jsonl").read_text().splitlines()
    return {"/".join(row["url"].split("/")[3:]): row["reason"] for row in map(json.loads, lines)}


@pytest.mark.parametrize("kinds", [FINAL, PASSING], ids=["final", "passing"])
def test_every_misbehaviour_has_its_own_end(
    server: Any, corpus: Callable[..., Path], quick: Any, kinds: dict[str, tuple[str, int]]
) -> None:
    folder = corpus(*kinds)
    patience = {} if kinds is PASSING else {"read_seconds": 30.0, "total_seconds": 60.0}
    counts = download_corpus(folder, quick(max_pixels=10_000, **patience))
    assert outcomes(folder) == {path: reason for path, (reason, _) in kinds.items()}
    assert {path: server.asked[path] for path in kinds} == {path: times for path, (_, times) in kinds.items()}
    assert sum(counts.values()) == len(kinds)
    asked = sum(server.asked.values())
    download_corpus(folder, quick(retries=0))  # again: only what may pass is asked for
    assert sum(server.asked.values()) - asked == (0 if kinds is FINAL else len(PASSING))


def test_redirects_in_circles_end(server: Any, corpus: Callable[..., Path], quick: Any) -> None:
    folder = corpus("circle/0")
    assert download_corpus(folder, quick(redirects=4)) == {"redirects in circles": 1}
    assert sum(server.asked.values()) <= 6


def test_pictures_arrive_where_the_corpus_says(corpus: Callable[..., Path], quick: Any) -> None:
    folder = corpus("good/1.png", "good/2.png", "good/1.png", "status/404")
    assert download_corpus(folder, quick()) == {"ok": 2, "status 404": 1}
    items = KnowledgeBase(folder).items(range(4))
    assert [Path(item.image.path).is_file() for item in items] == [True, True, True, False]
    assert items[0].image == items[2].image and open_image(items[0].image).size == (40, 40)
    manifest = json.loads((folder / "downloads" / "manifest.json").read_text())
    assert manifest["pictures"] == {"ok": 2, "status 404": 1} and manifest["versions"]["comem"]


def test_large_pictures_are_made_smaller_on_request(corpus: Callable[..., Path], quick: Any) -> None:
    folder = corpus("bomb/1")
    download_corpus(folder, quick(max_side=100))
    (item,) = KnowledgeBase(folder).items([0])
    assert open_image(item.image).size == (100, 100)


def test_after_the_download_pictures_are_told_apart_by_content(
    server: Any, corpus: Callable[..., Path], quick: Any
) -> None:
    folder = corpus("good/1.png", "good/1.jpeg", "good/2.png")  # two addresses, the same bytes
    assert download_corpus(folder, quick()) == {"ok": 3}
    table = str(folder.parent / "items.csv")
    settings = CorpusSettings(sources=(table,), output=folder, unique="image", same_image="content")
    base = build_corpus(settings)
    assert base.ids == ["0", "2"] and base.manifest["rows"]["dropped"] == {"duplicate": 1}
    asked = sum(server.asked.values())
    assert download_corpus(folder, quick()) == {"ok": 2}
    assert sum(server.asked.values()) == asked  # they are there


def test_the_user_agent_names_the_user(server: Any, corpus: Callable[..., Path], quick: Any) -> None:
    download_corpus(corpus("good/1"), quick(contact="me@my-university.example"))
    (agent,) = server.agents
    assert agent.startswith("comem/") and "(me@my-university.example)" in agent


@pytest.mark.parametrize("contact", ["", "me", "x@y\r\nEvil: 1", "ü@example.org"])
def test_without_a_contact_nothing_is_asked(quick: Any, contact: str) -> None:
    with pytest.raises(ValueError, match="contact"):
        quick(contact=contact)


def test_pace_and_connections_are_kept(server: Any, corpus: Callable[..., Path], quick: Any) -> None:
    folder = corpus(*(f"good/{i}" for i in range(24)))
    download_corpus(folder, quick(rate=40.0, connections=2))
    assert server.most_open <= 2
    assert max(server.times) - min(server.times) >= 22 / 40 - 0.5  # a burst of half a second is allowed
    assert all(
        sum(start <= t < start + 0.5 for t in server.times) <= 0.5 * 40 + 0.5 * 40 + 2
        for start in server.times
    )


def test_retry_after_holds_the_whole_host(server: Any, corpus: Callable[..., Path], quick: Any) -> None:
    folder = corpus("busy/1", *(f"good/{i}" for i in range(30)))
    counts = download_corpus(folder, quick(connections=1, rate=1000.0))
    assert counts == {"ok": 31}
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert max(gaps) >= 0.95  # one second without a single request


def test_a_host_that_asks_for_too_long_a_wait_is_left_alone(
    server: Any, corpus: Callable[..., Path], quick: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder = corpus("closed/1", *(f"good/{i}" for i in range(10)))
    counts = download_corpus(folder, quick(connections=1))
    assert counts["host left alone"] == 11 - counts["ok"] and sum(server.asked.values()) <= counts["ok"] + 1
    assert "asks to wait 86400 s" in caplog.text


def test_a_host_that_is_down_is_asked_a_few_times_only(tmp_path: Path, quick: Any) -> None:
    table = tmp_path / "a.csv"
    rows = [f"{i},t{i},http://127.0.0.1:9/{i}.png" for i in range(60)]  # nobody listens on port 9
    table.write_text("\n".join(["id,text,image", *rows]))
    build_corpus(CorpusSettings(sources=(str(table),), output=tmp_path / "c"))
    counts = download_corpus(tmp_path / "c", quick())
    assert sum(counts.values()) == 60 and counts["host left alone"] >= 30


def test_a_killed_download_goes_on(server: Any, corpus: Callable[..., Path], quick: Any) -> None:
    folder = corpus(*(f"good/{i}" for i in range(60)))
    code = (
        "from comem.retrieval.download.job import download_corpus as d\n"
        "from comem.retrieval.download.settings import DownloadSettings as S\n"
        f"d({str(folder)!r}, S('a@b.example', rate=20, connections=1, allow_private=True))"
    )
    child = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while sum(server.asked.values()) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = sum(server.asked.values())
    assert 20 <= before < 55
    some = next(path for path in (folder / "images").rglob("*") if path.is_file())
    some.with_name(f".{some.name}.half.tmp").write_bytes(b"half")  # had it been killed while writing
    assert download_corpus(folder, quick()) == {"ok": 60}
    assert not list((folder / "images").rglob("*.tmp"))
    assert sum(server.asked.values()) - before <= 60 - before + 4  # a few were under way when it was killed


def test_a_full_disk_ends_the_run_and_keeps_what_is_there(
    corpus: Callable[..., Path], quick: Any, tmp_path: Path
) -> None:
    folder = corpus(*(f"good/{i}" for i in range(8)))
    program = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))\n"
        "from comem.retrieval.download.job import download_shards\n"
        "from comem.retrieval.download.settings import DownloadSettings as S\n"
        "from comem.io.files import StorageError\n"
        "from pathlib import Path\n"
        "try:\n"
        f"    download_shards(Path({str(folder)!r}), [0], S('a@b.example', allow_private=True))\n"
        "except StorageError as error:\n"
        "    print('refused:', error)\n"
    )
    command = [sys.executable, "-B", "-c", program]  # -B: the limit would cut __pycache__, too
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "refused:" in done.stdout and "free some space" in done.stdout, done.stderr
    assert not list((folder / "images").rglob("*.tmp"))
    assert download_corpus(folder, quick()) == {"ok": 8}


def test_two_downloads_at_once_are_refused(corpus: Callable[..., Path], quick: Any) -> None:
    from comem.io.files import JsonlAppender

    folder = corpus("good/1")
    with (
        JsonlAppender(folder / "downloads" / "shard_00000.jsonl"),
        pytest.raises(StorageError, match="another process"),
    ):
        download_corpus(folder, quick())


def test_the_command_downloads_and_counts(
    corpus: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = corpus("good/1.png", "status/404")
    command = ["corpus", "download", str(folder), "--contact", "a@b.example", "--retries", "0"]
    assert main(command) == 0
    assert "private address" in capsys.readouterr().out
    assert main([*command, "--allow-private"]) == 0
    shown = capsys.readouterr().out
    assert "ok" in shown and "status 404" in shown
    settings = json.loads((folder / "downloads" / "manifest.json").read_text())["settings"]
    assert (settings["corpus"], settings["retries"]) == (str(folder), 0)
