"""Entity linking by BM25 over titles: our index against rank_bm25, queries a second and memory.

    python benchmarks/entity_linking.py [--titles 100000 1000000] [--output entity_linking.json]

Titles are made up: 1 to 6 words, drawn from a vocabulary with Zipf's frequencies, as in Wikipedia a few
words ("of", "the") are in very many titles. Queries are titles, half of them with a word left out or put
in. Both get the same tokens and give the best 5. Each measurement runs in a process of its own, so that
memory is its own; rank_bm25 answers fewer queries, because it takes so long. Linux only.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

WAYS = ("comem", "rank_bm25")
BEST = 5


def main() -> None:
    args = _arguments()
    if args.worker:
        way, count = args.worker.split(":")
        measure = {"comem": measure_comem, "rank_bm25": measure_rank_bm25}[way]
        print(json.dumps(measure(int(count), args)))
        return
    rows = []
    print(f"{'titles':>10} {'':10}{'built in':>10}{'queries/s':>12}{'resident':>12}{'of it private':>15}")
    for count in args.titles:
        found = {way: _in_own_process(way, count, args) for way in WAYS}
        _check(found)
        for way, row in found.items():
            row.pop("first")
            print(
                f"{count:10,} {way:10}{row['build_seconds']:8.1f} s{row['queries_per_second']:12,.1f}"
                f"{row['resident_mib']:8.0f} MiB{row['private_mib']:11.0f} MiB",
                flush=True,
            )
        ratio = found["comem"]["queries_per_second"] / found["rank_bm25"]["queries_per_second"]
        print(f"{count:10,} ratio {ratio:,.0f} x", flush=True)
        rows.append({"titles": count, "ratio": ratio, **found})
    if args.output:
        from comem.io.files import write_json
        from comem.io.run_folder import run_manifest

        settings = {key: value for key, value in vars(args).items() if key not in ("output", "worker")}
        result = {"benchmark": "entity_linking", "settings": settings, "results": rows}
        write_json(args.output, result | {"manifest": run_manifest()})


def _arguments() -> argparse.Namespace:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--titles", type=int, nargs="+", default=[100_000, 1_000_000], metavar="N")
    parser.add_argument("--queries", type=int, default=5000, help="of ours (%(default)s)")
    parser.add_argument("--slow-queries", type=int, default=20, help="of rank_bm25's (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_own_process(way: str, count: int, args: argparse.Namespace) -> dict[str, Any]:
    options = [f"--queries={args.queries}", f"--slow-queries={args.slow_queries}", f"--seed={args.seed}"]
    command = [sys.executable, __file__, "--worker", f"{way}:{count}", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{way}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _check(found: dict[str, Any]) -> None:
    """Both must give the same best scores for the queries that both answered."""
    ours, theirs = (found[way]["first"] for way in WAYS)
    for mine, other in zip(ours, theirs, strict=False):
        if not np.allclose(mine, other, atol=1e-8):
            raise RuntimeError(f"the scores differ: {mine} and {other}")


def make_titles(count: int, seed: int) -> list[str]:
    """Titles of 1 to 6 words; word r of the vocabulary is drawn in proportion to 1 / (r + 2)."""
    random = np.random.default_rng(seed)
    words = max(1000, count // 4)
    shares = 1 / np.arange(2, words + 2)
    lengths = random.choice(np.arange(1, 7), size=count, p=[0.1, 0.4, 0.25, 0.13, 0.08, 0.04])
    drawn = random.choice(words, size=int(lengths.sum()), p=shares / shares.sum())
    pieces = np.split(drawn, np.cumsum(lengths)[:-1])
    return [" ".join(f"w{word}" for word in piece) for piece in pieces]


def make_queries(titles: list[str], count: int, seed: int) -> list[str]:
    """Titles; of every second one a word is left out or one of another title put in."""
    random = np.random.default_rng(seed + 1)
    queries = []
    for number, row in enumerate(random.integers(len(titles), size=count)):
        words = titles[row].split()
        if number % 2 and len(words) > 1:
            words.pop(int(random.integers(len(words))))
        elif number % 2:
            words.append(titles[int(random.integers(len(titles)))].split()[0])
        queries.append(" ".join(words))
    return queries


def measure_comem(count: int, args: argparse.Namespace) -> dict[str, Any]:
    """Build in a process of its own, then open and search in this one."""
    from comem.linking.index import TitleIndex

    titles = make_titles(count, args.seed)
    queries = make_queries(titles, args.queries, args.seed)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "titles.tsv")
        file.write_text("".join(f"Q{row}\t{title}\n" for row, title in enumerate(titles)), encoding="utf-8")
        del titles
        seconds = _built_elsewhere(file)
        _trim()
        before = memory_mib()
        index = TitleIndex(file.with_name("index"))
        index.search(queries[:10], BEST)
        start = time.perf_counter()
        found = index.search(queries, BEST)
        spent = time.perf_counter() - start
        after = memory_mib()
    first = [[match.score for match in matches] for matches in found[: args.slow_queries]]
    return _result(seconds, len(queries) / spent, before, after) | {"first": first}


def _built_elsewhere(file: Path) -> float:
    """Seconds to build the index beside the titles file, in a process of its own."""
    code = (
        "import sys; from pathlib import Path; from comem.linking.build import build_title_index;"
        "from comem.linking.titles import Words;"
        "build_title_index(sys.argv[1], Path(sys.argv[1]).with_name('index'), Words())"
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    return time.perf_counter() - start


def measure_rank_bm25(count: int, args: argparse.Namespace) -> dict[str, Any]:
    from rank_bm25 import BM25Okapi

    from comem.linking.titles import Words

    titles = make_titles(count, args.seed)
    queries = make_queries(titles, args.queries, args.seed)[: args.slow_queries]
    before = memory_mib()
    start = time.perf_counter()
    tokenize = Words()
    index = BM25Okapi(list(tokenize(titles)))
    seconds = time.perf_counter() - start
    after = memory_mib()
    first, start = [], time.perf_counter()
    for tokens in tokenize(queries):
        scores = index.get_scores(tokens)
        first.append(scores[np.argsort(scores)[::-1][:BEST]])  # as its get_top_n does
    spent = time.perf_counter() - start
    kept = [[float(score) for score in row if score > 0] for row in first]
    return _result(seconds, len(queries) / spent, before, after) | {"first": kept}


def _result(
    seconds: float, rate: float, before: dict[str, float], after: dict[str, float]
) -> dict[str, float]:
    grown = {f"{name}_mib": after[name] - before[name] for name in after}
    return {"build_seconds": seconds, "queries_per_second": rate, **grown}


def _trim() -> None:
    """Give freed memory back to the system, so that it does not hide what comes next."""
    import ctypes
    import gc

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def memory_mib() -> dict[str, float]:
    """Resident memory, and the part of it that is no mapped file, in MiB."""
    status = Path("/proc/self/status").read_text()
    names = {"resident": "VmRSS", "private": "RssAnon"}
    return {key: int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024 for key, name in names.items()}  # type: ignore[index]


if __name__ == "__main__":
    main()
