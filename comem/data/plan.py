"""A training set as a plan: questions of several benchmarks, the translations, and how many of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comem.config import from_values
from comem.data.translation import LANGUAGES

TRANSLATED = "translated"


@dataclass(frozen=True)
class SourceSettings:
    """Questions of one benchmark's training split; what is empty or 0 is left to `comem data synthesise`.

    Attributes:
        benchmark: a row of BENCHMARKS.
        data, images, split, question_types, prompt: as the options of the same names.
        candidates: questions to try (0: all).
        target: records wanted (0: all that are right).
        min_score: of the benchmark's scorer, from which an answer is right.
    """

    benchmark: str
    data: str = ""
    images: str = ""
    split: str = ""
    question_types: str = ""
    prompt: str = ""
    candidates: int = 0
    target: int = 0
    min_score: float = 1.0

    def __post_init__(self) -> None:
        if self.candidates < 0 or self.target < 0:
            raise ValueError(f"candidates {self.candidates}, target {self.target}: give 0 (all) or more")


@dataclass(frozen=True)
class TranslateSettings:
    """The translated share, as the options of `comem data translate`."""

    model: str
    endpoint: str = ""
    api_key_env: str = ""
    languages: tuple[str, ...] = tuple(LANGUAGES)
    samples: int = 200
    concurrency: int = 8


@dataclass(frozen=True)
class DataPlan:
    """A training set, complete.

    Attributes:
        sources: by name, what `SourceSettings` has.
        model: the backbone that answers.
        index: the knowledge base.
        items: knowledge items a question.
        seed: of every drawing.
        translate: the translated share, or nothing.
        dtype, device, batch_size, max_new_tokens: of the answering.
    """

    sources: dict[str, Any]
    model: str = "toy"
    index: str = ""
    items: int = 3
    seed: int = 0
    translate: TranslateSettings | None = None
    dtype: str = "auto"
    device: str = ""
    batch_size: int = 8
    max_new_tokens: int = 64
    parts: dict[str, SourceSettings] = field(init=False)

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("a plan needs sources: NAME: {benchmark: …, target: …}")
        if TRANSLATED in self.sources or any("/" in name for name in self.sources):
            raise ValueError(
                f"sources {', '.join(self.sources)}: no '/' in a name, and none called {TRANSLATED!r}"
            )
        parts = {
            name: from_values(SourceSettings, values, f"sources.{name}")
            for name, values in self.sources.items()
        }
        object.__setattr__(self, "parts", parts)

    @property
    def translations(self) -> int:
        """Translated records wanted."""
        return len(self.translate.languages) * self.translate.samples if self.translate else 0

    @property
    def total(self) -> int | None:
        """Records wanted in all; None where a source gives all that are right."""
        targets = [part.target for part in self.parts.values()]
        return None if 0 in targets else sum(targets) + self.translations

    def synthesis(self, name: str, folder: Path) -> list[str]:
        """The options of `comem data synthesise` for a source."""
        part = self.parts[name]
        options = {
            "--benchmark": part.benchmark, "--data": part.data, "--images": part.images,
            "--split": part.split, "--question-types": part.question_types, "--prompt": part.prompt,
            "--index": self.index, "-k": self.items, "--model": self.model, "--dtype": self.dtype,
            "--device": self.device, "--batch-size": self.batch_size, "--seed": self.seed,
            "--max-new-tokens": self.max_new_tokens, "--candidates": part.candidates,
            "--target": part.target, "--min-score": part.min_score,
            "--output": folder / name,
        }  # fmt: skip
        return list(_words(options, always=("--seed",)))

    def translation(self, folder: Path) -> list[str]:
        """The file and options of `comem data translate`."""
        asked = self.translate
        assert asked is not None
        options = {
            "--endpoint": asked.endpoint, "--model": asked.model, "--api-key-env": asked.api_key_env,
            "--samples": asked.samples, "--concurrency": asked.concurrency, "--seed": self.seed,
            "--batch-size": self.batch_size, "--device": self.device, "--output": folder / TRANSLATED,
        }  # fmt: skip
        words = [str(folder / "english" / "train.jsonl"), *_words(options, always=("--seed",))]
        return [*words, "--languages", *asked.languages]


def _words(options: dict[str, Any], always: tuple[str, ...]) -> Iterator[str]:
    for name, value in options.items():
        if value or name in always:
            yield from (name, str(value))
