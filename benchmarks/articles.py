"""How much memory a knowledge base of articles takes while it is streamed, and how long.

    python benchmarks/articles.py [--articles 200000] [--output FILE.json]

Writes Encyclopedic-VQA's form with made-up articles (sections, images, texts), then reads it as
`comem corpus build` does, in a process of its own whose peak memory is stated.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    args = _arguments()
    if args.worker:
        print(json.dumps(read(Path(args.worker))))
        return
    with tempfile.TemporaryDirectory(prefix="comem-articles-") as folder:
        path = Path(folder) / "encyclopedic_kb_wiki.json"
        write(path, args.articles)
        done = subprocess.run(
            [sys.executable, __file__, "--worker", str(path)], capture_output=True, text=True, check=True
        )
        row = json.loads(done.stdout.splitlines()[-1]) | {"file_bytes": path.stat().st_size}
    print(
        f"{args.articles:,} articles, {row['file_bytes'] / 1e9:.2f} GB: {row['rows']:,} items in "
        f"{row['cpu_seconds']:.0f} s of the processor; peak {row['peak_bytes'] / 2**20:.0f} MiB, "
        f"{row['added_bytes'] / 2**20:.1f} MiB above the imports"
    )
    if args.output:
        from comem.io.files import write_json
        from comem.io.run_folder import run_manifest

        write_json(args.output, {"benchmark": "articles", "articles": args.articles, **row, **run_manifest()})


def _arguments() -> argparse.Namespace:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--articles", type=int, default=200_000, help="(%(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def write(path: Path, articles: int) -> None:
    """Three sections of 60 words and two images an article; the same seventy texts again and again."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 10))) for _ in range(2000)]
    texts = [json.dumps(" ".join(rng.choices(words, k=60))) for _ in range(70)]
    with open(path, "w", encoding="utf-8") as file:
        for number in range(articles):
            url = f"https://en.wikipedia.org/wiki/Article_{number}"
            images = json.dumps([f"https://upload.wikimedia.org/{number}_{n}.jpg" for n in range(2)])
            sections = ", ".join(texts[(number + n) % 70] for n in range(3))
            file.write(
                f'{"{" if not number else ","}"{url}": {{"title": "Article {number}", "url": "{url}", '
                f'"image_urls": {images}, "image_reference_descriptions": ["one", "two"], '
                f'"image_section_indices": [0, 2], "section_titles": ["Article {number}", "History", "Use"], '
                f'"section_texts": [{sections}]}}'
            )
        file.write("}")


def read(path: Path) -> dict[str, Any]:
    """Rows, processor seconds and peak memory of reading the file once."""
    from comem.retrieval.corpus.articles import article_rows
    from comem.retrieval.corpus.rules import CorpusStats

    before, start = _peak(), time.process_time()
    rows = sum(1 for _ in article_rows(path, CorpusStats()))
    peak = _peak()
    seconds = time.process_time() - start
    return {"rows": rows, "cpu_seconds": seconds, "peak_bytes": peak, "added_bytes": peak - before}


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
