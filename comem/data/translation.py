"""Translated training records, the paper's section 3.3: a sample of the questions in nine languages.

A model translates question and answers; the image and the knowledge items stay. The paper translated 200
samples into each language with GPT-4o-mini, and prints no prompt: the one here, the checks, and the sample
of its own that every language gets are ours.
"""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from comem.data.records import rebased
from comem.io.files import parse_json
from comem.training.data import parse_example


@dataclass(frozen=True)
class Language:
    """A language to translate into: its English name, and the script that a translation shows."""

    name: str
    script: str = "LATIN"


#: The paper's nine, by ISO 639 code.
LANGUAGES: dict[str, Language] = {
    "bg": Language("Bulgarian", "CYRILLIC"),
    "zh": Language("Chinese", "CJK"),
    "arz": Language("Egyptian Arabic", "ARABIC"),
    "fil": Language("Filipino"),
    "fr": Language("French"),
    "ja": Language("Japanese", "HIRAGANA KATAKANA CJK"),
    "pt": Language("Portuguese"),
    "ru": Language("Russian", "CYRILLIC"),
    "es": Language("Spanish"),
}
#: Accepted answers beyond these stay behind: aliases come by the dozen.
MAX_ANSWERS = 10
PROMPT = """\
Translate a question about a picture, and its answer, from English into {language}. Write as a native \
speaker would ask and answer. Keep names, numbers, units and dates what they are; do not answer anew, \
explain or add anything. "answers" lists the accepted answers: translate each, in the same order.
Reply with one JSON object of the same form, and with nothing else.

{record}"""

_OBJECT = re.compile(r"\{.*\}", re.DOTALL)
_BETWEEN_DIGITS = re.compile(r"(?<=\d)[.,'’\s\u00a0\u202f](?=\d{3})")
_NUMBER = re.compile(r"\d{3,}")


class Translator(Protocol):
    """Anything that answers prompts; `about` is what decides the replies, for the manifest."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What decides the replies, for the manifest."""
        ...

    def replies(self, prompts: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str | None]]:
        """Ids with replies, as they come; None where there is none."""
        ...


def prompt(record: Mapping[str, Any], language: str) -> str:
    """What the model is asked for one record."""
    return PROMPT.format(
        language=LANGUAGES[language].name, record=json.dumps(_texts(record), ensure_ascii=False)
    )


def _texts(record: Mapping[str, Any]) -> dict[str, Any]:
    """What of a record is translated."""
    answers = [str(answer) for answer in record.get("answers") or ()]
    answer = record.get("answer") or answers[0]
    return {"question": record["question"], "answer": str(answer), "answers": answers[:MAX_ANSWERS]}


def eligible(record: Mapping[str, Any]) -> bool:
    """One English question with an answer; dialogues and translations are passed over."""
    one = isinstance(record.get("question"), str) and not record.get("conversations")
    return (
        one and bool(record.get("answer") or record.get("answers")) and record.get("language", "en") == "en"
    )


def order(names: Sequence[str], language: str, seed: int) -> list[str]:
    """The records in the order in which a language tries them; the same for the same ids."""
    return random.Random(f"{seed}/{language}").sample(sorted(names), len(names))


def judge(  # noqa: PLR0911 (one a reason)
    record: Mapping[str, Any], language: str, reply: str
) -> dict[str, Any] | str:
    """The translated record, or why the reply is refused."""
    found = _object(reply)
    if isinstance(found, str):
        return found
    texts, wanted = _texts(record), LANGUAGES[language]
    question, answer, answers = (found.get(key) for key in ("question", "answer", "answers"))
    if not isinstance(question, str) or not question.strip():
        return "question lost"
    if not isinstance(answer, str) or not answer.strip():
        return "answer lost"
    if (
        not isinstance(answers, list)
        or len(answers) != len(texts["answers"])
        or not all(map(_filled, answers))
    ):
        return "accepted answers lost"
    if _plain(question) == _plain(texts["question"]):
        return "not translated"
    if not _in_script(question, wanted.script):
        return "another script"
    if not set(_numbers(texts["answer"])) <= set(_numbers(answer)):
        return "number lost"
    named = {"id": f"{record['id']}:{language}", "language": language, "translated_from": record["id"]}
    return {**record, **named, "question": question.strip(), "answer": answer.strip(), "answers": answers}


def _filled(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _object(reply: str) -> dict[str, Any] | str:
    """The JSON object in a reply, whatever stands around it."""
    if not reply.strip():
        return "empty reply"
    match = _OBJECT.search(reply)
    try:
        found = parse_json(match.group())[0] if match else None
    except ValueError:
        return "not JSON"
    return found if isinstance(found, dict) else "not JSON"


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _in_script(text: str, script: str) -> bool:
    """Whether a letter of the script occurs."""
    return any(unicodedata.name(c, "").startswith(tuple(script.split())) for c in text if c.isalpha())


def _numbers(text: str) -> list[str]:
    """Numbers of three digits or more, without separators, in ASCII digits; shorter ones may become words."""
    digits = "".join(str(unicodedata.digit(c)) if c.isdigit() else c for c in text)
    return _NUMBER.findall(_BETWEEN_DIGITS.sub("", digits))


@dataclass
class Sample:
    """One language's sample so far: translated records in drawn order, refused ones, and what to ask next."""

    kept: list[dict[str, Any]]
    dropped: dict[str, int]
    missing: list[str]


def sample(
    records: Mapping[str, Mapping[str, Any]], language: str, replies: Mapping[str, str], count: int,
    seed: int, folders: tuple[Path, Path],
) -> Sample:  # fmt: skip
    """The first `count` records of a language's order whose translations hold; what is refused is replaced.

    Args:
        records: eligible ones by id.
        language: a key of `LANGUAGES`.
        replies: what the model said, by "ID:LANGUAGE".
        count: records wanted.
        seed: of the order.
        folders: where the records' paths start, and where the new ones' shall.
    """
    found = Sample([], {}, [])
    for name in order(list(records), language, seed):
        if len(found.kept) + len(found.missing) >= count:
            break
        key = f"{name}:{language}"
        if key not in replies:
            found.missing.append(name)
            continue
        result = judge(records[name], language, replies[key])
        if not isinstance(result, str):
            try:
                result = rebased(result, *folders)
                parse_example(result, folders[1])
            except ValueError:  # chat markup in a translation, or an image out of reach
                result = "not a training record"
        if isinstance(result, str):
            found.dropped[result] = found.dropped.get(result, 0) + 1
        else:
            found.kept.append(result)
    return found
