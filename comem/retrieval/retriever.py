"""From questions to knowledge items: the retrievers, and their results as a file."""

from __future__ import annotations

import logging
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from comem.io.console import Progress, quiet
from comem.io.files import JsonlAppender, RecordError, is_missing, read_json, read_jsonl, unique, write_json
from comem.io.images import ImageError, image_ref, open_image
from comem.io.run_folder import check_same
from comem.retrieval.embedder import Embedder, load_embedder, unusable
from comem.retrieval.index import Hits, VectorIndex
from comem.retrieval.knowledge import KnowledgeBase, KnowledgeBaseError
from comem.retrieval.settings import RETRIEVERS, RetrieverSettings, RetrieveSettings
from comem.types import Example, RetrievedContext

logger = logging.getLogger(__name__)

ID_FIELDS = ("data_id", "example_id", "question_id", "id")
IMAGE_FIELDS = ("image_path", "image")
#: In place of languages: the one of each question.
OWN = ("own",)


class Retriever(ABC):
    """Finds the items for questions. Subclasses need `retrieve` alone.

    Example (in a file for `--plugin`):
        >>> class Newest(Retriever):
        ...     def retrieve(self, examples, k, languages=None):
        ...         items = tuple(self.base.items(range(len(self.base) - k, len(self.base))))
        ...         return {example.id: RetrievedContext(example.id, items) for example in examples}
        >>> RETRIEVERS.register("newest", lambda settings: Newest(KnowledgeBase(settings.index_folder)))

    Args:
        base: where the items are.
        temperature: turns scores into a softmax over the items of a question; None leaves them.
    """

    name = "own"

    def __init__(self, base: KnowledgeBase, temperature: float | None = None) -> None:
        if temperature is not None and temperature <= 0:
            raise ValueError(f"temperature = {temperature}: must be above 0")
        self.base, self.temperature = base, temperature

    @abstractmethod
    def retrieve(
        self, examples: Sequence[Example], k: int, languages: Collection[str] | None = None
    ) -> dict[str, RetrievedContext]:
        """A context for each example, by its id, with at most k items, best first.

        Args:
            examples: the questions.
            k: the most items of a question.
            languages: only items in these languages; `OWN`: in the language of each question.
        """

    def describe(self) -> dict[str, Any]:
        """What decides the results, for the manifest beside them."""
        ids = self.base.manifest["ids_sha256"]
        return {"retriever": self.name, "ids_sha256": ids, "temperature": self.temperature}

    def _context(self, name: str, rows: np.ndarray, scores: np.ndarray) -> RetrievedContext:
        """The items in these rows with their scores, or with weights that add up to 1."""
        if self.temperature is not None and len(scores):
            scores = np.exp((scores - scores.max()) / self.temperature)
            scores = scores / scores.sum()
        return RetrievedContext(name, tuple(self.base.items(rows.tolist())), tuple(scores.tolist()))


class SearchedIndex(Protocol):
    """An index that takes vectors: `VectorIndex`, or `MilvusIndex`."""

    base: KnowledgeBase
    kind: str

    def check(self, embedder: Embedder) -> None:
        """Refuse an embedder that did not make the index's vectors."""
        ...

    def search(self, queries: np.ndarray, k: int, languages: Collection[str] | None = None) -> Hits:
        """The k nearest items of each query, float32 `(b, d)`; `languages` restricts them."""
        ...

    def describe(self) -> dict[str, Any]:
        """What decides the results, for a manifest."""
        ...


class VectorRetriever(Retriever):
    """Image to image, as in the paper: the question's text is not used, unless it is given a weight.

    An example whose image is missing or cannot be read gets no items, and a warning.

    Args:
        index: the opened index.
        embedder: the one that made it.
        temperature: as in `Retriever`.
        image_weight: share of the image in the query, 0 to 1; the rest is the question's text.
    """

    def __init__(
        self, index: SearchedIndex, embedder: Embedder, *, temperature: float | None = None,
        image_weight: float = 1.0,
    ) -> None:  # fmt: skip
        if not 0 <= image_weight <= 1:
            raise ValueError(f"image_weight={image_weight}: give a share of 0 to 1")
        index.check(embedder)
        super().__init__(index.base, temperature)
        self.index, self.embedder, self.name = index, embedder, index.kind
        self.image_weight = image_weight

    def retrieve(
        self, examples: Sequence[Example], k: int, languages: Collection[str] | None = None
    ) -> dict[str, RetrievedContext]:
        """Embeds the images and searches."""
        found = {example.id: RetrievedContext(example.id) for example in examples}
        asked: list[Example] = []
        images: list[Any] = []
        for example in examples:
            try:
                if self.image_weight and example.image is None:
                    raise ImageError("it has no image")
                images.append(open_image(example.image) if self.image_weight and example.image else None)
                asked.append(example)
            except ImageError as error:
                logger.warning("question %s: nothing retrieved: %s", example.id, error)
        vectors = self._vectors(asked, images) if images else np.zeros((0, 1))
        bad = unusable(vectors)
        for n, fault in bad.items():
            logger.warning("question %s: nothing retrieved: %s", asked[n].id, fault)
        asked = [example for n, example in enumerate(asked) if n not in bad]
        vectors = np.delete(vectors, list(bad), axis=0)
        for part, chosen in _by_language(asked, languages):
            hits = self.index.search(vectors[part], k, chosen)
            for n, rows, scores in zip(part, hits.rows, hits.scores, strict=True):
                found[asked[n].id] = self._context(asked[n].id, rows, scores)
        return found

    def _vectors(self, asked: Sequence[Example], images: Sequence[Any]) -> np.ndarray:
        """Float32 `(b, d)` of length 1: images, questions, or both by their weights."""
        share = self.image_weight
        if share == 1:
            return self.embedder.embed_images(images)
        words = self.embedder.embed_texts([example.question for example in asked])
        both = share * self.embedder.embed_images(images) + (1 - share) * words if share else words
        unit: np.ndarray = both / np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-12)
        return unit

    def describe(self) -> dict[str, Any]:
        """Index, embedder, temperature and the query's weights."""
        found = super().describe() | self.index.describe() | {"embedder": self.embedder.fingerprint}
        return found if self.image_weight == 1 else found | {"image_weight": self.image_weight}


def _by_language(
    asked: Sequence[Example], languages: Collection[str] | None
) -> Iterator[tuple[list[int], Collection[str] | None]]:
    """The numbers of the questions that are searched for together, and in which languages."""
    if languages is None or tuple(languages) != OWN:
        yield from [(list(range(len(asked))), languages)] * bool(asked)
        return
    for language in sorted({example.language for example in asked}):
        yield [n for n, example in enumerate(asked) if example.language == language], (language,)


class TextRetriever(Retriever):
    """Question to passage by BM25 (Lucene's): the images are not used. The index is made in memory."""

    name = "bm25"

    def __init__(self, base: KnowledgeBase, temperature: float | None = None) -> None:
        import bm25s

        super().__init__(base, temperature)
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
        self._languages = np.asarray(base.languages)
        self._index = bm25s.BM25()
        self._index.index([_words(text) for text in base.texts()], show_progress=False)

    def retrieve(
        self, examples: Sequence[Example], k: int, languages: Collection[str] | None = None
    ) -> dict[str, RetrievedContext]:
        """Searches for the words of each question; a passage that has none of them is not found."""
        found = {}
        for part, chosen in _by_language(examples, languages):
            allowed = None if chosen is None else np.isin(self._languages, list(chosen))
            for example in (examples[n] for n in part):
                scores = self._index.get_scores(_words(example.question), weight_mask=allowed)  # (n,)
                rows = np.argsort(-scores, kind="stable")[:k]
                rows = rows[scores[rows] > 0]
                found[example.id] = self._context(example.id, rows, scores[rows])
        return found


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


class PrecomputedRetriever(Retriever):
    """Results made before: lines of `comem retrieve` (`example_id`, `ids`, `scores`), or EchoSight's JSON.

    Raises:
        RecordError: for a broken line or a repeated example.
        KnowledgeBaseError: for an id that is not in the knowledge base (when it is asked for).
    """

    name = "precomputed"

    def __init__(self, path: str | Path, base: KnowledgeBase) -> None:
        super().__init__(base)
        self.path = Path(path)
        self._rows = {row["example_id"]: row for row in _result_rows(self.path, base)}

    def retrieve(
        self, examples: Sequence[Example], k: int, languages: Collection[str] | None = None
    ) -> dict[str, RetrievedContext]:
        """Looks the examples up by id; one that is not in the file is an error, not an empty context."""
        from comem.retrieval.exchange import exchanged_id

        names = {each.id: each.id if each.id in self._rows else exchanged_id(each) for each in examples}
        missing = [own for own, name in names.items() if name not in self._rows]
        if missing:
            raise ValueError(
                f"{self.path}: no results for {len(missing)} of {len(examples)} examples (first:"
                f" {missing[0]!r}); run comem retrieve again with the same questions"
            )
        return {
            own: _known_context(self._rows[name], self.base, self.path).top(k) for own, name in names.items()
        }

    def describe(self) -> dict[str, Any]:
        """File and knowledge base."""
        return super().describe() | {"path": str(self.path)}


def open_faiss(settings: RetrieverSettings) -> Retriever:
    """An index folder, with the embedder that made it."""
    index = VectorIndex(settings.index_folder)
    name = settings.embedder or index.manifest["embedder"]["name"]
    return VectorRetriever(
        index, load_embedder(name), temperature=settings.softmax, image_weight=settings.image_weight
    )


def open_milvus(settings: RetrieverSettings) -> Retriever:
    """A Milvus collection, with the embedder that made it."""
    from comem.retrieval.milvus import MilvusIndex

    if settings.milvus is None:
        raise ValueError("the retriever milvus needs --milvus URI (http://…, or a .db file)")
    index = MilvusIndex(settings.index_folder, settings.milvus, settings.collection)
    name = settings.embedder or index.manifest["embedder"]["name"]
    return VectorRetriever(
        index, load_embedder(name), temperature=settings.softmax, image_weight=settings.image_weight
    )


def open_precomputed(settings: RetrieverSettings) -> Retriever:
    """A file of results."""
    if settings.contexts is None:
        raise ValueError("the retriever precomputed needs --contexts FILE (comem retrieve makes one)")
    return PrecomputedRetriever(settings.contexts, KnowledgeBase(settings.index_folder))


def open_bm25(settings: RetrieverSettings) -> Retriever:
    """The passages of an index or corpus folder."""
    return TextRetriever(KnowledgeBase(settings.index_folder), settings.softmax)


def open_retriever(settings: RetrieverSettings) -> Retriever:
    """The retriever that the settings name.

    Example:
        >>> retriever = open_retriever(RetrieverSettings(index=Path("data/toy/index")))
        >>> retriever.retrieve(examples, k=3)["q1"].items

    Raises:
        ValueError: an unknown name, or a setting that it needs is missing.
    """
    name = "precomputed" if settings.contexts else "milvus" if settings.milvus else "faiss"
    found: Retriever = RETRIEVERS[settings.retriever or name](settings)
    return found


def retrieve_all(
    retriever: Retriever, examples: Sequence[Example], k: int, languages: Collection[str] | None = None, *,
    cache: str | Path | None = None, batch_size: int = 64, progress: Progress = quiet,
) -> dict[str, RetrievedContext]:  # fmt: skip
    """Retrieves for all examples, in batches.

    Args:
        retriever: finds the items.
        examples: the questions.
        k: the most items of a question.
        languages: as in `Retriever.retrieve`.
        cache: a file that gets a line for each example as it is retrieved; those in it are taken from there.
        batch_size: questions in one call.
        progress: shows how far it is.

    Raises:
        ValueError: k below 1, or a cache that was made with other settings.
    """
    if k < 1:
        raise ValueError(f"-k {k}: give at least 1 item a question")
    known: dict[str, dict[str, Any]] = {}
    fresh: dict[str, RetrievedContext] = {}
    with ExitStack() as stack:
        out = None
        if cache is not None:
            chosen = None if languages is None else sorted(languages)
            _check_manifest(Path(cache), {**retriever.describe(), "languages": chosen, "k": k})
            out = stack.enter_context(JsonlAppender(cache, durable=False))  # cuts off what a crash cut short
            known = {row["example_id"]: row for row in _context_rows(Path(cache))}
        asked = [example for example in examples if example.id not in known]
        done = len(examples) - len(asked)
        advance = stack.enter_context(progress("retrieving", len(examples), done=done, unit="questions"))
        for start in range(0, len(asked), batch_size):
            batch = asked[start : start + batch_size]
            contexts = retriever.retrieve(batch, k, languages)
            for context in contexts.values():
                ids, scores = [item.id for item in context.items], list(context.scores)
                if out is not None:
                    out.write({"example_id": context.example_id, "ids": ids, "scores": scores})
            fresh |= contexts
            advance(len(batch))
    return {
        each.id: fresh[each.id]
        if each.id in fresh
        else _known_context(known[each.id], retriever.base, Path(str(cache)))
        for each in examples
    }


def retrieve(settings: RetrieveSettings, progress: Progress = quiet) -> dict[str, RetrievedContext]:
    """Retrieves for all questions of a file, in their order; what the output has already is taken from it.

    Example:
        >>> toy = Path("data/toy")
        >>> settings = RetrieveSettings(index=toy / "index", questions=toy / "test.jsonl", k=3)
        >>> for name, context in retrieve(settings).items():
        ...     print(name, [item.id for item in context.items])

    Raises:
        ValueError: no index, a faulty file of questions, or an output made with other settings.
    """
    found = retrieve_all(
        open_retriever(settings), list(read_queries(settings.questions, settings.images)), settings.k,
        settings.languages or None, cache=settings.output, batch_size=settings.batch_size, progress=progress,
    )  # fmt: skip
    if settings.entries is not None:
        from comem.retrieval.exchange import write_entries

        write_entries(settings.entries, found)
    return found


def load_contexts(path: str | Path, base: KnowledgeBase) -> dict[str, RetrievedContext]:
    """All contexts of a results file by example id."""
    path = Path(path)
    return {row["example_id"]: _known_context(row, base, path) for row in _result_rows(path, base)}


def read_queries(path: str | Path, images: str | Path | None = None) -> Iterator[Example]:
    """Id, question and image of a file of questions, as far as retrieval needs them.

    Args:
        path: InfoSeek-style lines (`data_id`, `question`, `image_path`), or the CSV that EchoSight and OMGM
            exchange, whose images are found by the first of their ids.
        images: the folder to which relative image paths refer; by default the file's own.
    """
    folder = Path(images) if images is not None else Path(path).parent
    if Path(path).suffix == ".csv":
        from comem.retrieval.corpus.rows import IMAGE_SUFFIXES
        from comem.retrieval.exchange import read_questions

        for name, row in read_questions(path):
            first = row.get("dataset_image_ids", "").partition("|")[0].strip()
            files = [f"{first}{suffix}" for suffix in IMAGE_SUFFIXES if first]
            there = next((file for file in files if (folder / file).is_file()), files[0] if files else None)
            yield Example(name, row["question"], image_ref(there, folder))
        return
    for number, row in enumerate(read_jsonl(path), start=1):
        key = next((row[name] for name in ID_FIELDS if row.get(name) not in (None, "")), None)
        if key is None:
            raise RecordError(f"{path}: record {number} has no id; looked for {', '.join(ID_FIELDS)}")
        image = next((row[name] for name in IMAGE_FIELDS if not is_missing(row.get(name))), None)
        ref = image_ref(image, folder)
        language = str(row.get("language") or "en")
        yield Example(str(key), str(row.get("question", "")), ref, language=language)


def _known_context(row: Mapping[str, Any], base: KnowledgeBase, path: Path) -> RetrievedContext:
    scores = tuple(float(score) for score in row.get("scores") or ())
    try:
        return RetrievedContext(row["example_id"], tuple(base.by_ids(row["ids"])), scores)
    except KnowledgeBaseError as error:
        raise KnowledgeBaseError(f"{path}: {row['example_id']!r}: {error}") from error


def _result_rows(path: Path, base: KnowledgeBase) -> Iterator[dict[str, Any]]:
    """Lines of `comem retrieve`, or one JSON object of retrieved articles as EchoSight writes it."""
    if path.suffix != ".json":
        yield from _context_rows(path)
        return
    from comem.retrieval.exchange import entry_rows

    yield from entry_rows(path, base)


def _context_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(unique(read_jsonl(path), "example_id", path), start=1):
        if not isinstance(row.get("ids"), list):
            raise RecordError(
                f"{path}: record {number}: needs example_id, ids and scores, found {sorted(row)}"
            )
        try:
            scores = [float(score) for score in row.get("scores") or ()]
        except (TypeError, ValueError, OverflowError) as error:
            raise RecordError(f"{path}: record {number}: a score is no number ({error})") from error
        if not all(map(math.isfinite, scores)):
            raise RecordError(f"{path}: record {number}: a score is no number (NaN or infinity)")
        ids = [str(item_id) for item_id in row["ids"]]
        if scores and len(scores) != len(ids):
            raise RecordError(f"{path}: record {number}: {len(ids)} ids but {len(scores)} scores")
        yield {**row, "example_id": str(row["example_id"]), "ids": ids, "scores": scores}


def _check_manifest(path: Path, wanted: Mapping[str, Any]) -> None:
    """Keeps results of different settings out of one file."""
    manifest = path.with_suffix(".manifest.json")
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(manifest, wanted)
        return
    found = read_json(manifest) if manifest.is_file() else {}
    lead, remedy = "was made with other settings", "give another --output, or remove it"
    check_same(path, found, wanted, lead=lead, remedy=remedy)
