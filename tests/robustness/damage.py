"""Every stored format is damaged, then verified and used: refused by name, reported, or without effect."""

from __future__ import annotations

import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.robustness.jobs import content, files, new_folder
from tests.robustness.mutators import DAMAGE, mutate
from tests.robustness.process import Outcome, fork, run
from tests.robustness.verdicts import Trial

#: What a command prints that differs from run to run.
_VARIES = re.compile(r"\d+%\|.*|[\d.]+ ?(s|ms|it/s|items/s)\b|\d\d:\d\d(:\d\d)?")
_SAID = re.compile(
    r"warning|fault|skipped|could not|cannot|damaged|unreadable|repaired|dropped|left out", re.IGNORECASE
)


@dataclass(frozen=True)
class Stored:
    """Something that our commands write and read again.

    Attributes:
        name: of the format.
        where: the folder or file of the world; it is copied to `out` (a file: `out` and its suffix).
        use: a command that reads it (what it writes is named `use…`), or a function that prints its content.
        verify: the command that promises to find damage, if there is one.
        trials: in a round; fewer where a use costs more.
        sealed: it has checksums; text that others read, too, has none: what stays well-formed goes unnoticed.
        spared: files that hold nothing that could be damaged (locks, histories).
        made: how the names of what `use` makes begin.
    """

    name: str
    where: str
    use: tuple[str, ...] | Callable[[], None]
    verify: tuple[str, ...] = ()
    trials: int = 4
    sealed: bool = True
    spared: tuple[str, ...] = ("lock", "builds.jsonl")
    made: tuple[str, ...] = ("use",)


def _w(text: str) -> tuple[str, ...]:
    return tuple(text.split())


#: Where a change may be without effect: JSON's blanks, what is elsewhere, too, bytes behind the last entry.
_SPARE = (".json", "lookup.bin", "table.bin", "ids.bin")
#: Of a training's folder, what is no checkpoint.
_OF_RUN = ("lock", "config.yaml", "data.json", "run.json", "metrics.json", "metrics.jsonl")


def _read_bank_file() -> None:
    from comem.memory.bank import MemoryBank

    bank = MemoryBank.load("out.safetensors")
    _show(bank.ids, bank.embeddings.numpy().tobytes())


def _search_index() -> None:
    import numpy as np

    from comem.retrieval.index import open_index

    queries = np.load("w/index/embeddings/img_emb/img_emb_0.npy")[:4].astype(np.float32)
    index = open_index("out")
    hits = index.search(queries, 5)
    for rows, scores in zip(hits.rows, hits.scores, strict=True):
        _show(index.base.items(rows.tolist()), scores.round(4).tolist())


def _read_contexts() -> None:
    from comem.retrieval.knowledge import KnowledgeBase
    from comem.retrieval.retriever import load_contexts

    _show(sorted(load_contexts("out.jsonl", KnowledgeBase("w/index")).items()))


def _show(*values: object) -> None:
    sys.stdout.write("".join(f"{value}\n" for value in values))


STORED = (
    Stored("bank", "bank", _w("bank export out --output use.safetensors"), _w("verify out"), trials=25),
    Stored("bank file", "bank.safetensors", _read_bank_file, _w("verify out.safetensors"), trials=25),
    Stored("index", "index", _search_index, _w("verify out"), trials=20),
    Stored("contexts", "found.jsonl", _read_contexts, trials=10, sealed=False),
    Stored(
        "titles",
        "titles",
        _w("oven link --index out --predictions w/answers.jsonl --output use/linked.jsonl"),
        _w("verify out"),
        trials=15,
    ),
    Stored(
        "answers",
        "run",
        _w(
            "evaluate toy --predictions out/predictions.jsonl --references w/test.jsonl --output "
            "use/report.json"
        ),
        trials=10,
        sealed=False,
    ),
    Stored(
        "corpus",
        "corpus",
        _w("index build --corpus out --output out --embedder toy"),
        _w("verify out"),
        trials=6,
        made=("out/index.faiss", "out/rows.npy"),
    ),
    Stored(
        "encoder",
        "encoder",
        _w("encode --encoder out --items w/items.jsonl --output use.safetensors"),
        _w("verify out"),
    ),
    Stored("checkpoints", "trained", _w("merge out use"), _w("verify out"), spared=_OF_RUN),
    Stored(
        "training run",
        "trained",
        _w("train --config toy data=w/lessons/train.jsonl output=out max_steps=1 batch_size=2 save_every=1"),
    ),
    Stored("run folder", "run", _w("report out --output use"), trials=3, sealed=False),
)


@dataclass(frozen=True)
class Sound:
    """What using an undamaged one gives."""

    stored: Stored
    outcome: Outcome
    made: dict[str, Any]


def prepare(world: Path, folder: Path, stored: Stored) -> None:
    """A trial's folder with a copy of what is to be damaged."""
    new_folder(world, folder)
    (folder / "images").symlink_to("w/images")  # a corpus's paths start at its folder
    source = world / stored.where
    if source.is_dir():
        shutil.copytree(source, folder / "out")
    else:
        shutil.copy(source, folder / f"out{source.suffix}")


def sound(world: Path, folder: Path, stored: Stored) -> Sound:
    """Use it once without damage.

    Raises:
        RuntimeError: that fails.
    """
    prepare(world, folder, stored)
    outcome = _run(stored, folder)
    if outcome.code != 0:
        raise RuntimeError(f"{stored.name}: exit code {outcome.code}\n{outcome.text[-2000:]}")
    return Sound(stored, outcome, _made(folder, stored))


def _run(stored: Stored, folder: Path) -> Outcome:
    """Use it."""
    use = stored.use
    if not callable(use):
        return run(use, folder)

    def work() -> int:
        try:
            use()
        except (ValueError, OSError) as error:  # as the command line words it
            sys.stdout.write(f"comem: error: {error}\n")
            return 2
        return 0

    return fork(work, folder)


def _made(folder: Path, stored: Stored) -> dict[str, Any]:
    found = {str(path.relative_to(folder)): content(path) for path in files(folder)}
    return {name: value for name, value in found.items() if name.startswith(stored.made)}


def damaged(world: Path, folder: Path, good: Sound, draw: random.Random) -> Iterator[Trial]:
    """One trial: one file damaged (or lost), verified, and used."""
    stored = good.stored
    prepare(world, folder, stored)
    choices = [
        path
        for path in files(folder)
        if not path.name.endswith(stored.spared) and "tfevents" not in path.name
    ]
    path = draw.choice(choices)
    before = path.read_bytes()
    if draw.random() < 0.05 and path.suffix != ".json":  # a folder without its manifest is no such folder
        path.unlink()
        after, ways = None, "lost"
    else:
        after, ways = mutate(before, draw, DAMAGE)
        path.write_bytes(after)
    fault = f"{ways} of {path.relative_to(folder)}"
    if after == before:
        return
    problems = []
    found = told = False
    if stored.verify:
        verified = run(stored.verify, folder)
        found = verified.code in (1, 2)
        told = found or path.name in verified.text  # bytes behind the end, as an append leaves that was cut
        if verified.crashed:
            problems.append(f"{' '.join(stored.verify)}: exit code {verified.code}, {verified.last[:300]}")
    ended = _used(folder, good, path, problems)
    if stored.verify and not found and (ended != "unharmed" or not (told or path.name.endswith(_SPARE))):
        problems.append(f"{' '.join(stored.verify)} says that all is well; used, it is {ended}")
    if ended == "silent" and stored.sealed and not found:
        problems.append("taken over silently, with another result")
    yield Trial("damage", stored.name, fault, ended, tuple(problems))


def _used(folder: Path, good: Sound, path: Path, problems: list[str]) -> str:
    """How the command that uses it ended."""
    outcome = _run(good.stored, folder)
    if outcome.crashed:
        problems.append(f"using it: exit code {outcome.code}, {outcome.last[:300]}")
        return "crashed"
    if outcome.code:
        named = (path.name, str(path.parent.relative_to(folder)), str(path.relative_to(folder)))
        if not any(name in outcome.text for name in named if name != "."):
            problems.append(f"does not name the file: {outcome.last[:300]}")
        return "refused"
    same = _made(folder, good.stored) == good.made and _plain(outcome.text) == _plain(good.outcome.text)
    if same:
        return "unharmed"
    more = set(_plain(outcome.text).splitlines()) - set(_plain(good.outcome.text).splitlines())
    if not good.stored.sealed:
        return "changed"
    return "reported" if any(_SAID.search(line) for line in more) else "silent"


def _plain(text: str) -> str:
    lines = text.replace("\r", "\n").splitlines()
    return "\n".join(_VARIES.sub("", line) for line in lines if "seconds" not in line and "/s" not in line)
