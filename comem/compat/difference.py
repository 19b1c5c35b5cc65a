"""How far an output of ours is from a recorded one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference of one output of one case; infinite when shapes differ.

    Attributes:
        case: file of the golden folder.
        output: its name there.
        max_abs: the difference.
        allowed: how far it may be by the golden folder's README; None where one bound holds for all.
    """

    case: str
    output: str
    max_abs: float
    allowed: float | None = None


def max_abs(ours: Tensor, golden: Tensor) -> float:
    """The largest absolute difference; infinite for other shapes, and for NaN."""
    if ours.shape != golden.shape:
        return float("inf")
    if not ours.numel():
        return 0.0
    largest = float((ours.double() - golden.double()).abs().max())
    return largest if largest == largest else float("inf")  # NaN is as far as can be
