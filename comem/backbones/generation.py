"""How answers are decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class GenerationConfig:
    """How an answer is decoded; greedy by default, equally in all modes.

    Attributes:
        max_new_tokens: the longest answer, in tokens.
        temperature: 0 means greedy; otherwise sampling.
        top_p: sample from the smallest set of tokens with this much probability.
        repetition_penalty: 1 means none.
        seed: for sampling; each batch starts from it.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}: give at least 1")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}: give 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: give a number in (0, 1]")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}: give 1 (none) or more")

    def arguments(self) -> dict[str, Any]:
        """Arguments of transformers' `generate`: all of them, because hub models bring sampling defaults."""
        sampling = self.temperature > 0
        return {
            "max_new_tokens": self.max_new_tokens,
            "do_sample": sampling,
            "temperature": self.temperature if sampling else 1.0,  # 1.0, 50: unset, in transformers
            "top_p": self.top_p if sampling else 1.0,
            "top_k": 0 if sampling else 50,
            "repetition_penalty": self.repetition_penalty,
            "num_beams": 1,
        }


GREEDY = GenerationConfig()
#: What the authors' CoMEM inference uses (authors' public code; ../shared/reference/authors_code.md 4).
PAPER_SAMPLING = GenerationConfig(max_new_tokens=1000, temperature=0.1, top_p=0.001, repetition_penalty=1.05)


@contextmanager
def seeded(config: GenerationConfig, device: torch.device) -> Iterator[None]:
    """Sampling starts from the config's seed and leaves the caller's random state alone."""
    if config.temperature == 0:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        yield
