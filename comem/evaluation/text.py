"""Answers out of free text, and the normalisers that the official scorers compare with."""

from __future__ import annotations

import re
import string
from functools import lru_cache

_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")

#: "Final answer" as models write it in the six languages of the benchmarks.
FINAL_ANSWER: dict[str, tuple[str, ...]] = {
    "en": ("final answer",),
    "bg": ("окончателен отговор", "окончателният отговор", "краен отговор", "крайният отговор"),
    "zh": ("最终答案", "最終答案", "最后答案", "最後答案"),
    "pt": ("resposta final",),
    "ru": ("окончательный ответ", "итоговый ответ", "финальный ответ"),
    "es": ("respuesta final",),
}
_LINK = r"[*_`\"'”»)\]]{0,4}\s{0,3}(?:[:：=]|\b(?:is|es|é|е|—)\b|—|–|-|是|为|為)[*_`\s:：]{0,8}"
_FINAL = re.compile(
    "(?:" + "|".join(phrase for phrases in FINAL_ANSWER.values() for phrase in phrases) + ")" + _LINK,
    re.IGNORECASE,
)
_BOX = re.compile(r"\\f?boxed\s{0,3}\{|\\f?boxed\s{1,3}(?=[^\s{])")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|operatorname|mbox)\s?\{")
_SPACING = re.compile(r"\\[,;:! ]|~|\\q?quad\b")
_ESCAPED = re.compile(r"\\([%&$#_{}])")
_DECORATION = " \t\r\n*_`$"


#: Longer texts than this hardly repeat, and would fill the memory.
_CACHED_LENGTH = 200


def normalize(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, single spaces.

    The definition that InfoSeek (edchengg/infoseek_eval) and SQuAD share. Short texts repeat a
    thousandfold (gold aliases, common answers), hence the cache.
    """
    return _cached(text) if len(text) <= _CACHED_LENGTH else _normalize(text)


def _normalize(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_DELETE_PUNCTUATION)).split())


_cached = lru_cache(maxsize=200_000)(_normalize)


def extract_answer(text: str) -> str:
    r"""The short answer in a model's output.

    In this order: the content of the last `\boxed{…}` (braces may nest; a box that the token limit cut
    open runs to the end of its line), what follows the last "final answer" in one of six languages (up
    to the end of the line, or the next line that says something), or the whole text.
    """
    found = marked_answer(text)
    return found if found is not None else text.rpartition("</think>")[2].strip()


def marked_answer(text: str) -> str | None:
    """The answer that a box or a final-answer line marks (see `extract_answer`); None without either."""
    text = text.rpartition("</think>")[2]
    boxed = _last_box(text)
    if boxed is not None:
        return plain(boxed)
    finals = list(_FINAL.finditer(text))
    if finals:
        rest = text[finals[-1].end() :].lstrip()
        return plain(rest.partition("\n")[0])
    return None


def _last_box(text: str) -> str | None:
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1]
    if not start.group().endswith("{"):  # \boxed 7
        return text[start.end() :].split(maxsplit=1)[0]
    end = _closing(text, start.end())
    return text[start.end() : end] if end is not None else text[start.end() :].partition("\n")[0]


def _closing(text: str, position: int) -> int | None:
    """Where the brace opened before `position` closes; braces after a backslash do not count."""
    depth = 1
    for mark in _BRACE.finditer(text, position):
        depth += {"{": 1, "}": -1}.get(mark.group(), 0)
        if depth == 0:
            return mark.start()
    return None


def plain(text: str) -> str:
    r"""LaTeX and Markdown dressing off: `\text{…}`, `$…$`, `**…**`, `\%`, `12{,}000`."""
    text = " ".join(text.strip(_DECORATION).split())
    if "\\" not in text and "{" not in text:
        return text
    text = _WRAPPER.sub("{", text)
    text = _SPACING.sub(" ", text)
    text = _ESCAPED.sub(lambda match: {"{": "\ue000", "}": "\ue001"}.get(match[1], match[1]), text)
    text = text.replace("{", "").replace("}", "").replace("\ue000", "{").replace("\ue001", "}")
    return " ".join(text.split()).strip(_DECORATION)
