r"""Answers out of free text, and the normalisers of the official scorers and of the authors'.

What is wrong with the authors' (WenyiWU0111/CoMEM, CoMEM-inference; the same functions stand in five of its
files): the normaliser cuts a text behind "is", "the", "of" and "by" wherever these letters stand, also inside
words: "Paris" becomes "", "Netherlands" "rlands", "island" "land". The extractor takes the first `\boxed{…}`
up to its first closing brace, so `\boxed{\text{Paris}}` gives "textparis", hence "" again; without a box it
takes what follows the last colon.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from functools import lru_cache

_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")

#: "Final answer" as models write it in the six languages of the benchmarks.
FINAL_ANSWER: dict[str, tuple[str, ...]] = {
    "en": ("final answer",),
    "bg": ("окончателен отговор", "окончателният отговор", "краен отговор", "крайният отговор"),
    "zh": ("最终答案", "最終答案", "最后答案", "最後答案", "最终的答案", "最后的答案"),
    "pt": ("resposta final",),
    "ru": ("окончательный ответ", "итоговый ответ", "финальный ответ"),
    "es": ("respuesta final",),
}
_PHRASE = "(?:" + "|".join(phrase for phrases in FINAL_ANSWER.values() for phrase in phrases) + ")"
#: "Final answer: …", "the final answer (short) is …", "**Final answer** – …".
_LINK = (
    r"[*_`\"'”»)\]]{0,4}(?:\s?\([^()\n]{0,40}\))?\s{0,3}"
    r"(?:[:：=→]|\b(?:is|es|é|е|—)\b|—|–|-|是|为|為)[*_`\s:：]{0,8}"
)
#: The same as a line of its own, above the answer.
_HEADING = r"(?<![^\n])[ \t#*_>]{0,12}" + _PHRASE + r"[ \t*_]{0,8}\n"
_FINAL = re.compile(f"{_PHRASE}{_LINK}|{_HEADING}", re.IGNORECASE)
#: So many boxes at the end are looked into.
_BOXES = 3
_BOX = re.compile(r"\\f?boxed\s{0,3}\{|\\f?boxed\s{1,3}(?=[^\s{])")
_EMPTY_BOX = re.compile(r"\\f?boxed\s{0,3}\{\s{0,9}\}")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|operatorname|mbox)\s?\{")
_SPACING = re.compile(r"\\[,;:! ]|~|\\q?quad\b")
_ESCAPED = re.compile(r"\\([%&$#_{}])")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_FORMULA = re.compile(r"\$([^$\n]{1,200})\$")
_DECORATION = " \t\r\n*_`$"
_QUOTES = {"“": "”", "„": "“", "«": "»", "「": "」", "『": "』"}


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

    In this order: the content of the last `\boxed{…}` that is not empty (braces may nest; a box that the
    token limit cut open runs to the end of its line), what follows the last "final answer" in one of six
    languages (up to the end of the line, or the next line that says something), or the whole text.
    """
    found = marked_answer(text)
    return found if found is not None else text.rpartition("</think>")[2].strip()


def marked_answer(text: str) -> str | None:
    """The answer that a box or a final-answer line marks (see `extract_answer`); None without either."""
    text = text.rpartition("</think>")[2]
    boxed = [plain(content) for content in _boxes(text)]
    for content in reversed(boxed):
        if content:
            return content
    text = _EMPTY_BOX.sub("", text) if boxed else text
    finals = list(_FINAL.finditer(text))
    if finals:
        rest = text[finals[-1].end() :].lstrip()
        return _unquoted(plain(_FORMULA.sub(r"\1", rest.partition("\n")[0])).rstrip("。"))
    return "" if boxed else None


def _boxes(text: str) -> Iterator[str]:
    """The contents of the last boxes, in order."""
    for start in list(_BOX.finditer(text))[-_BOXES:]:
        if not start.group().endswith("{"):  # \boxed 7
            yield text[start.end() :].split(maxsplit=1)[0]
            continue
        end = _closing(text, start.end())
        yield text[start.end() : end] if end is not None else text[start.end() :].partition("\n")[0]


def _unquoted(text: str) -> str:
    """Without the quotation marks around all of it; ASCII's fall to every normaliser."""
    return text[1:-1] if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] else text


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
    text = _FRACTION.sub(r"\1/\2", text)
    text = _WRAPPER.sub("{", text)
    text = _SPACING.sub(" ", text)
    text = _ESCAPED.sub(lambda match: {"{": "\ue000", "}": "\ue001"}.get(match[1], match[1]), text)
    text = text.replace("{", "").replace("}", "").replace("\ue000", "{").replace("\ue001", "}")
    return " ".join(text.split()).strip(_DECORATION)


_CUT_BEHIND = ("is", "the", "of", "by")


def authors_normalize(text: str) -> str:
    """The authors' normaliser: lower case, no ASCII punctuation, cut, no articles, single spaces."""
    text = text.lower().translate(_DELETE_PUNCTUATION)
    for letters in _CUT_BEHIND:
        text = text.rpartition(letters)[2]
    return " ".join(_ARTICLES.sub(" ", text).split())


def first_box(text: str) -> str | None:
    """The first box up to its first closing brace, on one line, as the authors read it."""
    for line in text.split("\n"):
        _, box, rest = line.partition("\\boxed{")
        content, brace, _ = rest.partition("}")
        if box and brace:
            return content
    return None


def after_colon(text: str) -> str:
    """What follows the last colon; everything without one."""
    return text.rpartition(":")[2]


def authors_answer(text: str) -> str:
    """The authors' short answer: boxed or behind the last colon, normalised."""
    return _authors_cached(text) if len(text) <= _CACHED_LENGTH else _authors_answer(text)


def _authors_answer(text: str) -> str:
    content = first_box(text)
    return authors_normalize(after_colon(text) if content is None else content)


_authors_cached = lru_cache(maxsize=200_000)(_authors_answer)

#: What is wrong with every number that they gave; `ONE_SIDED` where accepted answers stay as they are.
CUTS = (
    'its normaliser cuts texts behind "is", "the", "of" and "by" even inside words ("Paris" becomes "", '
    '"Netherlands" becomes "rlands") and its box ends at the first closing brace'
)
ONE_SIDED = (
    f"only the prediction is normalised, so no accepted answer with a capital or a hyphen matches; {CUTS}"
)
