"""From a question's picture to knowledge items: the retrievers, and their results as a file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from comem.io.files import write_json
from comem.io.images import ImageError, open_image
from comem.io.jsonl import JsonlAppender, RecordError, done_ids, read_json, read_jsonl, unique
from comem.retrieval.embedder import Embedder, load_embedder
from comem.retrieval.index import VectorIndex
from comem.retrieval.knowledge import KnowledgeBase
from comem.tables import Table
from comem.types import Example, ImageRef, RetrievedContext

logger = logging.getLogger(__name__)

ID_FIELDS = ("data_id", "example_id", "question_id", "id")
IMAGE_FIELDS = ("image_path", "image")
#: In place of languages: the one of each question.
OWN = ("own",)


class Retriever(Protocol):
    """Finds the items for questions."""

    def retrieve(self, examples: Sequence[Example], k: int) -> list[RetrievedContext]:
        """One context for each example, in order, with at most k items, best first."""

    def describe(self) -> Mapping[str, Any]:
        """What decides the results, for the manifest beside them."""


class FaissRetriever:
    """Image to image, as in the paper: the question's text is not used.

    An example whose picture is missing or cannot be read gets no items, and a warning.

    Args:
        index: the opened index.
        embedder: the one that made it.
        languages: only items in these languages; `OWN`: in the language of each question.
        temperature: turns cosines into a softmax over the k items; None leaves the cosines.
    """

    def __init__(
        self,
        index: VectorIndex,
        embedder: Embedder,
        *,
        languages: Collection[str] | None = None,
        temperature: float | None = None,
    ) -> None:
        index.check(embedder)
        if temperature is not None and temperature <= 0:
            raise ValueError(f"temperature = {temperature}: must be above 0")
        self.index, self.embedder, self.languages, self.temperature = index, embedder, languages, temperature

    def retrieve(self, examples: Sequence[Example], k: int) -> list[RetrievedContext]:
        """Embeds the pictures and searches."""
        found = [RetrievedContext(example.id) for example in examples]
        places, pictures = [], []
        for i, example in enumerate(examples):
            try:
                if example.image is None:
                    raise ImageError("it has no picture")
                pictures.append(open_image(example.image))
                places.append(i)
            except ImageError as error:
                logger.warning("question %s: nothing retrieved: %s", example.id, error)
        if pictures:
            vectors = self.embedder.embed_images(pictures)
            for part, languages in self._parts([examples[i] for i in places]):
                hits = self.index.search(vectors[part], k, languages)
                for n, rows, scores in zip(part, hits.rows, hits.scores, strict=True):
                    items = tuple(self.index.base.items(rows.tolist()))
                    name = examples[places[n]].id
                    found[places[n]] = RetrievedContext(name, items, tuple(self._weigh(scores).tolist()))
        return found

    def _parts(self, asked: Sequence[Example]) -> Iterator[tuple[list[int], Collection[str] | None]]:
        """The numbers of the questions that are searched for together, and in which languages."""
        if self.languages is None or tuple(self.languages) != OWN:
            yield list(range(len(asked))), self.languages
            return
        for language in sorted({example.language for example in asked}):
            yield [n for n, example in enumerate(asked) if example.language == language], (language,)

    def describe(self) -> Mapping[str, Any]:
        """Index, embedder and options."""
        return {
            "retriever": "faiss", "index_sha256": self.index.manifest["sha256"],
            "ids_sha256": self.index.manifest["ids_sha256"], "embedder": self.embedder.fingerprint,
            "languages": None if self.languages is None else sorted(self.languages),
            "temperature": self.temperature,
        }  # fmt: skip

    def _weigh(self, scores: np.ndarray) -> np.ndarray:
        if self.temperature is None or not len(scores):
            return scores
        weights = np.exp((scores - scores.max()) / self.temperature)
        return weights / weights.sum()


class PrecomputedRetriever:
    """Results made before, by `comem retrieve` or by another system: `{"example_id", "ids", "scores"}` lines.

    Raises:
        RecordError: for a broken line or a repeated example.
        KnowledgeBaseError: for an id that is not in the knowledge base (when it is asked for).
    """

    def __init__(self, path: str | Path, base: KnowledgeBase) -> None:
        self.path, self.base = Path(path), base
        self._rows = {row["example_id"]: row for row in _context_rows(self.path)}

    def retrieve(self, examples: Sequence[Example], k: int) -> list[RetrievedContext]:
        """Looks the examples up by id; one that is not in the file is an error, not an empty context."""
        missing = [example.id for example in examples if example.id not in self._rows]
        if missing:
            raise ValueError(
                f"{self.path}: no results for {len(missing)} of {len(examples)} examples (first:"
                f" {missing[0]!r}); run comem retrieve again with the same questions"
            )
        return [_context(self._rows[example.id], self.base).top(k) for example in examples]

    def describe(self) -> Mapping[str, Any]:
        """File and knowledge base."""
        ids = self.base.manifest["ids_sha256"]
        return {"retriever": "precomputed", "path": str(self.path), "ids_sha256": ids}


def open_faiss(folder: str | Path, embedder: str | Embedder | None = None, **options: Any) -> FaissRetriever:
    """Opens an index folder with the embedder that made it (by name in the manifest, unless given)."""
    index = VectorIndex(folder)
    name = index.manifest["embedder"]["name"] if embedder is None else embedder
    return FaissRetriever(index, load_embedder(name) if isinstance(name, str) else name, **options)


def open_precomputed(folder: str | Path, path: str | Path) -> PrecomputedRetriever:
    """Opens a results file against the knowledge base in `folder`."""
    return PrecomputedRetriever(path, KnowledgeBase(folder))


def _open_milvus(folder: str | Path, embedder: str | Embedder | None = None, **options: Any) -> Retriever:
    """Opens a Milvus collection over the knowledge base in `folder` (`uri`, `collection`, `token`)."""
    from comem.retrieval.milvus import open_milvus

    return open_milvus(folder, embedder, **options)


RETRIEVERS: Table[Callable[..., Retriever]] = Table(
    "retriever", {"faiss": open_faiss, "milvus": _open_milvus, "precomputed": open_precomputed}
)


def retrieve_to_file(
    retriever: Retriever, examples: Iterable[Example], k: int, path: str | Path, *, batch_size: int = 64
) -> int:
    """Retrieves for all examples, appending one line each; examples already in the file are passed over.

    Returns:
        How many were retrieved now.

    Raises:
        ValueError: if the file was made with other settings.
    """
    path = Path(path)
    _check_manifest(path, {**retriever.describe(), "k": k})
    done = done_ids(path, "example_id") if path.is_file() else set()
    written = 0
    with JsonlAppender(path, durable=False) as out:
        for batch in _batches((e for e in examples if e.id not in done), batch_size):
            for context in retriever.retrieve(batch, k):
                ids = [item.id for item in context.items]
                out.write({"example_id": context.example_id, "ids": ids, "scores": list(context.scores)})
                written += 1
    return written


def load_contexts(path: str | Path, base: KnowledgeBase) -> dict[str, RetrievedContext]:
    """All contexts of a results file by example id."""
    return {row["example_id"]: _context(row, base) for row in _context_rows(Path(path))}


def read_queries(path: str | Path, images: str | Path | None = None) -> Iterator[Example]:
    """Id, question and picture of a JSONL file of questions, as far as retrieval needs them.

    Args:
        path: InfoSeek-style lines (`data_id`, `question`, `image_path`).
        images: the folder to which relative image paths refer; by default the file's own.
    """
    folder = Path(images) if images is not None else Path(path).parent
    for number, row in enumerate(read_jsonl(path), start=1):
        key = next((row[name] for name in ID_FIELDS if row.get(name) not in (None, "")), None)
        if key is None:
            raise RecordError(f"{path}: record {number} has no id; looked for {', '.join(ID_FIELDS)}")
        image = next((row[name] for name in IMAGE_FIELDS if row.get(name)), None)
        ref = ImageRef(path=str(folder / str(image))) if image else None
        language = str(row.get("language") or "en")
        yield Example(str(key), str(row.get("question", "")), ref, language=language)


def _context(row: Mapping[str, Any], base: KnowledgeBase) -> RetrievedContext:
    context = RetrievedContext(row["example_id"], tuple(base.by_ids(row["ids"])))
    return replace(context, scores=tuple(float(score) for score in row.get("scores") or ()))


def _context_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(unique(read_jsonl(path), "example_id", path), start=1):
        if not isinstance(row.get("ids"), list):
            raise RecordError(
                f"{path}: record {number}: needs example_id, ids and scores, found {sorted(row)}"
            )
        yield {**row, "example_id": str(row["example_id"]), "ids": [str(item_id) for item_id in row["ids"]]}


def _check_manifest(path: Path, wanted: Mapping[str, Any]) -> None:
    """Keeps results of different settings out of one file."""
    manifest = path.with_suffix(".manifest.json")
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(manifest, wanted)
        return
    found = read_json(manifest) if manifest.is_file() else {}
    changed = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
    if changed:
        raise ValueError(
            f"{path}: made with other settings ({', '.join(changed)} differ); give another --output,"
            " or remove it"
        )


def _batches(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    batch: list[Example] = []
    for example in examples:
        batch.append(example)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
