"""`comem corpus build | download | embed | info`: from one's sources to a knowledge base."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from comem.io.console import make_table, out, print_facts

_HELP = """\
examples:
  comem corpus build wit_v1.train.all-*.tsv.gz --output wit --languages en es --workers 8
  comem corpus build my-pictures/ --output mine            # a.jpg beside a.txt
  comem corpus build items.csv --output mine --columns id=sku text=about image=file
  comem corpus build hf:wikimedia/wit_base:train --output wit-base
  comem corpus download wit --contact you@example.org
  comem corpus embed wit --embedder ViT-L-14:openai --precision fp16 --batch-size 256
  comem index build --corpus wit --output wit
  comem corpus info wit --verify
Run a build again after an interruption: sources that were read are not read twice.
"""


def add_corpus_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem corpus`."""
    parser.epilog = _HELP
    jobs = parser.add_subparsers(title="jobs", metavar="JOB", required=True, dest="job")
    _add_build(jobs.add_parser("build", help="read WIT, tables, folders or data sets into a corpus folder"))
    _add_download(jobs.add_parser("download", help="fetch the pictures that a corpus has URLs of"))
    _add_embed(jobs.add_parser("embed", help="vectors of pictures and texts, for the index and other tools"))
    info = jobs.add_parser("info", help="what a corpus folder holds and what was dropped")
    info.add_argument("corpus", type=Path, metavar="DIR")
    info.add_argument("--verify", action="store_true", help="read all of it and compare the checksum")


def run_corpus(args: argparse.Namespace) -> int:
    """Runs the job that was chosen."""
    jobs: dict[str, Callable[[argparse.Namespace], int]] = {
        "build": _build, "download": _download, "embed": _embed, "info": _info,
    }  # fmt: skip
    return jobs[args.job](args)


def _add_build(parser: argparse.ArgumentParser) -> None:
    from comem.retrieval.corpus.rules import DESCRIPTIONS

    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="WIT .tsv[.gz], .jsonl, .csv, .parquet, folder, hf:NAME[:SPLIT]",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="the corpus folder; a second run goes on")
    add("--images", type=Path, metavar="DIR", help="where relative image paths start (beside each file)")
    add(
        "--columns",
        nargs="+",
        default=[],
        metavar="OURS=THEIRS",
        help="id, text, title, image, language, licence …",
    )
    add("--names-as-titles", action="store_true", help="a picture's file name is its title")
    add("--languages", nargs="+", default=[], metavar="CODE", help="only rows in these languages")
    add("--licences", nargs="+", default=[], metavar="NAME", help="only rows with these: cc0 'cc-by-sa-*'")
    add("--main-image", action="store_true", help="only the main picture of each page")
    add(
        "--text",
        nargs="+",
        choices=list(DESCRIPTIONS),
        default=list(DESCRIPTIONS),
        help="descriptions, best first",
    )
    add("--no-title", action="store_true", help="passages without the title before them")
    add("--max-chars", type=int, default=0, metavar="N", help="cut passages (0: not)")
    add("--text-only", action="store_true", help="keep rows without a picture too")
    add("--unique", choices=("none", "passage", "language", "image"), default="passage",
        help="of rows with the same picture keep one a … (%(default)s; image: one in all)")  # fmt: skip
    add(
        "--same-image", choices=("address", "content"), default="address", help="what makes pictures the same"
    )
    add("--on-duplicate", choices=("refuse", "drop"), default="refuse", help="a repeated id (%(default)s)")
    add("--keep-partial", action="store_true", help="go on with what could be read of a cut shard")
    add("--workers", type=int, default=1, metavar="N", help="shards read at the same time (%(default)s)")


def _build(args: argparse.Namespace) -> int:
    from comem.retrieval.corpus.build import build_corpus
    from comem.retrieval.corpus.rules import CorpusRules
    from comem.retrieval.corpus.sources import find_sources

    rules = CorpusRules(
        languages=tuple(args.languages), licences=tuple(args.licences), main_image=args.main_image,
        descriptions=tuple(args.text), title=not args.no_title, max_chars=args.max_chars,
        text_only=args.text_only, unique=args.unique, same_image=args.same_image,
        on_duplicate=args.on_duplicate,
    )  # fmt: skip
    sources = find_sources(args.sources, args.images, _columns(args.columns), args.names_as_titles)
    build_corpus(sources, args.output, rules, workers=args.workers, keep_partial=args.keep_partial)
    return _show(args.output, verify=False)


def _columns(pairs: list[str]) -> dict[str, str]:
    """`OURS=THEIRS` words as a mapping; `title` is WIT's `page_title`."""
    broken = [pair for pair in pairs if not all(pair.partition("="))]
    if broken:
        raise ValueError(f"--columns {broken[0]}: write OURS=THEIRS, as in id=sku")
    split = dict(pair.split("=", 1) for pair in pairs)
    ours = {"title": "page_title", "license": "licence", "source": "page_url"}
    return {ours.get(name, name): theirs for name, theirs in split.items()}


def _add_engine(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--engine", choices=("local", "ray"), default="local", help="ray: several workers (RAY_ADDRESS)")
    add("--workers", type=int, default=2, metavar="N", help="of Ray, on this machine (%(default)s)")


def _add_download(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("corpus", type=Path, metavar="DIR", help="made by comem corpus build")
    add("--contact", required=True, metavar="MAIL", help="your address or web page: hosts are told who asks")
    add("--rate", type=float, default=10.0, metavar="N", help="requests a second to one host (%(default)s)")
    add("--connections", type=int, default=4, metavar="N", help="at a time to one host (%(default)s)")
    add("--retries", type=int, default=3, metavar="N", help="after what may pass (%(default)s)")
    add("--max-side", type=int, default=0, metavar="PIXELS", help="store larger pictures smaller, as JPEG")
    add(
        "--thumb-width", type=int, default=500, metavar="PIXELS", help="of Wikimedia's pictures; 0: originals"
    )
    _add_engine(parser)


def _download(args: argparse.Namespace) -> int:
    from comem.retrieval.download.job import download_corpus
    from comem.retrieval.download.settings import DownloadSettings

    settings = DownloadSettings(
        args.contact, rate=args.rate, connections=args.connections, retries=args.retries,
        max_side=args.max_side, thumb_width=args.thumb_width,
    )  # fmt: skip
    counts = download_corpus(args.corpus, settings, engine=args.engine, workers=args.workers)
    rows = [(reason, f"{count:,}") for reason, count in counts.most_common()]
    out().print(make_table(("pictures", "count"), rows))
    return 0


def _add_embed(parser: argparse.ArgumentParser) -> None:
    from comem.retrieval.embed import EmbedSettings

    add, default = parser.add_argument, EmbedSettings()
    add("corpus", type=Path, metavar="DIR", help="made by comem corpus build")
    add("--what", choices=("images", "texts", "both"), default="images", help="(%(default)s)")
    add("--embedder", default=default.embedder, help="'toy', a folder, or ARCH:PRETRAINED (%(default)s)")
    add("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="of the model (%(default)s)")
    add("--store", choices=("fp16", "fp32"), default="fp16", help="precision of the files (%(default)s)")
    add("--batch-size", type=int, default=default.batch_size, metavar="N", help="(%(default)s)")
    add("--shard-size", type=int, default=default.shard_size, metavar="N", help="(%(default)s)")
    add("--gpus", type=float, default=0.0, metavar="N", help="of each Ray worker (%(default)s)")
    _add_engine(parser)


def _embed(args: argparse.Namespace) -> int:
    from comem.retrieval.embed import EmbedSettings, What, embed_corpus

    settings = EmbedSettings(
        args.embedder, args.precision, args.store == "fp16", args.shard_size, args.batch_size
    )
    chosen: tuple[What, ...] = ("images", "texts") if args.what == "both" else (args.what,)
    for what in chosen:
        found = embed_corpus(
            args.corpus, what, settings, engine=args.engine, workers=args.workers, gpus=args.gpus
        )
        count, faults = f"{len(found.positions):,} × {found.dimension}", f"{len(found.faults):,}"
        print_facts([(what, count), ("files", str(len(found.files))), ("unreadable", faults)])
    return 0


def _info(args: argparse.Namespace) -> int:
    return _show(args.corpus, args.verify)


def _show(folder: Path, verify: bool) -> int:
    """Counts, sources and settings of a corpus folder."""
    from collections import Counter

    from comem.retrieval.knowledge import KnowledgeBase

    base = KnowledgeBase(folder)
    if verify:
        base.verify()
    rows = base.manifest.get("rows", {})
    languages = ", ".join(f"{count:,} {code}" for code, count in Counter(base.languages).most_common(12))
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in rows.get("dropped", {}).items())
    print_facts([
        ("corpus", str(folder)), ("items", f"{len(base):,}"), ("languages", languages or "none"),
        ("rows read", f"{rows.get('read', 0):,}"), ("dropped", dropped or "none"),
        ("repaired", ", ".join(f"{n:,} {what}" for what, n in rows.get("repaired", {}).items()) or "none"),
        ("size", f"{base.manifest['bytes'] / 2**20:,.1f} MB"),
        ("whole", "yes" if base.manifest.get("complete", True) else "no: a source was cut"),
    ] + [("checksum", "agrees")] * verify)  # fmt: skip
    sources = [
        (each.get("name", each.get("path", "")), f"{each['rows']['read']:,}", f"{each['rows']['kept']:,}")
        for each in base.manifest.get("sources", ()) if "rows" in each
    ]  # fmt: skip
    if sources:
        out().print(make_table(("source", "rows", "kept"), sources))
    return 0
