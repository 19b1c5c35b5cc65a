"""A disk that is really full: a file system of two megabytes, on which every job of this package is tried."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
MOUNT = 'mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@"'
PROGRAM = """
import json, shutil, sys
from pathlib import Path
import numpy as np
from PIL import Image
from comem.bank.forms import PLAIN_FORMS
from comem.bank.format import EncoderInfo
from comem.bank.upkeep import verify_store
from comem.bank.writer import StoreWriter, create_store
from comem.io.files import StorageError
from functools import partial
from comem.retrieval.corpus.build import build_corpus
from comem.retrieval.corpus.sources import CorpusSettings
from comem.retrieval.embed import EmbedSettings, embed_corpus
from comem.retrieval.evaluate import RawPixels
from comem.retrieval.index import FaissSettings, IndexSettings, build_index, verify_index
from comem.retrieval.knowledge import KnowledgeBase

disk, outside = Path(sys.argv[1]), Path(sys.argv[2])

def corpus(name, count, length=300):
    rows = [{"id": str(i), "text": np.random.default_rng(i).bytes(length).hex(), "image": f"{i % 40}.png"}
            for i in range(count)]
    (outside / name).write_text("".join(json.dumps(row) + "\\n" for row in rows))
    return outside / name

for i in range(40):
    noise = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(outside / f"{i}.png")
few, many, short = corpus("few.jsonl", 40), corpus("many.jsonl", 3000), corpus("short.jsonl", 3000, 2)

def index(table, folder, factory="Flat"):
    settings = IndexSettings(corpus=(str(table),), output=folder, index=FaissSettings(factory=factory))
    return build_index(settings, embedder=RawPixels(16))

def build(table, folder):
    return build_corpus(CorpusSettings(sources=(str(table),), output=folder))

def append(count):
    with StoreWriter(disk / "bank") as writer:
        start = len(writer.table)
        for i in range(start, start + count):
            writer.append([f"i{i}"], [bytes(16)], np.full((1, 8, 512), i, np.float32))

jobs = {
    "corpus": lambda: build(many, disk / "kb"),
    "items": lambda: index(many, disk / "index"),
    "index": lambda: index(short, disk / "index"),
    "refine": lambda: index(short, disk / "index", "SQ8"),
    "embed": lambda: embed_corpus(EmbedSettings(corpus=disk / "fresh", embedder="raw", store="fp32"),
                                  loader=partial(RawPixels, 64)),
    "bank": lambda: append(200),
}
build(few, disk / "kb")
build(few, disk / "fresh")
index(few, disk / "index")
create_store(disk / "bank", PLAIN_FORMS["bf16"](8, 512), EncoderInfo("0" * 64))
append(3)
found = {}
for name, job in jobs.items():
    filler, left = disk / "filler", 500_000 if name in ("index", "refine") else 60_000
    filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - left)))
    try:
        job()
        found[name] = "did it"
    except StorageError as error:
        found[name] = str(error)
    filler.unlink()
    found[name + " left"] = [str(p) for p in disk.rglob("*") if p.name.endswith((".part", ".tmp"))]
report, base = verify_store(disk / "bank"), KnowledgeBase(disk / "kb")
base.verify()
index(few, disk / "index")  # with space again it is built
found |= {"bank is": [report.good, report.items >= 3], "corpus is": len(base)}
found["verified"] = verify_index(disk / "index")
print(json.dumps(found))
"""


def can_mount(folder: Path) -> bool:
    """Whether this machine lets an ordinary process have a file system of its own."""
    if shutil.which("unshare") is None:
        return False
    done = subprocess.run([*SMALL, MOUNT, str(folder), "true"], capture_output=True)
    return done.returncode == 0


def test_every_job_says_that_the_disk_is_full_and_keeps_what_was_there(tmp_path: Path) -> None:
    disk, outside = tmp_path / "disk", tmp_path / "outside"
    disk.mkdir()
    outside.mkdir()
    if not can_mount(disk):
        pytest.skip("no user namespaces here: a small file system cannot be mounted")
    command = [*SMALL, MOUNT, str(disk), sys.executable, "-c", PROGRAM, str(disk), str(outside)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name in ("corpus", "items", "index", "refine", "embed", "bank"):
        assert re.search("free (some )?space", found[name]) and found[f"{name} left"] == [], (name, found)
    assert "index.faiss" in found["index"] and "refine.npy" in found["refine"]
    assert found["bank is"] == [True, True] and found["corpus is"] == 40 and found["verified"] == []
