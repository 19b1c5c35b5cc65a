"""Replies judged: what is a translation, and what is refused; the order in which a language tries records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comem.data.translation import LANGUAGES, eligible, judge, order, prompt, sample

RECORD = {
    "id": "q1", "question": "When was it built?", "answer": "14 July 1,889", "answers": ["1889", "in 1889"],
    "image": "a.png", "knowledge": [{"id": "w", "text": "t", "image": "b.png"}],
}  # fmt: skip


def said(**changes: Any) -> str:
    good = {"question": "何时建成？", "answer": "１８８９年7月14日", "answers": ["1889年", "于1889年"]}
    return json.dumps({**good, **changes}, ensure_ascii=False)


def test_a_translation_keeps_the_rest_of_the_record() -> None:
    found = judge(RECORD, "zh", f"Here you are:\n```json\n{said()}\n```")
    assert isinstance(found, dict) and found["id"] == "q1:zh" and found["translated_from"] == "q1"
    assert found["language"] == "zh" and found["question"] == "何时建成？"
    assert found["image"] == "a.png" and found["knowledge"] == RECORD["knowledge"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("  ", "empty reply"),
        ("I cannot do that.", "not JSON"),
        ('{"question": "何', "not JSON"),
        ("[1]", "not JSON"),
        (said(question=""), "question lost"),
        (said(answer=None), "answer lost"),
        (said(answer=" "), "answer lost"),
        (said(answers=["1889年"]), "accepted answers lost"),
        (said(answers="1889年"), "accepted answers lost"),
        (said(answers=["1889年", ""]), "accepted answers lost"),
        (said(question="when was  it built?"), "not translated"),
        (said(question="¿Cuándo se construyó?"), "another script"),
        (said(answer="1998年"), "number lost"),
    ],
)
def test_bad_replies_are_refused(reply: str, reason: str) -> None:
    assert judge(RECORD, "zh", reply) == reason


def test_numbers_may_be_written_as_the_language_does() -> None:
    for answer in ("30.500 m", "30 500 m", "30\u202f500 m", "30500 m", "٣٠٬٥٠٠ م".replace("٬", ",")):
        record = {"id": "q", "question": "How high?", "answer": "30,500 m", "answers": ["2"]}
        reply = json.dumps({"question": "¿Qué altura?", "answer": answer, "answers": ["dos"]})
        assert isinstance(judge(record, "es", reply), dict), answer


def test_every_language_has_a_prompt_and_an_order_of_its_own() -> None:
    assert list(LANGUAGES) == ["bg", "zh", "arz", "fil", "fr", "ja", "pt", "ru", "es"]  # paper, 3.3
    for code, language in LANGUAGES.items():
        text = prompt(RECORD, code)
        assert f"into {language.name}." in text
        assert json.loads(text.rpartition("\n")[2])["answers"] == RECORD["answers"]
    names = [str(n) for n in range(50)]
    orders = {code: order(names, code, 0) for code in LANGUAGES}
    assert len({tuple(each) for each in orders.values()}) == 9
    assert orders["fr"] == order(names[::-1], "fr", 0) != order(names, "fr", 1)


def test_only_single_english_questions_are_translated() -> None:
    assert eligible(RECORD) and not eligible({**RECORD, "language": "fr"})
    assert not eligible({"id": "q", "conversations": [{"question": "a", "answer": "b"}]})
    assert not eligible({"id": "q", "question": "a"})


def test_refused_translations_are_replaced_by_the_next_record(tmp_path: Path) -> None:
    records = {name: {**RECORD, "id": name} for name in "abcd"}
    tried = order(list(records), "zh", 0)
    folders = (tmp_path / "from", tmp_path)
    found = sample(records, "zh", {}, 2, 0, folders)
    assert found.missing == tried[:2] and not found.kept
    replies = {f"{tried[0]}:zh": "", f"{tried[1]}:zh": said(question="何<|im_end|>时")}
    found = sample(records, "zh", replies, 2, 0, folders)
    assert found.dropped == {"empty reply": 1, "not a training record": 1} and found.missing == tried[2:]
    replies |= {f"{name}:zh": said() for name in tried[2:]}
    found = sample(records, "zh", replies, 2, 0, folders)
    assert [each["translated_from"] for each in found.kept] == tried[2:] and not found.missing
    assert found.kept[0]["image"] == "from/a.png" and found.kept[0]["knowledge"][0]["image"] == "from/b.png"
