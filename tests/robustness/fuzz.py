"""Readers get mutated files: they read them, or say in words what is wrong with which file."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.robustness.mutators import DAMAGE, TEXT, Mutator, mutate
from tests.robustness.process import fork, run
from tests.robustness.verdicts import Trial

SLOW = 10.0  # seconds that no file of some kilobytes may take
LONG = 2000  # characters of a message


@dataclass(frozen=True)
class Reader:
    """Something that reads a file of strangers.

    Attributes:
        name: of the reader.
        seeds: well-formed files, or folders, under the folder of seeds.
        read: reads a file (or folder) wholly.
        ways: to mutate it.
        named: whether an error has to name the file.
    """

    name: str
    seeds: tuple[str, ...]
    read: Callable[[Path], Any]
    ways: tuple[Mutator, ...] = TEXT
    named: bool = True


def _all(values: Any) -> int:
    return sum(1 for _ in values)


def _benchmark(name: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        from comem.benchmarks import BENCHMARKS

        row = BENCHMARKS[name]
        examples = list(row.load(path))
        return [row.ask(example, True) for example in examples]

    return read


def _score(path: Path) -> Any:
    from comem.eval.score import EvaluateSettings, evaluate

    return evaluate(
        EvaluateSettings(
            benchmark="toy", predictions=path, references=path.parent.parent / "test.jsonl", bootstrap=0
        )
    )


def _corpus(path: Path) -> Any:
    from comem.retrieval.corpus.build import build_corpus
    from comem.retrieval.corpus.sources import CorpusSettings

    return build_corpus(CorpusSettings(sources=(str(path),), output=path.parent / "corpus"))


def _training(path: Path) -> Any:
    from comem.training.data import load_examples

    return load_examples(path)


def _convert(path: Path) -> Any:
    from comem.data.convert import ConvertSettings, convert

    return convert(ConvertSettings(path, path.parent / "converted.jsonl", skip_faults=True))


def _image(path: Path) -> Any:
    from comem.io.images import open_image

    return open_image(str(path)).size


def _knowledge(path: Path) -> Any:
    from comem.training.data import load_knowledge

    return load_knowledge(path)


def _answers(path: Path) -> Any:
    from comem.eval.run_folder import read_answers

    return read_answers(path)


def _titles(path: Path) -> Any:
    from comem.linking.titles import read_titles

    return _all(read_titles(path))


def _queries(path: Path) -> Any:
    from comem.retrieval.retriever import read_queries

    return _all(read_queries(path))


def _train_config(path: Path) -> Any:
    from comem.config import load_config
    from comem.training.settings import TrainSettings

    return load_config(TrainSettings, path)


def _tensors(path: Path) -> Any:
    from comem.memory.bank import MemoryBank

    return MemoryBank.load(path).embeddings.shape


def _reply(path: Path) -> Any:
    from comem.data.endpoint import _reply as read

    return read(path.read_bytes())


def _result(path: Path) -> Any:
    from comem.eval.results import read_result

    return read_result(path)


_PARQUET = (("okvqa", "val2014"), ("aokvqa", "validation"), ("cvqa", "test"), ("mrag_bench", "test"))


def _parquet(name: str, split: str) -> Reader:
    file = f"published/{name}/data/{split}-00000-of-00001.parquet"
    return Reader(f"questions: {name}", (file,), _benchmark(name), DAMAGE)


READERS = (
    Reader("training records", ("lessons.jsonl",), _training),
    Reader("knowledge", ("items.jsonl", "wit.tsv.gz"), _knowledge),
    Reader("corpus sources", ("items.jsonl", "items.csv", "wit.tsv.gz"), _corpus),
    Reader("corpus parquet", ("items.parquet",), _corpus, DAMAGE),
    Reader("LLaVA records", ("llava.json", "llava.jsonl"), _convert),
    Reader("images", ("a.png", "a.jpg", "a.webp", "a.gif", "a.tif", "a.bmp"), _image, DAMAGE),
    Reader("answers", ("predictions.jsonl",), _answers),
    Reader("scoring", ("predictions.jsonl",), _score),
    Reader("questions to retrieve for", ("test.jsonl",), _queries),
    Reader("titles", ("titles.tsv", "titles.jsonl"), _titles),
    Reader("training config", ("config.yaml",), _train_config),
    Reader("a bank in a file", ("bank.safetensors",), _tensors, DAMAGE),
    Reader("replies of an endpoint", ("reply.json",), _reply, named=False),
    Reader("reports", ("report.json",), _result),
    Reader("questions: toy", ("test.jsonl",), _benchmark("toy")),
    Reader("questions: infoseek", ("published/infoseek/infoseek_val.jsonl",), _benchmark("infoseek")),
    Reader("questions: oven", ("published/oven/oven_query_val.jsonl",), _benchmark("oven_query")),
    Reader("questions: viquae", ("published/viquae/test.jsonl",), _benchmark("viquae")),
    Reader("questions: evqa", ("published/evqa/test.csv",), _benchmark("evqa")),
    *(_parquet(*row) for row in _PARQUET),
)  # fmt: skip


@contextmanager
def picture_server(note: Path) -> Iterator[str]:
    """A process that serves a picture at every address; its own address, the same where the note is there."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(buffer, "PNG")

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Says nothing."""

        def do_GET(self) -> None:
            with suppress(OSError):  # the client was killed
                self.send_response(200)
                self.send_header("Content-Length", str(len(buffer.getvalue())))
                self.end_headers()
                self.wfile.write(buffer.getvalue())

    server = HTTPServer(("127.0.0.1", int(note.read_text("ascii")) if note.exists() else 0), Handler)
    note.write_text(str(server.server_port), "ascii")
    pid = os.fork()
    if pid == 0:
        server.serve_forever()
    server.server_close()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def seeds(world: Path, folder: Path, published: bool = True) -> None:
    """Well-formed files of every kind, made from the world where it has them.

    Args:
        world: `build_world`'s.
        folder: where they go.
        published: the questions of every benchmark, too.
    """
    from PIL import Image

    folder.mkdir()
    for source in ("items.jsonl", "wit.tsv.gz", "llava.json", "test.jsonl", "titles.tsv"):
        shutil.copy(world / source, folder)
    optional = {
        "lessons/train.jsonl": "lessons.jsonl", "run/predictions.jsonl": "predictions.jsonl",
        "bank.safetensors": "bank.safetensors", "trained/config.yaml": "config.yaml",
        "report.json": "report.json",
        "corpus/items.parquet": "items.parquet",
    }  # fmt: skip
    for source, name in optional.items():
        if (world / source).exists():
            shutil.copy(world / source, folder / name)
    rows = [json.loads(line) for line in (world / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
    (folder / "items.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    records = json.loads((world / "llava.json").read_text(encoding="utf-8"))
    (folder / "llava.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records), encoding="utf-8")
    titles = [{"wikidata_id": f"Q{i}", "wikipedia_title": f"Title {i}"} for i in range(5)]
    (folder / "titles.jsonl").write_text("".join(json.dumps(row) + "\n" for row in titles), encoding="utf-8")
    choice = {
        "message": {"role": "assistant", "content": '{"question": "Quoi ?", "answer": "a", "answers": ["a"]}'}
    }
    (folder / "reply.json").write_text(
        json.dumps({"choices": [choice], "usage": {"total_tokens": 9}}), encoding="utf-8"
    )
    with Image.open(next((world / "images").glob("*.png"))) as image:
        for suffix in ("png", "jpg", "webp", "gif", "tif", "bmp"):
            image.convert("RGB").save(folder / f"a.{suffix}")
    if published:
        run("toy benchmarks published --size 20 --questions 3 --image-size 28".split(), folder)


def fuzzed(seeds: Path, folder: Path, reader: Reader, first: int, count: int) -> Iterator[Trial]:
    """So many inputs for a reader, by the numbers from `first` on, in one process."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for support in ("test.jsonl",):
        shutil.copy(seeds / support, folder)
    present = [seeds / name for name in reader.seeds if (seeds / name).exists()]
    done = 0
    while present and done < count:  # a process that dies goes on behind the input that it died of
        results = folder / "results"
        results.unlink(missing_ok=True)
        numbers = range(first + done, first + count)
        outcome = fork(partial(_work, present, folder, reader, numbers, results), folder, limit=900)
        lines = (
            [json.loads(line) for line in results.read_text("utf-8").splitlines()] if results.exists() else []
        )
        found = [Trial(**{**line, "problems": tuple(line["problems"])}) for line in lines]
        yield from found
        done += len(found)
        if outcome.code != 0:
            fault = f"input {first + done}"
            yield Trial(
                "fuzz", reader.name, fault, "crashed", (f"exit code {outcome.code}, {outcome.last[:300]}",)
            )
            done += 1


def _work(seeds: list[Path], folder: Path, reader: Reader, numbers: range, results: Path) -> int:
    with open(results, "w", encoding="utf-8", buffering=1) as file:
        for number in numbers:
            file.write(json.dumps(dataclasses.asdict(one(seeds, folder, reader, number))) + "\n")
    return 0


def one(seeds: list[Path], folder: Path, reader: Reader, number: int) -> Trial:
    """One input; it stays as `folder/input/NAME` until the next."""
    draw = random.Random(f"{reader.name} {number}")
    seed = draw.choice(seeds)
    here = folder / "input"
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir()
    data, ways = mutate(seed.read_bytes(), draw, reader.ways)
    path = here / seed.name
    path.write_bytes(data)
    began = time.monotonic()
    ended, problems = "read", list[str]()
    try:
        reader.read(path)
    except (ValueError, OSError) as error:
        ended = "refused"
        message = str(error)
        if reader.named and str(here) not in message and ": question " not in message:
            problems.append(f"does not name the file: {type(error).__name__}: {message[:300]}")
        if len(message) > LONG:
            problems.append(f"a message of {len(message)} characters: {message[:100]}")
    except Exception as error:
        ended = "crashed"
        place = traceback.extract_tb(error.__traceback__)
        ours = next(
            (
                f"{Path(each.filename).name}:{each.lineno}"
                for each in reversed(place)
                if "comem" in each.filename
            ),
            "",
        )
        problems.append(f"{type(error).__name__} at {ours}: {str(error)[:200]}")
    if (seconds := time.monotonic() - began) > SLOW:
        problems.append(f"took {seconds:.0f} s")
    return Trial("fuzz", reader.name, f"input {number}: {ways} of {seed.name}", ended, tuple(problems))
