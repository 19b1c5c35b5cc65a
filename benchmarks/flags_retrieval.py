"""Retrieval end to end on the real flags: the right item among the first 1, 5 and 10, by kind of distortion.

    python benchmarks/flags_retrieval.py [--data ../shared/data/flags] [--output FILE.json]

The corpus becomes a knowledge base and an index (as `comem index build --corpus` does); each of the 245 flags
is asked for by copies that were cropped, resized, saved as JPEG, all three, tinted, or turned, as files that
the retriever opens, embeds and searches for (as `comem retrieve` does), among the items of one language. An
item with the same pixels as the original is right, whatever its name (bl = fr = gf …). The embedded CLIP, and
raw pixels as the baseline without learning.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

KS = (1, 5, 10)


def main() -> None:
    args = _arguments()
    found = {}
    with tempfile.TemporaryDirectory(prefix="comem-flags-") as folder:
        for name in args.embedders:
            found[name] = measure(Path(folder) / name.replace("/", "_"), name, args)
            for kind, row in found[name].items():
                shares = "".join(f"  recall@{k} {row[f'recall@{k}']:.3f}" for k in KS)
                print(f"{name:12}{kind:10}{shares}  {row['cpu_ms_per_query']:.1f} ms", flush=True)
    if args.output:
        from comem.io.files import write_json
        from comem.io.run_folder import run_manifest

        settings = {name: str(value) for name, value in vars(args).items() if name != "output"}
        result = {"benchmark": "flags_retrieval", "settings": settings, "results": found}
        write_json(args.output, result | {"manifest": run_manifest({"seed": args.seed})})


def _arguments() -> argparse.Namespace:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/flags"), help="(%(default)s)")
    parser.add_argument(
        "--embedders", nargs="+", default=["toy", "pixels:8", "pixels:16"], help="(%(default)s)"
    )
    parser.add_argument("--language", default="en", help="of the items searched (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser.parse_args()


def measure(folder: Path, name: str, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Recall at each k, and milliseconds a query, by kind of distortion."""
    from comem.retrieval.embedder import load_embedder
    from comem.retrieval.evaluate import DISTORTIONS, RawPixels
    from comem.retrieval.index import IndexSettings, build_index
    from comem.retrieval.retriever import VectorRetriever

    kind, _, edge = name.partition(":")
    embedder: Any = RawPixels(int(edge or 16)) if kind == "pixels" else load_embedder(name)
    settings = IndexSettings(corpus=(str(args.data),), output=folder)
    retriever = VectorRetriever(build_index(settings, embedder=embedder), embedder)
    pictures = sorted((args.data / "images").iterdir())
    results = {}
    for kind in DISTORTIONS:
        examples = _questions(pictures, kind, folder / "queries" / kind, args.seed)
        wall, busy = time.perf_counter(), time.process_time()
        contexts = retriever.retrieve(examples, max(KS), [args.language]).values()
        wall, busy = time.perf_counter() - wall, time.process_time() - busy
        ranks = [_rank(picture, context.items) for picture, context in zip(pictures, contexts, strict=True)]
        results[kind] = {f"recall@{k}": sum(rank < k for rank in ranks) / len(ranks) for k in KS} | {
            "queries": len(ranks), "ms_per_query": 1000 * wall / len(ranks),
            "cpu_ms_per_query": 1000 * busy / len(ranks),
        }  # fmt: skip
    return results


def _questions(pictures: Sequence[Path], kind: str, folder: Path, seed: int) -> list[Any]:
    """A distorted copy of each picture, as a file."""
    from comem.io.images import open_image
    from comem.retrieval.evaluate import DISTORTIONS
    from comem.types import Example, ImageRef

    folder.mkdir(parents=True)
    examples = []
    for i, path in enumerate(pictures):
        asked = folder / f"{path.stem}.png"
        DISTORTIONS[kind](open_image(path), random.Random(f"{seed}/{kind}/{i}")).save(asked)
        examples.append(Example(path.stem, "Which flag is this?", ImageRef(path=str(asked))))
    return examples


def _rank(picture: Path, items: Sequence[Any]) -> int:
    """The place of the first right item, from 0; beyond all k where there is none."""
    wanted = _pixels(picture)
    found = (place for place, item in enumerate(items) if _pixels(Path(item.image.path)) == wanted)
    return next(found, max(KS))


@cache
def _pixels(path: Path) -> bytes:
    from comem.io.images import open_image

    picture = open_image(path)
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).digest()


if __name__ == "__main__":
    main()
