"""Files of entities: Wikidata id and Wikipedia title."""

from __future__ import annotations

import gzip
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from comem.benchmarks.scoring import key_of
from comem.io.files import RecordError, read_jsonl
from comem.registry import Registry

_WORD = re.compile(r"\w+")


class Tokenizer(Protocol):
    """Cuts texts into tokens.

    Attributes:
        name: its key in `TOKENIZERS`.
        vocabulary: the file that it needs, or None.
    """

    @property
    def name(self) -> str:
        """Its key in `TOKENIZERS`."""
        ...

    @property
    def vocabulary(self) -> Path | None:
        """The file that it needs, or None."""
        ...

    def __call__(self, texts: Sequence[str]) -> Iterable[list[str]]:
        """The tokens of each text, in order."""
        ...


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
        """As `Tokenizer.__call__`, one text after the other."""
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
        """As `Tokenizer.__call__`, all texts at once, without special tokens."""
        encoded = self._model.encode_batch(list(texts), add_special_tokens=False)
        return [each.tokens for each in encoded]


TOKENIZERS: Registry[Callable[[Path | None], Tokenizer]] = Registry(
    "tokenizer", {"words": lambda vocabulary: Words(), "bert": WordPieces}
)


#: Field names of OVEN's Wiki6M files, of the file that its BM25 scripts read, and common ones.
ID_FIELDS = ("wikidata_id", "id", "entity_id", "qid")
TITLE_FIELDS = ("wikipedia_title", "content", "title", "entity_text", "label")


class Entity(NamedTuple):
    """One row: a Wikidata id and a title; an id may come with several titles."""

    id: str
    title: str


def read_titles(path: str | Path) -> Iterator[Entity]:
    """The entities of a titles file, in its order.

    Reads OVEN's Wiki6M_ver_1_0_title_only.jsonl and Wiki6M_ver_1_0.jsonl.gz (`wikidata_id`,
    `wikipedia_title`; http://storage.googleapis.com/gresearch/open-vision-language), JSON lines with
    `id` and `content`, and tab-separated id and title, with or without a header; all plain or `.gz`.

    Raises:
        RecordError: no such file, another format, or a row without id or title; names the line.
    """
    name = str(path).removesuffix(".gz")
    if name.endswith((".tsv", ".txt")):
        yield from _read_tsv(Path(path))
    elif name.endswith((".jsonl", ".json")):
        yield from _read_jsonl(Path(path))
    else:
        raise RecordError(f"{path}: unknown kind of file; give .jsonl or .tsv (or either with .gz)")


def _read_jsonl(path: Path) -> Iterator[Entity]:
    fields: tuple[str, str] | None = None
    for number, row in enumerate(read_jsonl(path), start=1):
        if fields is None:
            fields = key_of(row, ID_FIELDS, path, number), key_of(row, TITLE_FIELDS, path, number)
        yield _checked(row.get(fields[0]), row.get(fields[1]), f"{path}: record {number}")


def _read_tsv(path: Path) -> Iterator[Entity]:
    number = 0
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                fields = line.rstrip("\r\n").split("\t")
                if number == 1 and fields[0].casefold() in ID_FIELDS:
                    continue
                if len(fields) < 2:
                    raise RecordError(f"{path}:{number}: expected id, tab, title; found {line.strip():.80}")
                yield _checked(fields[0], fields[1], f"{path}:{number}")
    except FileNotFoundError as error:
        raise RecordError(f"{path}: no such file; check the path") from error
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise RecordError(
            f"{path}:{number + 1}: not readable as UTF-8 text ({error}); copy it again"
        ) from error


def _checked(name: object, title: object, place: str) -> Entity:
    if not isinstance(name, str) or not isinstance(title, str) or not name.strip() or not title.strip():
        raise RecordError(f"{place}: id {name!r} and title {title!r:.80}; both must be text, and not empty")
    return Entity(name.strip(), " ".join(title.split()))
