"""Build the index over titles: bm25s counts and weighs the tokens once, ahead of all queries.

Its idf is then replaced by BM25Okapi's, which gives tokens of more than half the titles a small weight.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comem.io.console import Progress, quiet
from comem.io.files import SUMS, lock_file, read_json, sha256_of, storage_errors, sums_of, write_sealed
from comem.io.run_folder import run_manifest
from comem.linking.index import (
    FORMAT,
    HIGHEST,
    MANIFEST,
    OFFSETS,
    TITLES,
    VOCABULARY,
    Scores,
    TitleIndex,
    TitleIndexError,
)
from comem.linking.titles import Entity, Tokenizer, read_titles

log = logging.getLogger(__name__)

K1, B, EPSILON = 1.5, 0.75, 0.25  # rank_bm25's
_CHUNK = 20_000


def build_title_index(
    titles: str | Path, folder: str | Path, tokenizer: Tokenizer, progress: Progress = quiet
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
    with storage_errors(folder), _workplace(folder) as building:
        _build(Path(titles), building, tokenizer, wanted, progress)
        if folder.exists():
            folder.rmdir()
        building.rename(folder)
    return TitleIndex(folder)


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A folder beside the final one, locked, and empty whatever a killed process had left in it."""
    place = folder.with_name(f".{folder.name}.building")
    place.mkdir(parents=True, exist_ok=True)
    handle = os.open(place, os.O_RDONLY)
    try:
        lock_file(handle, place)
        for path in place.iterdir():
            path.unlink()
        try:
            yield place
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
    finally:
        os.close(handle)


def _refuse_other(folder: Path, wanted: Mapping[str, str]) -> None:
    there = read_json(folder / MANIFEST)
    differing = [key for key, value in wanted.items() if there.get(key) != value]
    if differing:
        raise TitleIndexError(
            f"{folder} holds an index of another {' and '.join(differing)}; choose another folder"
        )


def _build(
    titles: Path, folder: Path, tokenizer: Tokenizer, about: Mapping[str, str], progress: Progress
) -> None:
    """Write all files of an index."""
    vocabulary: dict[str, int] = {}
    documents = _write_titles(read_titles(titles), folder, tokenizer, vocabulary, progress)
    if not documents:
        raise TitleIndexError(f"{titles} holds no titles")
    index = _weigh(documents, vocabulary)
    index.save(folder, show_progress=False)
    starts = index.scores["indptr"]
    np.save(folder / HIGHEST, np.maximum.reduceat(index.scores["data"], starts[:-1]))
    if tokenizer.vocabulary is not None:
        shutil.copyfile(tokenizer.vocabulary, folder / VOCABULARY)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    extra = {"format": FORMAT, "count": len(documents), "tokens": len(vocabulary), "bytes": sizes}
    made = run_manifest({"titles": str(titles)})
    write_sealed(folder / MANIFEST, {**extra, **about, SUMS: sums_of(folder), **made})


def _write_titles(
    entities: Iterable[Entity], folder: Path, tokenizer: Tokenizer, vocabulary: dict[str, int],
    progress: Progress,
) -> list[list[int]]:  # fmt: skip
    """Store the entities as lines, with the lines' offsets; the token ids of every title."""
    documents: list[list[int]] = []
    offsets, end = [0], 0
    with open(folder / TITLES, "wb") as file, progress("titles", unit="titles") as advance:
        for chunk in _chunks(entities):
            for entity, tokens in zip(chunk, tokenizer([each.title for each in chunk]), strict=True):
                line = f"{entity.id}\t{entity.title}\n".encode("utf-8", "replace")
                file.write(line)
                offsets.append(end := end + len(line))
                documents.append([vocabulary.setdefault(token, len(vocabulary)) for token in tokens])
            advance(len(chunk))
    np.save(folder / OFFSETS, np.asarray(offsets, dtype=np.int64))
    return documents


def _chunks(entities: Iterable[Entity]) -> Iterator[list[Entity]]:
    source = iter(entities)
    while chunk := list(islice(source, _CHUNK)):
        yield chunk


def _weigh(documents: list[list[int]], vocabulary: dict[str, int]) -> Any:
    """A `bm25s.BM25` whose scores are BM25Okapi's, in float64."""
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
    log.info("weighing %d tokens of %d titles", len(vocabulary), len(documents))
    index = bm25s.BM25(k1=K1, b=B, method="atire", idf_method="lucene", dtype="float64")
    index.index((documents, vocabulary), create_empty_token=False, show_progress=False)
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
    scores: Scores = np.where(idf < 0, max(EPSILON * idf.mean(), 0.0), idf)
    return scores
