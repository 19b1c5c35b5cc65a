"""The long jobs, on a world so small that each takes about a second, and what they have to leave."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.robustness.faults import Count, Modules
from tests.robustness.process import Outcome, run

MODULES = "modules.json"  # what the commands import, which their parent then does for all
WORLD = "w"  # the folder with the inputs, linked into every trial's folder
#: What killed processes must not leave for good.
LEFTOVER = re.compile(r"\..+\.(tmp|part|old)|.+\.(tmp|part)")
#: What differs between two runs that nobody disturbed, or tells how often a run was called.
_VOLATILE = {
    "time", "seconds", "command", "calls", "made",
    "items_per_second", "examples_per_second", "tokens_per_second",
    "resumed", "skipped", "counts", "wall_seconds", "started", "finished", "memory_mib", "elapsed",
    "checksum",
    "detail",
}  # fmt: skip
_UNCOMPARED = (".log",)
_EVENTS = re.compile(r"events\.out\.tfevents\.")  # TensorBoard: one file a start


@dataclass(frozen=True)
class Job:
    """A command that takes long, and what it makes.

    Attributes:
        name: how trials call it.
        words: the command; its outputs are named `out…`.
        start: a folder of the world that is copied to `out` first: the job goes on in there.
        look: a command that reads what is half done, and has to bear it.
        kept: a JSON-lines file whose lines are acknowledged: none may get lost.
    """

    name: str
    words: tuple[str, ...]
    start: str = ""
    look: tuple[str, ...] = ()
    kept: str = ""


def _w(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ASK = "--max-new-tokens 4 --device cpu --batch-size 2"
JOBS = (
    Job(
        "predict comem",
        _w("predict --benchmark toy --data w/test.jsonl --mode comem --encoder toy --index w/index "
           f"-k 2 {_ASK} --output out"),
        kept="out/predictions.jsonl",
        look=_w("evaluate toy --predictions out/predictions.jsonl --references w/test.jsonl"),
    ),
    Job(
        "predict modes",
        _w("predict --benchmark toy --data w/test.jsonl --mode baseline rag --index w/index -k 1 "
           f"{_ASK} --output out"),
        kept="out/rag/predictions.jsonl",
    ),
    Job("retrieve", _w("retrieve --index w/index --questions w/test.jsonl -k 2 --output "
                       "out/found.jsonl"), kept="out/found.jsonl"),
    Job(
        "train",
        _w("train --config toy data=w/lessons/train.jsonl output=out max_steps=3 epochs=100 "
           "batch_size=2 save_every=1 log_every=1"),
    ),
    Job("merge", _w("merge w/trained out"), look=_w("encode --encoder out --items w/items.jsonl "
                                                    "--output out2.safetensors")),
    Job("index build", _w("index build --corpus w/wit.tsv.gz --output out --embedder "
                          "toy"), look=_w("index verify out")),
    Job("bank build", _w("bank build --encoder toy --index w/index --output out --commit-items 2 "
                         "--batch-size 2"), look=_w("bank verify out")),
    Job("encode", _w("encode --encoder toy --index w/index --output out.safetensors --commit-items 2 "
                     "--batch-size 2")),
    Job("bank export", _w("bank export w/bank --form int8 --output out"), look=_w("bank info out")),
    Job("bank merge", _w("bank merge w/bank w/bank2 --output out"), look=_w("bank verify out")),
    Job("corpus build", _w("corpus build w/wit.tsv.gz w/items.jsonl --output "
                           "out"), look=_w("corpus info out --verify")),
    Job("corpus embed", _w("corpus embed out --embedder toy --what both --shard-size 2 --batch-size "
                           "2"), start="corpus"),
    Job(
        "corpus download",
        _w("corpus download out --contact you@example.org --rate 500 --allow-private"),
        start="web",
        look=_w("corpus info out --verify"),
    ),
    Job("data convert", _w("data convert w/llava.json --images w/images --output out/train.jsonl")),
    Job(
        "data synthesise",
        _w("data synthesise --benchmark toy --data w/train.jsonl -k 1 --index w/index --candidates 6 "
           f"{_ASK} --output out"),
        kept="out/run/predictions.jsonl",
    ),
    Job("data mix", _w("data mix a=w/lessons/train.jsonl:3 b=w/lessons/other.jsonl --output out")),
    Job("oven index", _w("oven index --titles w/titles.tsv --output out")),
    Job("oven link", _w("oven link --index w/titles --predictions w/answers.jsonl --output "
                        "out/linked.jsonl"), kept="out/linked.jsonl"),
    Job("evaluate", _w("evaluate toy --predictions w/run/predictions.jsonl --references w/test.jsonl "
                       "--output out/report.json")),
    Job("report", _w("report w/run --output out")),
    Job("toy build", _w("toy build out --size 4 --train-questions 4 --test-questions 2 --image-size 28")),
)  # fmt: skip


#: The commands that make the world's inputs, the cheap ones first.
_QUICK_STEPS = (
    "bank build --encoder toy --items w/items.jsonl --output w/bank2",
    "bank export w/bank2 --form fp32 --output w/bank",
    "oven index --titles w/titles.tsv --output w/titles",
    "index build --corpus w/items.jsonl --output w/own-index --embedder toy",
)
_STEPS = (
    "index build --corpus w/wit.tsv.gz --output w/index --embedder toy",
    "bank build --encoder toy --index w/index --output w/bank",
    "bank build --encoder toy --items w/items.jsonl --output w/bank2",
    "encode --encoder toy --items w/items.jsonl --output w/bank.safetensors",
    "corpus build w/wit.tsv.gz --output w/corpus",
    "corpus build w/urls.jsonl --output w/web",
    "predict --benchmark toy --data w/test.jsonl --mode comem --encoder toy --index w/index -k 2 "
    f"{_ASK} --output w/run",
    "retrieve --index w/index --questions w/test.jsonl -k 2 --output w/found.jsonl",
    f"data synthesise --benchmark toy --data w/train.jsonl -k 1 --index w/index --candidates 6 {_ASK} "
    "--output w/lessons",
    "train --config toy data=w/lessons/train.jsonl output=w/trained max_steps=1 batch_size=2 save_every=1",
    "merge w/trained w/encoder",
    *_QUICK_STEPS[2:],
    "evaluate toy --predictions w/run/predictions.jsonl --references w/test.jsonl --output w/report.json",
)  # fmt: skip


def build_world(folder: Path, url: str = "", quick: bool = False) -> None:
    """All inputs: the embedded world, and what the commands make of it.

    Args:
        folder: where.
        url: of the server that `corpus download` asks.
        quick: only what the quick trials need; answers are made up.

    Raises:
        RuntimeError: a command failed, though nothing befell it.
    """
    folder.mkdir(parents=True)
    here = folder.parent
    if not (here / WORLD).exists():
        (here / WORLD).symlink_to(folder.name)
    _must(here, "toy build w --size 6 --train-questions 8 --test-questions 6 --image-size 56")
    images = sorted((folder / "images").glob("*.png"))
    shutil.copy(images[0], folder / "query.png")
    own = [
        {"id": f"own{i}", "text": f"A text, number {i}.", "image": f"images/{p.name}"}
        for i, p in enumerate(images[:4])
    ]
    _write(folder / "items.jsonl", own)
    _write(
        folder / "urls.jsonl",
        [{"id": f"web{i}", "text": f"Text {i}", "image": f"{url}/good/{i}"} for i in range(6)],
    )
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A thing."}]
    records = [
        {"id": str(i), "image": path.name, "conversations": turns} for i, path in enumerate(images[:4])
    ]
    (folder / "llava.json").write_text(json.dumps(records), encoding="utf-8")
    titles = ["Paris", "Paris, Texas", "Golden Gate Bridge", "Rome", "Oslo"]
    (folder / "titles.tsv").write_text(
        "".join(f"Q{i}\t{t}\n" for i, t in enumerate(titles)), encoding="utf-8"
    )
    _write(
        folder / "answers.jsonl",
        [{"data_id": f"q{i}", "prediction": f"It is {t}"} for i, t in enumerate(titles)],
    )
    for words in _QUICK_STEPS if quick else _STEPS:
        _must(here, words)
    if quick:
        asked = [
            json.loads(line) for line in (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        (folder / "run").mkdir()
        _write(
            folder / "run" / "predictions.jsonl",
            [{"data_id": row["data_id"], "prediction": "a"} for row in asked],
        )
        lesson = {"question": "What?", "answer": "A thing.", "knowledge": own[:1]}
        (folder / "lessons").mkdir()
        _write(folder / "lessons" / "train.jsonl", [{"id": f"l{i}", **lesson} for i in range(4)])
    text = (folder / "lessons" / "train.jsonl").read_text(encoding="utf-8")
    (folder / "lessons" / "other.jsonl").write_text(text.replace('"id": "', '"id": "other'), encoding="utf-8")


def _must(folder: Path, words: str) -> None:
    modules = Modules(folder / MODULES)
    outcome = run(words.split(), folder, modules)
    if outcome.code == 0:
        modules.learn()
    else:
        raise RuntimeError(f"{words}: exit code {outcome.code}\n{outcome.text[-2000:]}")


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@dataclass(frozen=True)
class Reference:
    """A run of a job that nobody disturbed.

    Attributes:
        job: what ran.
        files: what it left (`snapshot`).
        changes: operations that change files below its folder.
        readings: openings to read there, and in the world.
        seconds: that it took.
        sizes: of its files.
    """

    job: Job
    files: dict[str, Any]
    changes: int
    readings: int
    seconds: float
    sizes: tuple[int, ...]


def new_folder(world: Path, folder: Path) -> None:
    """An empty folder for one trial, with the world in reach."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / WORLD).symlink_to(os.path.relpath(world, folder))


def new_trial(world: Path, folder: Path, job: Job) -> None:
    """The same with what the job starts from."""
    new_folder(world, folder)
    if job.start:
        shutil.copytree(world / job.start, folder / "out")


def reference(world: Path, folder: Path, job: Job) -> Reference:
    """The reference of a job.

    Raises:
        RuntimeError: it fails though nothing befalls it.
    """
    new_trial(world, folder, job)
    count = folder.parent / f"{folder.name}.count"
    outcome: Outcome = run(job.words, folder, Count(count))
    if outcome.code != 0:
        raise RuntimeError(f"{job.name}: exit code {outcome.code}\n{outcome.text[-2000:]}")
    changes, readings = json.loads(count.read_text(encoding="ascii"))
    sizes = tuple(sorted({path.stat().st_size for path in files(folder)}))
    return Reference(job, snapshot(folder), changes, readings, outcome.seconds, sizes)


def files(folder: Path) -> Iterator[Path]:
    """All files of a trial but the world's."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not (Path(root) / name).is_symlink())
        yield from (Path(root) / name for name in sorted(names))


def snapshot(folder: Path) -> dict[str, Any]:
    """What a trial's folder holds: of JSON what lasts, of banks the memories, of all else checksums."""
    return {
        str(path.relative_to(folder)): content(path) for path in files(folder) if not _EVENTS.match(path.name)
    }


def content(path: Path) -> Any:
    """What counts of a file."""
    if path.suffix in _UNCOMPARED or path.name.endswith(("lock", "builds.jsonl")):
        return "there"
    if (path.parent / "store.json").exists() and path.suffix == ".bin":
        return _memories(path.parent) if path.name == "table.bin" else "there"
    data = path.read_bytes()
    try:
        if path.suffix == ".json":
            return _lasting(json.loads(data))
        if path.suffix == ".jsonl":
            rows = [_lasting(json.loads(line)) for line in data.splitlines()]
            if (
                path.parent.name == "downloads"
            ):  # as they arrived; of an image that was there, no size is noted
                return sorted((row["url"], row["reason"], row["sha256"]) for row in rows)
            return rows
    except ValueError:
        pass
    return hashlib.sha256(re.sub(rb"\d", b"0", data) if path.suffix == ".html" else data).hexdigest()


def _memories(folder: Path) -> dict[str, str] | str:
    from comem.bank.reader import MemoryStore

    try:
        with MemoryStore(folder) as store:
            ids = sorted(store.table.ids())
            rows = store.rows(store.slots(ids)) if ids else []
            return {
                name: hashlib.sha256(row.tobytes()).hexdigest() for name, row in zip(ids, rows, strict=True)
            }
    except (ValueError, OSError) as error:
        return f"unreadable: {error}"


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _lasting(each)
            for key, each in value.items()
            if key not in _VOLATILE and "_of_this_run" not in key
        }
    return [_lasting(each) for each in value] if isinstance(value, list) else value


def difference(there: dict[str, Any], now: dict[str, Any]) -> str:
    """In a few words what differs between two snapshots; empty if nothing does."""
    if missing := sorted(there.keys() - now.keys()):
        return f"lacks {', '.join(missing[:3])}"
    if more := sorted(now.keys() - there.keys()):
        return f"left behind: {', '.join(more[:3])}"
    other = sorted(name for name in there if there[name] != now[name])
    return f"differs in {', '.join(other[:3])}: {_where(there[other[0]], now[other[0]])}" if other else ""


def _where(there: Any, now: Any) -> str:
    """The values that differ, shortened."""
    if isinstance(there, dict) and isinstance(now, dict):
        key = next(key for key in (*there, *now) if there.get(key) != now.get(key))
        return f"{key}: {_where(there.get(key), now.get(key))}"
    return f"{there!r:.80} / {now!r:.80}"


def leftovers(folder: Path) -> list[str]:
    """Unfinished files and folders."""
    found = [path for path in folder.rglob("*") if LEFTOVER.fullmatch(path.name) and WORLD not in path.parts]
    return sorted(str(path.relative_to(folder)) for path in found)
