"""Which of a file's questions are trained on: languages left out, then a part drawn by the seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from comem.training.dataset import TrainingExample
from comem.training.settings import TrainSettings


def select(examples: Sequence[TrainingExample], settings: TrainSettings) -> list[TrainingExample]:
    """The examples that the settings choose, in the file's order.

    Raises:
        ValueError: a language to leave out that no question is in, or nothing is left.
    """
    there = Counter(example.language for example in examples)
    unknown = [code for code in settings.leave_out_languages if code not in there]
    if unknown:
        raise ValueError(
            f"leave_out_languages: no question is in {', '.join(unknown)}; the file has {', '.join(there)}"
        )
    kept = [example for example in examples if example.language not in settings.leave_out_languages]
    if settings.data_fraction < 1:
        names = sorted(example.id for example in kept)
        random.Random(f"data/{settings.seed}").shuffle(names)
        drawn = set(names[: round(settings.data_fraction * len(names))])
        kept = [example for example in kept if example.id in drawn]
    if not kept:
        raise ValueError(
            f"none of {len(examples)} questions is left (data_fraction={settings.data_fraction}, "
            f"leave_out_languages={list(settings.leave_out_languages)}); choose more"
        )
    return kept
