"""Translating training records by a model: at an endpoint, or one of our own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem.config import DryRun, option, take_paths
from comem.data.records import SETTINGS, kept_lines, read_records, write_records
from comem.data.translation import LANGUAGES, PROMPT, Sample, Translator, eligible, order, prompt, sample
from comem.io.console import Progress, print_facts, quiet
from comem.io.files import JsonlAppender, read_jsonl, sha256_of
from comem.io.run_folder import settle
from comem.types import Message

if TYPE_CHECKING:
    from comem.backbones.base import Backbone, GenerationConfig

REPLIES = "replies.jsonl"
_WHAT, _MODEL = "what", "model"


@dataclass(frozen=True, kw_only=True)
class TranslatorSettings:
    """Which model translates how much into which languages.

    Attributes:
        languages: ISO 639 codes; by default the paper's nine.
        samples: of each language.
        model: at the endpoint; else a backbone of ours.
        endpoint: OpenAI-compatible, such as https://api.openai.com/v1; needs the package openai.
        api_key_env: the environment variable that holds the key.
        concurrency: requests at a time.
    """

    languages: tuple[str, ...] = option(tuple(LANGUAGES), metavar="CODE", group=_WHAT)
    samples: int = option(200, group=_WHAT)
    model: str = option(metavar="NAME", group=_MODEL)
    endpoint: str = option("", metavar="URL", group=_MODEL)
    api_key_env: str = option("", metavar="VAR", group=_MODEL)
    concurrency: int = option(8, group=_MODEL)

    def __post_init__(self) -> None:
        if unknown := [code for code in self.languages if code not in LANGUAGES]:
            known = ", ".join(f"{code} ({each.name})" for code, each in LANGUAGES.items())
            raise ValueError(f"languages {', '.join(unknown)}: known are {known}")
        if self.samples < 1 or not self.languages:
            raise ValueError(
                f"{self.samples} samples, {len(self.languages)} languages: give at least 1 of each"
            )


@dataclass(frozen=True, kw_only=True)
class TranslateSettings(TranslatorSettings):
    """A sample of training records in other languages.

    Interrupted, the same command goes on: no reply is asked for twice.

    Attributes:
        file: training records (JSONL).
        output: the new folder.
        seed: of the records' order, and of the decoding.
        timeout: of a request, in seconds.
        retries: after what may pass.
        temperature: 0 is greedy.
        max_new_tokens: of a reply.
        batch_size: of a local model.
        device: of a local model: cpu, cuda … (default: a GPU if there is one).
    """

    file: Path = option(positional=True, metavar="FILE")
    output: Path = option(metavar="DIR")
    seed: int = option(0, group=_WHAT)
    timeout: float = option(60.0, group=_MODEL)
    retries: int = option(5, group=_MODEL)
    temperature: float = option(0.0, group=_MODEL)
    max_new_tokens: int = option(1024, group=_MODEL)
    batch_size: int = option(8, group=_MODEL)
    device: str | None = option(None, group=_MODEL)

    def __post_init__(self) -> None:
        super().__post_init__()
        take_paths(self)


@dataclass(frozen=True)
class LocalModel:
    """Any backbone as a translator; `about` says which it is, and how it decodes."""

    backbone: Backbone
    generation: GenerationConfig
    batch_size: int = 8
    about: Mapping[str, Any] = field(default_factory=dict)

    def replies(self, prompts: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str | None]]:
        """See `Translator`."""
        for start in range(0, len(prompts), self.batch_size):
            part = prompts[start : start + self.batch_size]
            said = self.backbone.generate(
                [[Message("user", (text,))] for _, text in part], config=self.generation
            )
            yield from ((name, answer.text) for (name, _), answer in zip(part, said, strict=True))


def open_translator(settings: TranslateSettings) -> Translator:
    """The model that the settings name."""
    if settings.endpoint:
        from comem.data.endpoint import Endpoint, EndpointSettings

        where = EndpointSettings(
            settings.endpoint, settings.model, settings.api_key_env, settings.concurrency, settings.timeout,
            settings.retries, temperature=settings.temperature, max_tokens=settings.max_new_tokens,
            seed=settings.seed,
        )  # fmt: skip
        return Endpoint(where)
    from comem.backbones.base import GenerationConfig
    from comem.backbones.hf import load_backbone
    from comem.eval.predict import weights_digest

    generation = GenerationConfig(settings.max_new_tokens, settings.temperature, seed=settings.seed)
    backbone = load_backbone(settings.model, device=settings.device)
    about = {
        "model": settings.model,
        "weights": weights_digest(backbone.model),
        "decoding": asdict(generation),
    }
    return LocalModel(backbone, generation, settings.batch_size, about)


def translate(
    settings: TranslateSettings, progress: Progress = quiet, translator: Translator | None = None
) -> dict[str, Any]:
    """Translate a training file's records into `train.jsonl` of a folder.

    Every reply is on disk before the next is waited for. A reply that is refused is replaced by the next
    record of the language's order, so the same replies give the same file, however often it was interrupted.

    Args:
        settings: what is translated, and by whom.
        progress: counts replies.
        translator: a model of your own; None opens the one that the settings name.

    Returns:
        The manifest.

    Raises:
        ValueError: no record to translate, a folder of other settings, or requests without an answer.
    """
    source, folder, languages = settings.file, settings.output, settings.languages
    records = _eligible(source)
    if not records:
        raise ValueError(f"{source} holds no English question with one answer; there is nothing to translate")
    translator = translator or open_translator(settings)
    facts = {"languages": list(languages), "samples": settings.samples, "seed": settings.seed}
    facts |= {"source": sha256_of(source), "prompt": PROMPT, **translator.about}
    settle(folder / SETTINGS, facts, free=("endpoint",))
    with JsonlAppender(folder / REPLIES) as file:
        replies = {row["id"]: row["reply"] for row in read_jsonl(folder / REPLIES)}
        total = settings.samples * len(languages)
        with progress("translating", total, done=len(replies), unit="replies") as advance:
            while True:  # until every language has its sample, or has tried every record
                found = {
                    code: sample(
                        records, code, replies, settings.samples, settings.seed, (source.parent, folder)
                    )
                    for code in languages
                }
                if not any(each.missing for each in found.values()):
                    break
                for name, reply in _asked(records, translator, found):
                    file.write({"id": name, "reply": reply})
                    replies[name] = reply
                    advance()
    kept = [record for code in languages for record in found[code].kept]
    dropped = sum((Counter(each.dropped) for each in found.values()), Counter[str]())
    if not kept:
        raise ValueError(f"no translation is kept: {dict(dropped)}; see {folder / REPLIES}")
    return write_records(
        folder,
        kept,
        {
            "candidates": len(kept) + dropped.total(),
            "kept": len(kept),
            "dropped": dict(sorted(dropped.items())),
            "mixture": {"language": {code: len(each.kept) for code, each in found.items()}},
            "settings": facts,
            "source_file": str(source),
        },
    )


def _asked(
    records: Mapping[str, Mapping[str, Any]], translator: Translator, found: Mapping[str, Sample]
) -> Iterator[tuple[str, str]]:
    """The replies to what is missing, as they come."""
    prompts = [
        (f"{name}:{code}", prompt(records[name], code))
        for code, each in found.items()
        for name in each.missing
    ]
    unanswered = []
    for name, reply in translator.replies(prompts):
        if reply is None:
            unanswered.append(name)
        else:
            yield name, reply
    if unanswered:
        raise ValueError(
            f"{len(unanswered)} of {len(prompts)} requests got no answer, the first is "
            f"{min(unanswered)!r}; the others are kept: run the same command again"
        )


def _eligible(source: Path) -> dict[str, dict[str, Any]]:
    return {name: row for name, row in read_records(source).items() if eligible(row)}


def requests(settings: TranslateSettings, options: DryRun = DryRun()) -> list[tuple[str, str]]:  # noqa: B008 (frozen)
    """What `translate` would ask, as labels and values; nothing is asked or written.

    Raises:
        ValueError: the source cannot be read.
    """
    records, path = _eligible(settings.file), settings.output / REPLIES
    kept = {row["id"] for row in read_jsonl(path, tolerate_torn_tail=True)} if path.exists() else set()
    wanted = {
        f"{name}:{code}": len(prompt(records[name], code))
        for code in settings.languages
        for name in order(list(records), code, settings.seed)[: settings.samples]
    }
    left = [length for key, length in wanted.items() if key not in kept]
    return [
        ("records", f"{len(records):,} English questions with one answer"),
        ("wanted", f"{len(wanted):,} translations into {len(settings.languages)} languages"),
        ("requests", f"{len(left):,} now ({len(kept):,} replies are there), and one for each reply refused"),
        ("prompts", f"{sum(left):,} characters in all"),
    ]


def show_translated(result: dict[str, Any] | list[tuple[str, str]], settings: TranslateSettings) -> None:
    """Print what was kept, or would be asked."""
    if isinstance(result, list):
        return print_facts(result)
    mixture = result["mixture"]["language"].items()
    short = [f"{code} {count}" for code, count in mixture if count < settings.samples]
    print_facts(
        [
            *kept_lines(result, settings.output),
            *([("fewer than asked for", ", ".join(short))] if short else []),
        ]
    )
