"""How fast a knowledge base is built on this machine: reading WIT, downloading, embedding.

    python benchmarks/knowledge_base.py --output docs/results/knowledge_base.json

Rows are as long as WIT's, with random words; pictures are 500-pixel JPEGs from a server on this machine,
without a limit on the rate, so that what is measured is our own work. Rates are per second of wall-clock
time and per second of processor time: on a shared machine the second is the one to compare.
"""

from __future__ import annotations

import argparse
import gzip
import io
import random
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from comem.io.console import print_table
from comem.io.files import write_json
from comem.io.run_folder import run_manifest
from comem.retrieval.corpus.build import build_corpus
from comem.retrieval.corpus.rows import WIT_COLUMNS
from comem.retrieval.corpus.sources import CorpusSettings
from comem.retrieval.download.job import download_corpus
from comem.retrieval.download.settings import DownloadSettings
from comem.retrieval.embed import EmbedSettings, embed_corpus


def write_wit(path: Path, rows: int, url: str) -> None:
    """A shard with texts of WIT's length: about 10, 110 and 90 words."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 10))) for _ in range(5000)]
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\t".join(WIT_COLUMNS) + "\n")
        for i in range(rows):
            row = {
                "language": "en", "page_url": f"https://en.wikipedia.org/wiki/P{i}",
                "image_url": f"{url}/{i}.jpg",
                "page_title": " ".join(rng.choices(words, k=3)), "is_main_image": "true",
                "caption_reference_description": " ".join(rng.choices(words, k=10)),
                "context_page_description": " ".join(rng.choices(words, k=110)),
                "context_section_description": " ".join(rng.choices(words, k=90)),
            }  # fmt: skip
            file.write("\t".join(row.get(name, "") for name in WIT_COLUMNS) + "\n")


def serve() -> str:
    """A server that sends the same picture to every request; its address."""
    noise = np.random.default_rng(0).integers(0, 256, (50, 75, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((500, 333)).save(buffer, "JPEG", quality=85)
    body = buffer.getvalue()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def timed(what: str, unit: str, count: int, work: Callable[[], object]) -> dict[str, Any]:
    """Rates of one piece of work."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {
        "what": what, "unit": unit, "count": count, "seconds": wall, "processor_seconds": processor,
        "per_second": count / wall, "per_processor_second": count / processor,
    }  # fmt: skip


def measure(folder: Path, rows: int, pictures: int, embedder: str) -> list[dict[str, Any]]:
    """The three stages, one after the other."""
    write_wit(folder / "wit.tsv.gz", rows, "https://example.org")
    write_wit(folder / "few.tsv.gz", pictures, serve())
    few = folder / "few"
    polite_to_none = DownloadSettings("benchmark@localhost", rate=1e6, connections=16)
    settings = EmbedSettings(corpus=few, embedder=embedder)

    def build(name: str, output: Path) -> object:
        return build_corpus(CorpusSettings(sources=(str(folder / name),), output=output))

    found = [timed("read WIT, one process", "rows", rows, lambda: build("wit.tsv.gz", folder / "kb"))]
    found[0]["bytes_per_row"] = (folder / "kb" / "items.parquet").stat().st_size / rows
    build("few.tsv.gz", few)
    download = timed(
        "download (the server included)", "pictures", pictures,
        lambda: download_corpus(few, polite_to_none),
    )  # fmt: skip
    embed = timed(
        f"embed with {embedder}", "pictures", pictures,
        lambda: embed_corpus(settings),
    )  # fmt: skip
    return [*found, download, embed]


def main() -> None:
    """Measures, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--pictures", type=int, default=1_500)
    parser.add_argument("--embedder", default="toy")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), args.rows, args.pictures, args.embedder)
    rows = [
        (each["what"], each["unit"], f"{each['per_second']:,.0f}", f"{each['per_processor_second']:,.0f}")
        for each in found
    ]
    print_table(("stage", "unit", "a second", "a processor second"), rows)
    if args.output:
        write_json(
            args.output, {"stages": found, **run_manifest({"settings": vars(args) | {"output": None}})}
        )


if __name__ == "__main__":
    main()
