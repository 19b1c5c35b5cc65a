"""Corpora on disk: several shards at a time, filters, duplicates, faults, resuming, and the manifest."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from comem.io.files import StorageError, one_writer
from comem.retrieval.corpus import build as building
from comem.retrieval.corpus.build import build_corpus
from comem.retrieval.corpus.rows import WIT_COLUMNS
from comem.retrieval.corpus.rules import CorpusError, CorpusRules, CutShardError, download_name
from comem.retrieval.corpus.sources import CorpusSettings
from comem.retrieval.knowledge import ITEMS, KnowledgeBase, KnowledgeBaseError

HOST = "https://upload.wikimedia.org/wikipedia/commons"


def row(number: int, **values: str) -> str:
    """A line of WIT; pages and pictures are numbered."""
    filled = {
        "language": "en", "page_url": f"https://en.wikipedia.org/wiki/P{number}",
        "image_url": f"{HOST}/a/ab/P{number}.jpg", "page_title": f"Page {number}", "is_main_image": "true",
        "context_page_description": f"about {number}", "original_width": "640", "original_height": "480",
        **values,
    }  # fmt: skip
    return "\t".join(filled.get(name, "") for name in WIT_COLUMNS) + "\n"


def shard(path: Path, *lines: str) -> Path:
    data = ("\t".join(WIT_COLUMNS) + "\n" + "".join(lines)).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def built(output: Path, *words: Path, rules: CorpusRules | None = None, **options: object) -> KnowledgeBase:
    options |= {"sources": tuple(map(str, words)), "output": output, **vars(rules or CorpusRules())}
    return build_corpus(CorpusSettings(**options))  # type: ignore[arg-type]


@pytest.fixture()
def shards(tmp_path: Path) -> list[Path]:
    return [
        shard(tmp_path / f"wit-{part}.tsv.gz", *(row(part * 700 + i) for i in range(700)))
        for part in range(3)
    ]


def test_shards_become_one_table_in_their_order(shards: list[Path], tmp_path: Path) -> None:
    base = built(tmp_path / "kb", *shards)
    table = pq.ParquetFile(tmp_path / "kb" / ITEMS)
    assert len(base) == 2100 and [table.metadata.row_group(i).num_rows for i in range(3)] == [1024, 1024, 52]
    item = base.items([1500])[0]
    assert (item.text, item.language) == ("Page 1500: about 1500", "en")
    first = table.read_row_group(0).to_pylist()[0]
    url = f"{HOST}/a/ab/P0.jpg"
    assert (first["image_url"], first["image"], first["width"]) == (url, download_name(url), 640)
    assert base.images()[0] == str(tmp_path / "kb" / download_name(url))


def test_the_manifest_says_where_everything_came_from(shards: list[Path], tmp_path: Path) -> None:
    shards.append(shard(tmp_path / "more.tsv", row(9000, language="de"), "broken\n", row(9001, image_url="")))
    rules = CorpusRules(languages=("en", "de"))
    manifest = built(tmp_path / "kb", *shards, rules=rules).manifest
    assert [source["name"] for source in manifest["sources"]] == [str(path) for path in shards]
    assert manifest["sources"][0]["sha256"] == hashlib.sha256(shards[0].read_bytes()).hexdigest()
    assert manifest["sources"][3]["rows"]["dropped"] == {"broken line (1 of 17 fields)": 1, "no image": 1}
    assert manifest["rows"]["read"] == 2103 and manifest["rows"]["kept"] == manifest["count"] == 2101
    assert manifest["settings"]["languages"] == ["en", "de"] and manifest["versions"]["comem"]
    assert manifest["rows"]["read"] == manifest["rows"]["kept"] + sum(manifest["rows"]["dropped"].values())


@pytest.mark.slow
def test_several_processes_give_the_same_bytes(shards: list[Path], tmp_path: Path) -> None:
    one, many = built(tmp_path / "one", *shards), built(tmp_path / "many", *shards, workers=3)
    assert one.manifest["sha256"] == many.manifest["sha256"]
    assert one.manifest["ids_sha256"] == many.manifest["ids_sha256"]


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({"main_image": True}, ["Page 1: section 1", "Page 3: caption"]),
        ({"descriptions": ("page",)}, ["Page 1: about 1", "Page 2: about 2", "Page 3"]),
        ({"descriptions": ("reference", "page")}, ["Page 1: about 1", "Page 2: about 2", "Page 3: caption"]),
        ({"title": False, "max_chars": 5}, ["secti", "about", "capti"]),
        ({"languages": ("de",)}, ["Page 3: caption"]),
    ],
)
def test_filters_and_passages(tmp_path: Path, rules: dict[str, object], kept: list[str]) -> None:
    path = shard(
        tmp_path / "w.tsv",
        row(1, context_section_description="section 1"),
        row(2, is_main_image="false"),
        row(3, language="de", context_page_description="", caption_reference_description="caption"),
    )
    base = built(tmp_path / "kb", path, rules=CorpusRules(**rules))  # type: ignore[arg-type]
    assert base.texts() == kept


def test_licences_are_matched_by_name_and_pattern_and_never_by_prefix(tmp_path: Path) -> None:
    table = tmp_path / "items.csv"
    licences = ["CC0", "CC BY-SA 4.0", "cc-by-nc-4.0", "", "cc_by_4.0"]
    lines = [f"{i},text {i},{i}.png,{licence}" for i, licence in enumerate(licences)]
    table.write_text("\n".join(["id,text,image,license", *lines]))
    rules = CorpusRules(licences=("cc0", "cc-by-sa-*", "CC BY 4.0"))
    base = built(tmp_path / "kb", table, rules=rules)
    assert base.ids == ["0", "1", "4"] and base.manifest["rows"]["dropped"] == {"licence": 2}
    with pytest.raises(CorpusError, match="--licences asks for the column 'licence', which this corpus"):
        built(tmp_path / "kb2", shard(tmp_path / "w.tsv", row(1)), rules=rules)


@pytest.mark.parametrize(
    ("unique", "kept"),
    [("none", 6), ("passage", 5), ("language", 4), ("image", 3)],
)
def test_rows_with_the_same_address_of_a_picture(tmp_path: Path, unique: str, kept: int) -> None:
    same = f"{HOST}/a/ab/Same.jpg"
    path = shard(
        tmp_path / "w.tsv",
        row(1, image_url=same), row(2, image_url=same), row(3, image_url=same, language="de"),
        row(4, image_url=same, page_title="Page 1", context_page_description="about 1"), row(5), row(6),
    )  # fmt: skip
    base = built(tmp_path / "kb", path, rules=CorpusRules(unique=unique))  # type: ignore[arg-type]
    assert len(base) == kept and base.texts()[0] == "Page 1: about 1"
    assert base.manifest["rows"]["dropped"] == ({"duplicate": 6 - kept} if kept < 6 else {})


def test_pictures_with_the_same_content(tmp_path: Path) -> None:
    for name, content in {"a.png": b"one", "b.png": b"one", "c.png": b"two"}.items():
        (tmp_path / name).write_bytes(content)
    table = tmp_path / "items.csv"
    table.write_text("id,text,image\n1,x,a.png\n2,y,b.png\n3,z,c.png\n4,w,missing.png\n")
    rules = CorpusRules(unique="image", same_image="content")
    assert built(tmp_path / "kb", table, rules=rules).ids == ["1", "3", "4"]
    assert len(built(tmp_path / "kb2", table, rules=CorpusRules(unique="image"))) == 4


def test_ids_that_repeat_across_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    paths[0].write_text("id,text,image,source\n1,x,a.png,s1\n2,y,b.png,s2\n")
    paths[1].write_text("id,text,image,source\n3,z,c.png,s3\n2,other,d.png,here\n")
    with pytest.raises(
        CorpusError, match=r"the id '2' repeats .*items 2 and 4.*from here.*--on-duplicate drop"
    ):
        built(tmp_path / "kb", *paths)
    assert not (tmp_path / "kb" / ITEMS).exists()

    def unexpected(*args: object) -> str:
        raise AssertionError("a part was read again")

    monkeypatch.setattr(building, "read_part", unexpected)
    base = built(tmp_path / "kb", *paths, rules=CorpusRules(on_duplicate="drop"))
    assert base.ids == ["1", "2", "3"] and base.texts()[1] == "y"
    assert base.manifest["rows"]["dropped"] == {"repeated id": 1}


def test_a_cut_shard_stops_the_build_or_gives_what_it_has(tmp_path: Path, shards: list[Path]) -> None:
    rng = random.Random(0)
    noisy = shard(
        tmp_path / "n.tsv.gz", *(row(i + 5000, section_title=rng.randbytes(99).hex()) for i in range(900))
    )
    noisy.write_bytes(noisy.read_bytes()[: noisy.stat().st_size // 2])
    with pytest.raises(CutShardError, match=r"n.tsv.gz: .*cut or damaged after line .*--keep-partial"):
        built(tmp_path / "kb", *shards, noisy)
    base = built(tmp_path / "kb", *shards, noisy, keep_partial=True)
    assert 2100 + 300 < len(base) < 2100 + 600 and base.manifest["complete"] is False
    assert "cut or damaged" in base.manifest["sources"][3]["error"]


def test_one_broken_line_among_many(tmp_path: Path) -> None:
    lines = [row(i) for i in range(20_000)]
    lines[12_345] = "en\tonly\n"
    base = built(tmp_path / "kb", shard(tmp_path / "w.tsv", *lines))
    assert len(base) == 19_999
    assert base.manifest["rows"]["dropped"] == {"broken line (2 of 17 fields)": 1}


def test_wrong_columns_name_what_is_missing_and_keep_the_other_parts(
    tmp_path: Path, shards: list[Path]
) -> None:
    wrong = tmp_path / "wrong.tsv"
    wrong.write_text("language\ttext\nen\tx\n")
    with pytest.raises(CorpusError, match=r"wrong.tsv: not a WIT table: missing columns page_url"):
        built(tmp_path / "kb", shards[0], wrong, shards[1])
    assert len(list((tmp_path / "kb" / "parts").glob("*.parquet"))) == 2


def test_an_interrupted_build_goes_on(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, read = building.read_part, list[str]()

    def stop_at_third(source: object, *args: object) -> str:
        read.append(source.name)  # type: ignore[attr-defined]
        if len(read) == 3:
            raise KeyboardInterrupt
        return real(source, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(building, "read_part", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        built(tmp_path / "kb", *shards)
    os.utime(shards[1], (1, 1))  # touched in between: read again
    base = built(tmp_path / "kb", *shards)
    assert read[3:] == [str(shards[1]), str(shards[2])]
    assert base.manifest["sha256"] == built(tmp_path / "once", *shards).manifest["sha256"]


def test_a_killed_worker_is_said_in_words(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pool(ThreadPoolExecutor):
        def __init__(self, *_: object) -> None:
            super().__init__(1)

        def submit(self, *_: object) -> Future[str]:  # type: ignore[override]
            future = Future[str]()
            future.set_exception(BrokenProcessPool("a process was terminated abruptly"))
            return future

    monkeypatch.setattr(building, "ProcessPoolExecutor", Pool)
    with pytest.raises(ChildProcessError, match="a worker process was killed .*run the same command again"):
        built(tmp_path / "kb", *shards, workers=2)


def test_a_changed_parquet_is_noticed(shards: list[Path], tmp_path: Path) -> None:
    base = built(tmp_path / "kb", *shards)
    base.verify()
    path = tmp_path / "kb" / ITEMS
    data = bytearray(path.read_bytes())
    data[5000] ^= 1  # in a page: only `verify` reads it
    path.write_bytes(data)
    with pytest.raises(KnowledgeBaseError, match="checksum differs"):
        KnowledgeBase(tmp_path / "kb").verify()
    data[-40] ^= 1  # in the footer: noticed on opening
    path.write_bytes(data)
    with pytest.raises(KnowledgeBaseError, match="changed since it was built"):
        KnowledgeBase(tmp_path / "kb")


def test_two_builds_at_once_are_refused(shards: list[Path], tmp_path: Path) -> None:
    with one_writer(tmp_path / "kb" / building.LOCK), pytest.raises(StorageError, match="another process"):
        built(tmp_path / "kb", *shards)


def test_a_disk_that_fills_leaves_the_older_corpus(shards: list[Path], tmp_path: Path) -> None:
    before = built(tmp_path / "kb", shards[0]).manifest["sha256"]
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "from comem.cli import main\n"
        f"sys.exit(main(['corpus', 'build', {str(shards[0])!r}, {str(shards[1])!r},"
        f" '--output', {str(tmp_path / 'kb')!r}]))"
    )
    command = [sys.executable, "-B", "-c", program]  # -B: the limit would cut __pycache__, too
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "free some space" in done.stderr, done.stderr
    assert KnowledgeBase(tmp_path / "kb").manifest["sha256"] == before
    assert not list((tmp_path / "kb").rglob("*.part"))


def test_the_real_flags(flags_dir: Path, tmp_path: Path) -> None:
    base = built(tmp_path / "kb", flags_dir)
    assert len(base) == 1225 and all(Path(path).is_file() for path in base.images())
    one = CorpusRules(unique="image", languages=("en", "ru"))
    assert len(built(tmp_path / "kb1", flags_dir, rules=one)) == 245
    assert json.loads((tmp_path / "kb1" / "items.json").read_text())["rows"]["dropped"] == {
        "language": 735,
        "duplicate": 245,
    }


def test_a_corpus_of_which_nothing_is_kept_is_an_error(shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"none of the 2100 rows was kept; dropped: {'language': 2100}"):
        built(tmp_path / "kb", *shards, rules=CorpusRules(languages=("xx",)))
