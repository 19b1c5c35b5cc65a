"""What groups of the field exchange: indexes over Wikipedia articles, and lists of retrieved articles.

- EchoSight: `kb_index.faiss` over image vectors, and `kb_index_ids.pkl`, a pickled list that names the
  article of each vector by its number in the knowledge base. Read without unpickling.
- ReflectiVA: `knn.index`, and `knn.json`, whose `values[i][0]` is the article's URL.
- Results: `{data_id: {"retrieved_entries": [url, …], "retrieval_similarities": […], "reranked_sections":
  […]}}`, each article once.
"""

from __future__ import annotations

import pickletools
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from comem.config import option, take_paths
from comem.io.console import Progress, quiet
from comem.io.files import RecordError, one_writer, read_csv, read_json, whole_file, write_json
from comem.retrieval.corpus.articles import image_rows, read_articles, rows_of
from comem.retrieval.corpus.rules import CorpusItem, CorpusRules, CorpusStats, Places, make_item
from comem.retrieval.corpus.table import write_knowledge_base
from comem.retrieval.faiss_index import INDEX, read_flat
from comem.retrieval.index import LOCK, MANIFEST, VectorIndex, save_index
from comem.retrieval.knowledge import KnowledgeBase
from comem.retrieval.settings import FaissSettings
from comem.types import Example, KnowledgeItem, RetrievedContext

#: Opcodes of a pickled list of ints; any other could run code, and is refused.
_MARKS = {"PROTO", "FRAME", "STOP", "MARK", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "MEMOIZE", "PUT"}
_MARKS |= {"BINPUT", "LONG_BINPUT"}
#: The question types that EchoSight's loader keeps.
TYPES = ("automatic", "templated", "multi_answer", "infoseek")
_INTS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"}


def read_int_list(path: str | Path) -> np.ndarray:
    """A pickled list of ints, int64 `(n,)`, by its opcodes: nothing is unpickled.

    Raises:
        RecordError: anything else is in the file; names it.
    """
    found: list[int] = []
    lists = 0
    try:
        with open(path, "rb") as file:
            for opcode, value, place in pickletools.genops(file):
                if opcode.name in _INTS:
                    found.append(int(str(value)))
                elif opcode.name not in _MARKS:
                    raise RecordError(
                        f"{path}: byte {place} is {opcode.name}, not part of a list of ints; it is not "
                        "unpickled: save the list as JSON"
                    )
                lists += opcode.name in ("EMPTY_LIST", "LIST")
    except (ValueError, EOFError, IndexError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"{path}: no pickled list of ints ({error}); copy it again") from error
    if lists != 1:
        raise RecordError(f"{path}: holds {lists} lists, one of ints is expected; save it as JSON")
    return np.asarray(found, np.int64)


def vector_articles(path: str | Path) -> np.ndarray | list[str]:
    """The article of each vector: numbers (`.pkl`, or a JSON list of ints), or URLs (`knn.json`).

    Raises:
        RecordError: a file of another form.
    """
    if Path(path).suffix == ".pkl":
        return read_int_list(path)
    found = read_json(path)
    values = found.get("values") if isinstance(found, dict) else found
    if isinstance(values, list) and all(type(each) is int for each in values):
        return np.asarray(values, np.int64)
    listed = values if isinstance(values, list) else []
    urls = [each[0] if isinstance(each, list) and each else each for each in listed]
    if not urls or not all(isinstance(url, str) for url in urls):
        raise RecordError(f"{path}: neither a list of article numbers nor knn.json's values[i][0] = URL")
    return urls


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """Another group's FAISS index over the images of a knowledge base, as an index folder.

    Which of an article's pictures a vector stands for is known where the article has as many vectors as
    pictures; elsewhere the item found is the article without a picture, never a guessed one.

    Attributes:
        vectors: kb_index.faiss or knn.index; of inner products.
        ids: kb_index_ids.pkl or knn.json; which article each vector belongs to.
        knowledge: the knowledge base that the ids refer to, a .json of articles by URL.
        output: the index folder.
        embedder: what made the vectors, as `--embedder` of the other commands.
        images: where downloaded images lie under the last part of their URL.
        max_chars: cut passages to this length; 0 leaves them whole.
    """

    vectors: Path = option(metavar="FILE")
    ids: Path = option(metavar="FILE")
    knowledge: Path = option(metavar="FILE")
    output: Path = option(metavar="DIR")
    embedder: str
    images: Path | None = option(None, metavar="DIR")
    max_chars: int = 0

    def __post_init__(self) -> None:
        take_paths(self)


@dataclass(frozen=True)
class _Named:
    """An embedder that is known by its name alone."""

    name: str
    dimension: int
    fingerprint: Any = None

    def embed_images(self, images: Sequence[Any], batch_size: int = 64) -> np.ndarray:
        raise NotImplementedError

    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
        raise NotImplementedError


def import_index(settings: ImportSettings, progress: Progress = quiet) -> VectorIndex:
    """Take over the vectors as they are; the items come from the knowledge base.

    Raises:
        RecordError: ids and vectors disagree on their number, or name articles that are not there.
        CorpusError: no such knowledge base.
        IndexFolderError: FAISS cannot read the vectors, or they are not of inner products.
    """
    for path in (settings.vectors, settings.ids, settings.knowledge):
        if not path.is_file():
            raise RecordError(f"{path}: no such file; check the path")
    articles = vector_articles(settings.ids)
    count, dimension = read_flat(settings.vectors)
    if count != len(articles):
        raise RecordError(f"{settings.ids}: {len(articles):,} ids for {count:,} vectors: of another index")
    places: dict[Any, list[int]] = defaultdict(list)
    for vector, article in enumerate(articles):
        places[article if isinstance(article, str) else int(article)].append(vector)
    rows = np.full(count, -1, np.int64)
    with one_writer(settings.output / LOCK):
        (settings.output / MANIFEST).unlink(missing_ok=True)  # comes back last: without it there is no index
        items = _items(settings, places, rows, progress)
        base = write_knowledge_base(items, settings.output, {"imported": str(settings.vectors)})
        if (missing := int((rows < 0).sum())) > 0:
            first = articles[int(np.flatnonzero(rows < 0)[0])]
            raise RecordError(
                f"{settings.ids}: {missing:,} vectors of articles that {settings.knowledge} lacks (first: "
                f"{first}): of another knowledge base"
            )
        with whole_file(settings.output / INDEX) as partial:
            shutil.copyfile(settings.vectors, partial)
        named: Any = _Named(settings.embedder, dimension)
        extra = {"images": count, "plan": {"factory": "Flat", "refine": False}}
        return save_index(base, rows, dimension, named, FaissSettings(), extra)


def _items(
    settings: ImportSettings, places: Mapping[Any, list[int]], rows: np.ndarray, progress: Progress
) -> Iterator[CorpusItem]:
    """The items of all articles; fills in which of them each vector finds."""
    rules, stats = CorpusRules(text_only=True, max_chars=settings.max_chars, unique="none"), CorpusStats()
    named = settings.images
    store = Places(named or settings.output, named, settings.output)
    row = 0
    with progress("reading articles", None, unit="articles") as advance:
        for number, (url, article) in enumerate(read_articles(settings.knowledge)):
            vectors = places.get(number, places.get(url, ()))
            found = [
                item
                for each in rows_of(url, article)
                if (item := make_item(url, each, rules, stats, store)) is not None
            ]
            images = image_rows(article) if "section_texts" in article else []
            by_image = {item.id: row + place for place, item in enumerate(found)}
            named_images = [by_image.get(f"{url}#image{place}") for place in range(len(images))]
            known = len(vectors) == len(images) and None not in named_images
            if vectors and not known:  # whose picture it is, nobody wrote down
                text = found[0].text if found else url
                found.append(CorpusItem(f"{url}#article", text, "", url))
            for place, vector in enumerate(vectors):
                rows[vector] = named_images[place] if known else row + len(found) - 1
            row += len(found)
            yield from found
            advance(1)


def once_each(items: Sequence[KnowledgeItem], scores: Sequence[float]) -> list[tuple[KnowledgeItem, float]]:
    """The best item of each article, in order: an article is one candidate, whatever picture found it."""
    seen: set[str] = set()
    kept = []
    for item, score in zip(items, scores or [0.0] * len(items), strict=True):
        if (name := item.source or item.id) not in seen:
            seen.add(name)
            kept.append((item, score))
    return kept


def exchanged_id(example: Example) -> str:
    """What results in EchoSight's form call a question: E-VQA's have a number there, others their id."""
    return str(example.meta.get("exchanged_id") or example.id)


def write_entries(path: str | Path, contexts: Mapping[str, RetrievedContext]) -> None:
    """Results as EchoSight takes them (`--resume_from`)."""
    found = {}
    for name, context in contexts.items():
        kept = once_each(context.items, context.scores)
        found[name] = {
            "retrieved_entries": [item.source or item.id for item, _ in kept],
            "retrieval_similarities": [score for _, score in kept],
        }
    write_json(path, found)


def read_entries(path: str | Path) -> dict[str, dict[str, Any]]:
    """Results in EchoSight's form by question, each with a list of URLs, and as many scores if there are any.

    Raises:
        RecordError: not of this form; names file and question.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise RecordError(f"{path}: no results by data_id (one JSON object)")
    for name, row in found.items():
        urls = row.get("retrieved_entries") if isinstance(row, dict) else None
        if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
            raise RecordError(f"{path}: {name!r} has no list retrieved_entries of URLs")
        scores = row.get("retrieval_similarities") or []
        if not isinstance(scores, list) or not all(type(score) in (int, float) for score in scores):
            raise RecordError(f"{path}: {name!r} has retrieval_similarities that are no list of numbers")
        if scores and len(scores) != len(urls):
            raise RecordError(f"{path}: {name!r} has {len(urls)} entries and {len(scores)} similarities")
    return found


def entry_rows(path: str | Path, base: KnowledgeBase) -> Iterator[dict[str, Any]]:
    """Lines of `comem retrieve` for results in EchoSight's form: the articles' rows, best article first.

    Where sections were reranked, these come first, in their order: the item whose passage a section holds.

    Raises:
        RecordError: not of this form; names file and question.
    """
    for name, row in read_entries(path).items():
        urls = row["retrieved_entries"]
        scores = row.get("retrieval_similarities") or [0.0] * len(urls)
        pairs = [
            (item, score)
            for url, score in zip(urls, scores, strict=True)
            for item in base.items(base.rows_of(url))
        ]
        sections = [" ".join(str(each).split()) for each in row.get("reranked_sections") or ()]
        first = [pair for section in sections for pair in pairs if _holds(section, pair[0].text)]
        ordered = {item.id: score for item, score in [*first, *once_each(*_unzip(pairs))]}
        yield {"example_id": str(name), "ids": list(ordered), "scores": list(ordered.values())}


def _unzip(pairs: Sequence[tuple[KnowledgeItem, float]]) -> tuple[list[KnowledgeItem], list[float]]:
    return [item for item, _ in pairs], [score for _, score in pairs]


def _holds(section: str, passage: str) -> bool:
    """Whether a section as it was given to a reader holds a passage, which starts with its titles."""
    body = " ".join(passage.split()).rpartition(": ")[2]
    return bool(body) and body in section


def article_recall(
    contexts: Mapping[str, Sequence[str]], questions: str | Path, ks: Sequence[int] = (1, 5, 10, 20)
) -> dict[str, float]:
    """EchoSight's recall: the share of questions whose article's URL is among the first k articles.

    URLs are compared as they are written: a redirect is another page. An article that was found by several
    pictures counts once. Of questions of two hops, which EchoSight leaves out, none is counted.

    Args:
        contexts: by question, the URLs of what was found, best first, with repetitions.
        questions: EchoSight's CSV with `wikipedia_url`, and `data_id` (else `E-VQA_{row}`).
        ks: of each recall@k.

    Raises:
        RecordError: a column is missing, or a question was not retrieved.
    """
    hits: dict[int, list[bool]] = {k: [] for k in ks}
    for name, row in read_questions(questions):
        if name not in contexts:
            raise RecordError(f"{questions}: question {name!r} was not retrieved; retrieve it too")
        articles = list(dict.fromkeys(contexts[name]))
        for k in ks:
            hits[k].append(row["wikipedia_url"] in articles[:k])
    return {f"recall@{k}": float(np.mean(values)) for k, values in hits.items()}


def read_questions(path: str | Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Id and row of the CSV files that EchoSight and OMGM exchange, InfoSeek's and E-VQA's alike.

    As there, questions of two hops are left out, before the others are numbered (`E-VQA_{number}`).

    Raises:
        RecordError: no such columns, or a row of another width; names file and line.
    """
    number = 0
    for row in read_csv(path, ("question", "answer", "wikipedia_url")):
        if row.get("question_type", TYPES[0]) in TYPES:
            yield row.get("data_id") or f"E-VQA_{number}", row
            number += 1
