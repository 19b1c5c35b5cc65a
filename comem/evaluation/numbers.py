"""Numbers and ranges out of answers, as InfoSeek's official scorer reads and compares them."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"[-+]?\.?\d+(?:,\d\d\d)*\.?\d*(?:[eE][-+]?\d+)?")
_TINY = 1e-12


def read_number(text: str) -> tuple[float, float] | float:
    """The number or range that a text states; (0, 0) when it states none, as officially.

    Of more than two numbers the first two count; two falling ones are no range, so the first counts.
    A hyphen after a digit separates ("9-10"); otherwise it is a sign.
    """
    found: list[float] = []
    for hit in _NUMBER.finditer(_spaced_hyphens(text)):
        found.append(_float(hit.group()))
        if len(found) == 2:
            return (found[0], found[1]) if found[0] <= found[1] else found[0]
    return found[0] if found else (0.0, 0.0)


def _spaced_hyphens(text: str) -> str:
    first, *rest = text.split("-")
    parts, previous = [first], first
    for part in rest:
        parts += [" - " if previous[-1:].isdigit() else "-", part]
        previous = part
    return "".join(parts)


def _float(text: str) -> float:
    """Officially a leading point is cut off (".5" is 5) while a signed one stays ("-.5" is -0.5)."""
    text = text.replace(",", "").strip(".")
    if text.count(".") > 1:  # "-.5.3"; the official scorer stops with an error here
        text = text[: text.index(".", text.index(".") + 1)]
    return float(text)


def matches(number: tuple[float, float] | float, accepted: tuple[float, float]) -> bool:
    """Whether a number lies in the accepted range, or a range lies in it or overlaps it by half.

    The overlap is intersection over union.
    """
    low, high = accepted
    if not isinstance(number, tuple):
        return low <= number <= high
    if low <= number[0] <= high and low <= number[1] <= high:
        return True
    low, high = sorted(accepted)
    overlap = max(0.0, min(number[1], high) - max(number[0], low))
    union = (number[1] - number[0] + _TINY) + (high - low + _TINY) - overlap
    return union != 0 and overlap / union >= 0.5 - _TINY
