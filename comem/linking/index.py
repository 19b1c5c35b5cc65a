"""The index over titles: built and stored by bm25s, ranked as rank_bm25's BM25Okapi, memory-mapped.

OVEN's official linking is BM25Okapi (k1 1.5, b 0.75, epsilon 0.25) over 6 million titles
(edchengg/oven_eval). bm25s counts and weighs the tokens once, ahead of all queries; its idf is then
replaced by BM25Okapi's, which gives tokens of more than half the titles a small positive weight.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comem.linking.search import Postings, Scores, best
from comem.linking.titles import Entity, read_titles
from comem.linking.tokenizers import TOKENIZERS, Tokenizer
from comem.records import read_json, run_manifest, sha256_of, write_json

log = logging.getLogger(__name__)

FORMAT = "comem-titles-1"
K1, B, EPSILON = 1.5, 0.75, 0.25  # rank_bm25's
MANIFEST, TITLES, OFFSETS, HIGHEST, VOCABULARY = (
    "titles.json", "titles.tsv", "offsets.npy", "highest.npy", "vocabulary.txt",
)  # fmt: skip
_CHUNK = 20_000


class TitleIndexError(ValueError):
    """A folder that holds no finished index of titles, or another one than asked for."""


@dataclass(frozen=True)
class Match:
    """A title that was found, and its BM25 score."""

    entity: Entity
    score: float


def build_title_index(
    titles: str | Path, folder: str | Path, tokenizer: Tokenizer, *, progress: bool = True
) -> TitleIndex:
    """Index a titles file into a folder; all or nothing, and nothing to do when it is there already.

    Raises:
        TitleIndexError: the folder holds something else.
        RecordError: a broken titles file.
    """
    folder = Path(folder)
    wanted = {"tokenizer": tokenizer.name, "titles_sha256": sha256_of(titles)}
    if tokenizer.vocabulary is not None:
        wanted["vocabulary_sha256"] = sha256_of(tokenizer.vocabulary)
    if (folder / MANIFEST).is_file():
        _refuse_other(folder, wanted)
        return TitleIndex(folder)
    if folder.exists() and any(folder.iterdir()):
        raise TitleIndexError(f"{folder} exists and holds no index of titles; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.building-"))
    try:
        _build(Path(titles), building, tokenizer, wanted, progress)
        building.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        building.rename(folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return TitleIndex(folder)


def _refuse_other(folder: Path, wanted: Mapping[str, str]) -> None:
    there = read_json(folder / MANIFEST)
    differing = [key for key, value in wanted.items() if there.get(key) != value]
    if differing:
        raise TitleIndexError(
            f"{folder} holds an index of another {' and '.join(differing)}; choose another folder"
        )


def _build(titles: Path, folder: Path, tokenizer: Tokenizer, about: Mapping[str, str], shown: bool) -> None:
    """Write all files of an index."""
    vocabulary: dict[str, int] = {}
    documents = _write_titles(read_titles(titles), folder, tokenizer, vocabulary, shown)
    if not documents:
        raise TitleIndexError(f"{titles} holds no titles")
    index = _weigh(documents, vocabulary, shown)
    index.save(folder, show_progress=False)
    starts = index.scores["indptr"]
    np.save(folder / HIGHEST, np.maximum.reduceat(index.scores["data"], starts[:-1]))
    if tokenizer.vocabulary is not None:
        shutil.copyfile(tokenizer.vocabulary, folder / VOCABULARY)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    extra = {"format": FORMAT, "count": len(documents), "tokens": len(vocabulary), "bytes": sizes}
    write_json(folder / MANIFEST, {**extra, **about, **run_manifest({"titles": str(titles)})})


def _write_titles(
    entities: Iterable[Entity], folder: Path, tokenizer: Tokenizer, vocabulary: dict[str, int], shown: bool
) -> list[list[int]]:
    """Store the entities as lines, with the lines' offsets; the token ids of every title."""
    from tqdm import tqdm

    documents: list[list[int]] = []
    offsets, end = [0], 0
    with open(folder / TITLES, "wb") as file, tqdm(desc="titles", unit="", disable=not shown) as bar:
        for chunk in _chunks(entities):
            for entity, tokens in zip(chunk, tokenizer([each.title for each in chunk]), strict=True):
                line = f"{entity.id}\t{entity.title}\n".encode("utf-8", "replace")
                file.write(line)
                offsets.append(end := end + len(line))
                documents.append([vocabulary.setdefault(token, len(vocabulary)) for token in tokens])
            bar.update(len(chunk))
    np.save(folder / OFFSETS, np.asarray(offsets, dtype=np.int64))
    return documents


def _chunks(entities: Iterable[Entity]) -> Iterator[list[Entity]]:
    source = iter(entities)
    while chunk := list(islice(source, _CHUNK)):
        yield chunk


def _weigh(documents: list[list[int]], vocabulary: dict[str, int], shown: bool) -> Any:
    """A `bm25s.BM25` whose scores are BM25Okapi's, in float64."""
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
    log.info("weighing %d tokens of %d titles", len(vocabulary), len(documents))
    index = bm25s.BM25(k1=K1, b=B, method="atire", idf_method="lucene", dtype="float64")
    index.index((documents, vocabulary), create_empty_token=False, show_progress=shown)
    occurrences = np.diff(index.scores["indptr"])  # titles per token
    lucene = np.log(1 + (len(documents) - occurrences + 0.5) / (occurrences + 0.5))
    index.scores["data"] *= np.repeat(okapi_idf(occurrences, len(documents)) / lucene, occurrences)
    return index


def okapi_idf(occurrences: NDArray[np.int64], count: int) -> Scores:
    """BM25Okapi's idf per token; negative ones become `EPSILON` times the mean of all, and at least 0.

    Args:
        occurrences: `(v,)`, in how many of the titles each token is.
        count: the number of titles.
    """
    idf = np.log(count - occurrences + 0.5) - np.log(occurrences + 0.5)
    return np.where(idf < 0, max(EPSILON * idf.mean(), 0.0), idf)


class TitleIndex:
    """An index folder, opened for searching; its arrays stay on disk and are shared between processes.

    Raises:
        TitleIndexError: no finished index, or files that were cut or changed.
    """

    def __init__(self, folder: str | Path) -> None:
        import bm25s

        self.folder = Path(folder)
        self.manifest = _checked_manifest(self.folder)
        vocabulary = self.folder / VOCABULARY if (self.folder / VOCABULARY).is_file() else None
        self.tokenizer = TOKENIZERS[self.manifest["tokenizer"]](vocabulary)
        index = bm25s.BM25.load(self.folder, mmap=True)
        self._vocabulary: dict[str, int] = index.vocab_dict
        # asarray: the same mapped memory without np.memmap's slow slicing
        starts, rows, values = (np.asarray(index.scores[name]) for name in ("indptr", "indices", "data"))
        self._postings = Postings(starts, rows, values, np.load(self.folder / HIGHEST))
        self._titles = np.asarray(np.memmap(self.folder / TITLES, dtype=np.uint8, mode="r"))
        self._offsets = np.asarray(np.load(self.folder / OFFSETS, mmap_mode="r"))  # (n + 1,)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def entity(self, row: int) -> Entity:
        """The entity in a row."""
        start, end = int(self._offsets[row]), int(self._offsets[row + 1])
        name, _, title = self._titles[start : end - 1].tobytes().decode("utf-8").partition("\t")
        return Entity(name, title)

    def search(self, texts: Sequence[str], k: int = 1) -> list[list[Match]]:
        """Per text the k best titles; none for a text that shares no token with any title."""
        found = []
        for tokens in self.tokenizer(texts):
            query = [self._vocabulary[token] for token in tokens if token in self._vocabulary]
            rows, scores = best(self._postings, query, k)
            pairs = zip(rows.tolist(), scores.tolist(), strict=True)
            found.append([Match(self.entity(row), score) for row, score in pairs])
        return found


def _checked_manifest(folder: Path) -> Mapping[str, Any]:
    if not (folder / MANIFEST).is_file():
        raise TitleIndexError(f"{folder}: no index of titles here; make one with comem oven index")
    manifest = read_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise TitleIndexError(f"{folder}: format {manifest.get('format')!r}, this version reads {FORMAT!r}")
    for name, size in manifest["bytes"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise TitleIndexError(
                f"{path} is missing, cut or changed ({size} bytes were written); build the index again"
            )
    return manifest
