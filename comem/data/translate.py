"""`comem data translate`: options, the model, and what is printed."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comem.console import bar, print_facts
from comem.data.files import MANIFEST, TRAIN
from comem.data.translation import LANGUAGES, Translator
from comem.data.translation_job import LocalModel, TranslationSettings, requests, translate

_HELP = """\
examples:
  comem data translate runs/synthesis/train.jsonl --endpoint https://api.openai.com/v1 --model gpt-4o-mini \\
      --api-key-env OPENAI_API_KEY --output runs/translation
  comem data translate train.jsonl --endpoint http://localhost:8000/v1 --model Qwen2.5-7B --languages fr ja \\
      --samples 50 --output runs/translation
  comem data translate train.jsonl --model qwen2_5_vl_7b --output runs/translation     # a local model
Interrupted, the same command goes on: no reply is asked for twice.
"""


def add_translate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem data translate`."""
    parser.epilog = _HELP
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", type=Path, metavar="FILE", help="training records (JSONL)")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="the new folder")
    parser.add_argument("--dry-run", action="store_true", help="print how many requests there are, and stop")
    group = parser.add_argument_group("what")
    group.add_argument("--languages", nargs="+", default=tuple(LANGUAGES), metavar="CODE",
                       help="default: the paper's nine, " + " ".join(LANGUAGES))  # fmt: skip
    group.add_argument("--samples", type=int, default=200, metavar="N", help="of each language (%(default)s)")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of their order (%(default)s)")
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", required=True, metavar="NAME", help="at the endpoint; else a backbone of ours"
    )
    group.add_argument(
        "--endpoint", metavar="URL", help="OpenAI-compatible, such as https://api.openai.com/v1"
    )
    group.add_argument("--api-key-env", default="", metavar="VAR", help="the variable that holds the key")
    group.add_argument(
        "--concurrency", type=int, default=8, metavar="N", help="requests at a time (%(default)s)"
    )
    group.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="of a request (%(default)g s)"
    )
    group.add_argument(
        "--retries", type=int, default=5, metavar="N", help="after what may pass (%(default)s)"
    )
    group.add_argument(
        "--temperature", type=float, default=0.0, metavar="X", help="0 is greedy (%(default)g)"
    )
    group.add_argument("--max-new-tokens", type=int, default=1024, metavar="N", help="a reply (%(default)s)")
    group.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="of a local model (%(default)s)"
    )
    group.add_argument("--device", help="of a local model: cpu, cuda … (default: a GPU if there is one)")


def run_translate(args: argparse.Namespace) -> int:
    """Translate; run again, it goes on."""
    settings = TranslationSettings(tuple(args.languages), args.samples, args.seed)
    if args.dry_run:
        print_facts(requests(args.file, args.output, settings))
        return 0
    translator, about = _translator(args)
    with bar("translating", settings.samples * len(settings.languages), " replies") as shown:
        manifest = translate(args.file, args.output, translator, settings, about, shown.update)
    short = [
        f"{code} {count}"
        for code, count in manifest["mixture"]["language"].items()
        if count < settings.samples
    ]
    print_facts(
        [
            ("candidates", f"{manifest['candidates']:,}"), ("kept", f"{manifest['kept']:,}"),
            *((f"dropped: {reason}", f"{count:,}") for reason, count in manifest["dropped"].items()),
            *([("fewer than asked for", ", ".join(short))] if short else []),
            ("records", str(args.output / TRAIN)), ("manifest", str(args.output / MANIFEST)),
        ]
    )  # fmt: skip
    return 0


def _translator(args: argparse.Namespace) -> tuple[Translator, dict[str, Any]]:
    """The model, and what the manifest says of it."""
    if args.endpoint:
        from comem.data.endpoint import Endpoint, EndpointSettings

        where = EndpointSettings(
            args.endpoint, args.model, args.api_key_env, args.concurrency, args.timeout, args.retries,
            temperature=args.temperature, max_tokens=args.max_new_tokens, seed=args.seed,
        )  # fmt: skip
        return Endpoint(where), where.describe()
    from comem.backbones.base import GenerationConfig
    from comem.backbones.hf import load_backbone
    from comem.prediction.commands import weights_digest

    generation = GenerationConfig(args.max_new_tokens, args.temperature, seed=args.seed)
    backbone = load_backbone(args.model, device=args.device)
    about = {"model": args.model, "weights": weights_digest(backbone.model), "decoding": asdict(generation)}
    return LocalModel(backbone, generation, args.batch_size), about
