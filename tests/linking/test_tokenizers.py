"""The tokens of titles and answers: simple words, and BERT's pieces as transformers makes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from comem.linking.titles import TOKENIZERS, plain

PIECES = """[PAD] [UNK] [CLS] [SEP] [MASK] the of golden gate bridge paris zurich ##horn city wheel ##chair
curl ##ing ##s ##a ##b ##n ##h a b n h ( ) , . ! ' - 1 2 0 ##0 ##1 ##9 de ##part ##ment 北 京""".split()
TEXTS = [
    "Golden Gate Bridge", "Zürichhorn", "wheelchair curling", "Bánh Department", "Paris, the city (2001)",
    "北京", "", "!!!", "xyz", "a-b'n", "İstanbul", "  Paris\tof ", "Golden [MASK] gate", "ａ",
]  # fmt: skip


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Golden Gate Bridge", ["golden", "gate", "bridge"]),
        ("Zürichhorn", ["zurichhorn"]),
        ("AC/DC (band)", ["ac", "dc", "band"]),
        ("!!! ???", ["!!!", "???"]),
        ("Straße", ["strasse"]),
        ("Москва́", ["москва"]),
        ("", []),
    ],
)
def test_words(text: str, tokens: list[str]) -> None:
    assert list(TOKENIZERS["words"](None)([text])) == [tokens]


def test_plain_leaves_ascii_and_folds_the_rest() -> None:
    assert plain("ABC def") == "abc def" and plain("É") == plain("e\u0301") == "e"


def test_bert_pieces_are_those_of_transformers(vocabulary: Path) -> None:
    from transformers import BertTokenizerFast

    reference = BertTokenizerFast(str(vocabulary), do_lower_case=True)
    expected = [reference.tokenize(text) for text in TEXTS]
    assert list(TOKENIZERS["bert"](vocabulary)(TEXTS)) == expected
    assert expected[1] == ["zurich", "##horn"] and ["[UNK]"] in expected


def test_bert_without_its_pieces_says_what_to_give(tmp_path: Path) -> None:
    for path in (None, tmp_path / "none.txt"):
        with pytest.raises(ValueError, match="--vocabulary vocab.txt of bert-base-uncased"):
            TOKENIZERS["bert"](path)
    other = tmp_path / "words.txt"
    other.write_text("just\nwords\n", encoding="utf-8")
    with pytest.raises(ValueError, match="not a BERT vocabulary"):
        TOKENIZERS["bert"](other)


def test_an_unknown_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown tokenizer 'word'; did you mean words"):
        TOKENIZERS["word"]
