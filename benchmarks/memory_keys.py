"""Memories as their own keys against CLIP: is the right item among the first 1, 5 and 10?

    python benchmarks/memory_keys.py [--encoder toy] [--queries 60] [--output FILE.json]

The embedded world (towns it never saw, a question about each, another view of its flag) and the real flags
(copies that were cropped), English items only. The embedded CLIP looks at the image, or at
image and words alike; memories are compared by the cosine of their means, the query read as an item is.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

KS = (1, 5, 10)


def main() -> None:
    args = _arguments()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="comem-keys-") as place:
        for name, make in (("embedded world", world), ("flags", flags)):
            if name == "flags" and not args.flags.is_dir():
                continue
            folder = Path(place) / name.replace(" ", "_")
            corpus, examples, right = make(folder, args)
            found[name] = measure(folder / "index", corpus, examples, right, args)
            for way, row in found[name].items():
                shares = "".join(f"  recall@{k} {row[f'recall@{k}']:.3f}" for k in KS)
                print(f"{name:15}{way:26}{shares}  of {row['items']} items", flush=True)
    if args.output:
        from comem.io.files import write_json
        from comem.io.run_folder import run_manifest

        settings = {name: str(value) for name, value in vars(args).items() if name != "output"}
        result = {"benchmark": "memory_keys", "settings": settings, "results": found}
        write_json(args.output, result | {"manifest": run_manifest({"seed": args.seed})})


def _arguments() -> argparse.Namespace:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--encoder", default="toy", help="whose memories are keys (%(default)s)")
    parser.add_argument("--flags", type=Path, default=Path("../shared/data/flags"), help="(%(default)s)")
    parser.add_argument("--towns", type=int, default=400, help="of the embedded world (%(default)s)")
    parser.add_argument("--queries", type=int, default=60, help="of each (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser.parse_args()


Right = Callable[[Any, Any], bool]


def world(folder: Path, args: argparse.Namespace) -> tuple[Path, list[Any], Right]:
    """Corpus, questions, and whether an item is the question's town."""
    from comem.benchmarks import BENCHMARKS
    from comem.toy.dataset import DataSettings, build

    build(DataSettings(folder, size=args.towns, seed=args.seed, languages=("en",)))
    asked = list(BENCHMARKS["toy"].load(folder / "test.jsonl", split="unseen_entity"))
    by_town = {each.meta["entity_id"]: each for each in asked}
    chosen = list(by_town.values())[: args.queries]
    return folder / "wit.tsv.gz", chosen, lambda example, item: item.id.find(example.meta["entity_id"]) >= 0


def flags(folder: Path, args: argparse.Namespace) -> tuple[Path, list[Any], Right]:
    """Corpus, cropped copies, and whether an item shows the same picture."""
    from comem.io.images import open_image
    from comem.retrieval.evaluate import DISTORTIONS
    from comem.types import Example, ImageRef

    (folder / "queries").mkdir(parents=True)
    pictures = sorted((args.flags / "images").iterdir())
    examples = []
    for i, path in enumerate(random.Random(args.seed).sample(pictures, min(args.queries, len(pictures)))):
        asked = folder / "queries" / f"{path.stem}.png"
        DISTORTIONS["crop"](open_image(path), random.Random(f"{args.seed}/{i}")).save(asked)
        meta = {"pixels": open_image(path).tobytes()}
        examples.append(Example(path.stem, "Which flag is this?", ImageRef(path=str(asked)), meta=meta))
    return args.flags, examples, lambda e, item: open_image(item.image).tobytes() == e.meta["pixels"]


def measure(
    folder: Path, corpus: Path, examples: Sequence[Any], right: Right, args: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Recall by way of asking."""
    from comem.bank.keys import MemoryRetriever
    from comem.bank.serve import LiveBank
    from comem.memory.encoder import load_encoder
    from comem.retrieval.embedder import load_embedder
    from comem.retrieval.index import IndexSettings, build_index
    from comem.retrieval.retriever import VectorRetriever

    embedder, encoder = load_embedder("toy"), load_encoder(args.encoder)
    index = build_index(
        IndexSettings(corpus=(str(corpus),), output=folder, languages=("en",)), embedder=embedder
    )
    bank = LiveBank(encoder)
    ways = {
        "CLIP, image": lambda: VectorRetriever(index, embedder),
        "CLIP, image and words": lambda: VectorRetriever(index, embedder, image_weight=0.5),
        "memory, image": lambda: MemoryRetriever(index.base, bank, encoder),
        "memory, image and words": lambda: MemoryRetriever(index.base, bank, encoder, words=True),
    }
    results = {}
    for way, make in ways.items():
        begun = time.process_time()
        contexts = make().retrieve(examples, max(KS))
        ranks = [
            next((at for at, item in enumerate(contexts[each.id].items) if right(each, item)), max(KS))
            for each in examples
        ]
        results[way] = {f"recall@{k}": sum(rank < k for rank in ranks) / len(ranks) for k in KS} | {
            "queries": len(ranks), "items": len(index.base), "cpu_seconds": time.process_time() - begun,
        }  # fmt: skip
    return results


if __name__ == "__main__":
    main()
