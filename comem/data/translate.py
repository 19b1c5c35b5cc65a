"""`comem data translate`: options, the model, and what is printed."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem.data.records import MANIFEST, SETTINGS, TRAIN, read_records, write_records
from comem.data.translation import LANGUAGES, PROMPT, Sample, Translator, eligible, order, prompt, sample
from comem.io.console import bar, print_facts
from comem.io.jsonl import JsonlAppender, read_jsonl, sha256_of
from comem.io.run_folder import settle
from comem.types import Message

if TYPE_CHECKING:
    from comem.backbones.base import Backbone, GenerationConfig

REPLIES = "replies.jsonl"


@dataclass(frozen=True)
class TranslationSettings:
    """What is translated: the languages, records of each, and the seed of their order."""

    languages: tuple[str, ...] = tuple(LANGUAGES)
    samples: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := [code for code in self.languages if code not in LANGUAGES]:
            known = ", ".join(f"{code} ({each.name})" for code, each in LANGUAGES.items())
            raise ValueError(f"languages {', '.join(unknown)}: known are {known}")
        if self.samples < 1 or not self.languages:
            raise ValueError(
                f"{self.samples} samples, {len(self.languages)} languages: give at least 1 of each"
            )


@dataclass(frozen=True)
class LocalModel:
    """Any backbone as a translator."""

    backbone: Backbone
    generation: GenerationConfig
    batch_size: int = 8

    def replies(self, prompts: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str | None]]:
        """See `Translator`."""
        for start in range(0, len(prompts), self.batch_size):
            part = prompts[start : start + self.batch_size]
            said = self.backbone.generate(
                [[Message("user", (text,))] for _, text in part], config=self.generation
            )
            yield from ((name, answer.text) for (name, _), answer in zip(part, said, strict=True))


def translate(
    source: str | Path, folder: str | Path, translator: Translator, settings: TranslationSettings,
    about: Mapping[str, Any], progress: Callable[[int], object] = lambda count: None,
) -> dict[str, Any]:  # fmt: skip
    """Translate a training file's records into `train.jsonl` of a folder; its manifest.

    Every reply is on disk before the next is waited for. A reply that is refused is replaced by the next
    record of the language's order, so the same replies give the same file, however often it was interrupted.

    Args:
        source: a training file.
        folder: gets replies.jsonl, train.jsonl, manifest.json.
        translator: the model.
        settings: what is translated.
        about: what decides the replies (model, decoding); another one is refused in the same folder.
        progress: called with the number of replies that came.

    Raises:
        ValueError: no record to translate, a folder of other settings, or requests without an answer.
    """
    source, folder = Path(source), Path(folder)
    records = {name: row for name, row in read_records(source).items() if eligible(row)}
    if not records:
        raise ValueError(f"{source} holds no English question with one answer; there is nothing to translate")
    facts = {"languages": list(settings.languages), "samples": settings.samples, "seed": settings.seed}
    facts |= {"source": sha256_of(source), "prompt": PROMPT, **about}
    settle(folder / SETTINGS, facts, free=("endpoint",))
    with JsonlAppender(folder / REPLIES) as file:
        replies = {row["id"]: row["reply"] for row in read_jsonl(folder / REPLIES)}
        found = _fill(records, translator, settings, replies, file.write, (source.parent, folder), progress)
    kept = [record for language in settings.languages for record in found[language].kept]
    dropped = sum((Counter(each.dropped) for each in found.values()), Counter[str]())
    if not kept:
        raise ValueError(f"no translation is kept: {dict(dropped)}; see {folder / REPLIES}")
    counts = {
        "candidates": len(kept) + sum(dropped.values()),
        "kept": len(kept),
        "dropped": dict(sorted(dropped.items())),
    }
    mixture = {"language": {language: len(each.kept) for language, each in found.items()}}
    return write_records(
        folder, kept, {**counts, "mixture": mixture, "settings": facts, "source_file": str(source)}
    )


def requests(source: str | Path, folder: str | Path, settings: TranslationSettings) -> list[tuple[str, str]]:
    """What `translate` would ask, as labels and values; nothing is asked or written.

    Raises:
        ValueError: the source cannot be read.
    """
    records = {name: row for name, row in read_records(source).items() if eligible(row)}
    path = Path(folder) / REPLIES
    kept = {row["id"] for row in read_jsonl(path, tolerate_torn_tail=True)} if path.exists() else set()
    wanted = {
        f"{name}:{language}": len(prompt(records[name], language))
        for language in settings.languages
        for name in order(list(records), language, settings.seed)[: settings.samples]
    }
    left = [length for key, length in wanted.items() if key not in kept]
    return [
        ("records", f"{len(records):,} English questions with one answer"),
        ("wanted", f"{len(wanted):,} translations into {len(settings.languages)} languages"),
        ("requests", f"{len(left):,} now ({len(kept):,} replies are there), and one for each reply refused"),
        ("prompts", f"{sum(left):,} characters in all"),
    ]


def _fill(
    records: Mapping[str, Mapping[str, Any]], translator: Translator, settings: TranslationSettings,
    replies: dict[str, str], keep: Callable[[Mapping[str, Any]], None], folders: tuple[Path, Path],
    progress: Callable[[int], object],
) -> dict[str, Sample]:  # fmt: skip
    """Ask until every language has its sample, or has tried every record."""
    progress(len(replies))
    while True:
        found = {
            language: sample(records, language, replies, settings.samples, settings.seed, folders)
            for language in settings.languages
        }
        wanted = [(name, language) for language, each in found.items() for name in each.missing]
        if not wanted:
            return found
        unanswered = []
        prompts = [(f"{name}:{language}", prompt(records[name], language)) for name, language in wanted]
        for key, reply in translator.replies(prompts):
            if reply is None:
                unanswered.append(key)
                continue
            keep({"id": key, "reply": reply})
            replies[key] = reply
            progress(1)
        if unanswered:
            raise ValueError(
                f"{len(unanswered)} of {len(prompts)} requests got no answer, the first is "
                f"{min(unanswered)!r}; the others are kept: run the same command again"
            )


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
    from comem.eval.predict import weights_digest

    generation = GenerationConfig(args.max_new_tokens, args.temperature, seed=args.seed)
    backbone = load_backbone(args.model, device=args.device)
    about = {"model": args.model, "weights": weights_digest(backbone.model), "decoding": asdict(generation)}
    return LocalModel(backbone, generation, args.batch_size), about
