r"""The normaliser and the extractor of the authors' scorers, and what is wrong with them.

The normaliser cuts a text behind "is", "the", "of" and "by" wherever these letters stand, also inside
words: "Paris" becomes "", "Netherlands" "rlands", "island" "land". The extractor takes the first
`\boxed{…}` up to its first closing brace, so `\boxed{\text{Paris}}` gives "textparis", hence "" again;
without a box it takes what follows the last colon.

Source: WenyiWU0111/CoMEM, CoMEM-inference (the same functions stand in five of its files).
"""

from __future__ import annotations

import re
import string
from functools import lru_cache

from comem.evaluation.numbers import matches, read_number

_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_BOX = "\\boxed{"
_CUT_BEHIND = ("is", "the", "of", "by")
_CACHED_LENGTH = 200


def normalize(text: str) -> str:
    """The authors' normaliser: lower case, no ASCII punctuation, cut, no articles, single spaces."""
    text = text.lower().translate(_DELETE_PUNCTUATION)
    for letters in _CUT_BEHIND:
        text = text.rpartition(letters)[2]
    return " ".join(_ARTICLES.sub(" ", text).split())


def boxed(text: str) -> str | None:
    """The first box up to its first closing brace, on one line."""
    for line in text.split("\n"):
        _, box, rest = line.partition(_BOX)
        content, brace, _ = rest.partition("}")
        if box and brace:
            return content
    return None


def after_colon(text: str) -> str:
    """What follows the last colon; everything without one."""
    return text.rpartition(":")[2]


def extract(text: str) -> str:
    """The authors' short answer: boxed or behind the last colon, normalised."""
    return _extract(text) if len(text) > _CACHED_LENGTH else _cached(text)


def _extract(text: str) -> str:
    content = boxed(text)
    return normalize(after_colon(text) if content is None else content)


_cached = lru_cache(maxsize=200_000)(_extract)


def right(answer: str, kind: str, accepted: tuple[str, ...], numbers: tuple[float, float]) -> bool:
    """Whether an InfoSeek answer is right as coded there.

    It is cut behind its last colon before its box is looked for. Times are right when one text lies in
    the other.

    Args:
        answer: the whole output.
        kind: string, time or numerical.
        accepted: the accepted answers, through `extract`.
        numbers: the accepted range.
    """
    cut = after_colon(answer)
    if kind == "numerical":
        return matches(read_number(cut), numbers)
    said = extract(cut)
    if kind == "time":
        return any(said and text and (said in text or text in said) for text in accepted)
    return said in accepted
