"""The index over titles: stored by bm25s, ranked as rank_bm25's BM25Okapi, memory-mapped.

OVEN's official linking is BM25Okapi (k1 1.5, b 0.75, epsilon 0.25) over 6 million titles
(edchengg/oven_eval).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from comem.linking.search import Postings, best
from comem.linking.titles import Entity
from comem.linking.tokenizers import TOKENIZERS
from comem.records import read_json

FORMAT = "comem-titles-1"
MANIFEST, TITLES, OFFSETS, HIGHEST, VOCABULARY = (
    "titles.json", "titles.tsv", "offsets.npy", "highest.npy", "vocabulary.txt",
)  # fmt: skip


class TitleIndexError(ValueError):
    """A folder that holds no finished index of titles, or another one than asked for."""


@dataclass(frozen=True)
class Match:
    """A title that was found, and its BM25 score."""

    entity: Entity
    score: float


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
