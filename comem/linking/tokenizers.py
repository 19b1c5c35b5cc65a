"""How titles and answers are cut into tokens."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from comem.tables import Table

_WORD = re.compile(r"\w+")


class Tokenizer(Protocol):
    """Cuts texts into tokens.

    Attributes:
        name: its key in `TOKENIZERS`.
        vocabulary: the file that it needs, or None.
    """

    @property
    def name(self) -> str: ...
    @property
    def vocabulary(self) -> Path | None: ...

    def __call__(self, texts: Sequence[str]) -> Iterable[list[str]]: ...


def plain(text: str) -> str:
    """Case folded and without accents, as BERT's uncased models see it."""
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(char for char in decomposed if not unicodedata.combining(char))
    return text.casefold()


@dataclass(frozen=True)
class Words:
    """Runs of letters and digits, without case and accents; a text without any is cut at spaces."""

    name: str = "words"
    vocabulary: Path | None = None

    def __call__(self, texts: Sequence[str]) -> Iterator[list[str]]:
        for text in texts:
            simple = plain(text)
            yield _WORD.findall(simple) or simple.split()


@dataclass(frozen=True)
class WordPieces:
    """BERT's uncased word pieces (bert-base-uncased): the official tokens of OVEN's linking.

    Attributes:
        vocabulary: BERT's vocab.txt, one piece a line.

    Raises:
        ValueError: no vocabulary file, or one without `[UNK]`.
    """

    vocabulary: Path | None
    name: str = "bert"
    _model: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        from tokenizers import BertWordPieceTokenizer

        if self.vocabulary is None or not self.vocabulary.is_file():
            raise ValueError(
                f"the bert tokenizer needs its word pieces ({self.vocabulary or 'none given'}): give "
                "--vocabulary vocab.txt of bert-base-uncased"
            )
        pieces = self.vocabulary.read_text(encoding="utf-8").splitlines()
        if "[UNK]" not in pieces:
            raise ValueError(f"{self.vocabulary}: no line [UNK]; this is not a BERT vocabulary")
        object.__setattr__(self, "_model", BertWordPieceTokenizer(str(self.vocabulary), lowercase=True))

    def __call__(self, texts: Sequence[str]) -> list[list[str]]:
        encoded = self._model.encode_batch(list(texts), add_special_tokens=False)
        return [each.tokens for each in encoded]


TOKENIZERS: Table[Callable[[Path | None], Tokenizer]] = Table(
    "tokenizer", {"words": lambda vocabulary: Words(), "bert": WordPieces}
)
