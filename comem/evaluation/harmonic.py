"""The harmonic means of InfoSeek's and OVEN's final scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comem.evaluation.statistics import Array

_TINY = 1e-12


def harmonic_means(parts: Sequence[Array]) -> Array:
    """`harmonic_mean` of arrays, element by element."""
    import numpy as np

    inverse = sum((1.0 / np.where(part == 0, _TINY, part) for part in parts), np.zeros_like(parts[0]))
    return np.asarray(len(parts) / inverse)


def harmonic_mean(values: Sequence[float]) -> float:
    """The harmonic mean; a zero counts as 1e-12, as officially."""
    return len(values) / sum(1.0 / (value or _TINY) for value in values)
