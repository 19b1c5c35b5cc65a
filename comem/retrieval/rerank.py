"""Image to article to section: articles found by their pictures, sections put in order by a reranker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import numpy as np

from comem.io.images import open_image
from comem.registry import Registry
from comem.retrieval.embedder import load_embedder
from comem.retrieval.exchange import once_each
from comem.retrieval.index import VectorIndex
from comem.retrieval.retriever import Retriever, VectorRetriever
from comem.retrieval.settings import RetrieverSettings
from comem.types import Example, KnowledgeItem, RetrievedContext

_PICTURES = 8  # hits looked at for each article that is wanted: several pictures may find one
logger = logging.getLogger(__name__)

_BATCH = 32


class Reranker(Protocol):
    """Says how well sections answer a question."""

    def scores(self, example: Example, items: Sequence[KnowledgeItem]) -> np.ndarray:
        """Float `(n,)`, higher is better, about -1 to 1 or 0 to 1."""
        ...


class NoReranker:
    """All sections alike: articles stay in the order in which their pictures found them."""

    def scores(self, example: Example, items: Sequence[KnowledgeItem]) -> np.ndarray:
        """Zeros."""
        return np.zeros(len(items))


class ClipReranker:
    """Cosine of the question's and the sections' texts, by the index's own embedder."""

    def __init__(self, embedder: Any) -> None:
        self.embedder = embedder

    def scores(self, example: Example, items: Sequence[KnowledgeItem]) -> np.ndarray:
        """Cosines."""
        question = self.embedder.embed_texts([example.question])  # (1, d)
        scores: np.ndarray = self.embedder.embed_texts([item.text for item in items]) @ question[0]
        return scores


def _loaded(kind: str, name: str) -> Any:
    """A model of transformers with all its weights, from safetensors; or its processor."""
    import transformers

    model = "Model" in kind or kind.startswith("Blip2")
    options = {"use_safetensors": True, "output_loading_info": True} if model else {}
    try:
        found: Any = getattr(transformers, kind).from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"reranker {name!r} cannot be loaded ({error}); give a folder or hub id") from error
    if not model:
        return found
    if missing := sorted(found[1]["missing_keys"]):
        raise ValueError(f"reranker {name!r}: {len(missing)} weights are missing, first {missing[0]}")
    return found[0]


class CrossEncoder:
    """A sequence classifier of transformers that reads question and section together (bge-reranker-v2-m3).

    Args:
        name: hub id or folder, in safetensors.
        device: where it runs.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        self.tokenizer = _loaded("AutoTokenizer", name)
        self.model = _loaded("AutoModelForSequenceClassification", name).eval().to(device)

    def scores(self, example: Example, items: Sequence[KnowledgeItem]) -> np.ndarray:
        """The classifier's probability that a section belongs to the question."""
        import torch

        found = []
        for start in range(0, len(items), _BATCH):
            texts = [item.text for item in items[start : start + _BATCH]]
            inputs = self.tokenizer(
                [example.question] * len(texts), texts, padding=True, truncation=True, return_tensors="pt"
            )
            with torch.inference_mode():
                logits = self.model(**inputs.to(self.model.device)).logits.float()  # (b, 1) or (b, c)
            found.append(logits[:, 0].sigmoid() if logits.shape[1] == 1 else logits.softmax(-1)[:, -1])
        scores: np.ndarray = torch.cat(found).cpu().numpy() if found else np.zeros(0)
        return scores


class QFormerScorer:
    """BLIP-2's Q-Former: the best of its queries over the question's image against a section's text.

    Args:
        name: hub id or folder of an image-text-retrieval model, in safetensors.
        device: where it runs.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        self.processor = _loaded("AutoProcessor", name)
        self.model = _loaded("Blip2ForImageTextRetrieval", name).eval().to(device)

    def scores(self, example: Example, items: Sequence[KnowledgeItem]) -> np.ndarray:
        """Cosines; zeros for a question without an image."""
        import torch

        if example.image is None or not items:
            return np.zeros(len(items))
        inputs = self.processor(
            images=open_image(example.image), text=[item.text for item in items], padding=True,
            truncation=True, return_tensors="pt",
        ).to(self.model.device)  # fmt: skip
        with torch.inference_mode():
            logits = self.model(**inputs, use_image_text_matching_head=False).logits_per_image  # (1, n)
        scores: np.ndarray = logits[0].float().cpu().numpy()
        return scores


def _named(settings: RetrieverSettings, kind: str) -> str:
    name = settings.retriever_options.get("reranker_model")
    if not name:
        raise ValueError(f"reranker {kind} needs a model: retriever_options.reranker_model=NAME")
    return str(name)


def clip(settings: RetrieverSettings) -> Reranker:
    """By the embedder that made the index."""
    index = VectorIndex(settings.index_folder)
    return ClipReranker(load_embedder(settings.embedder or index.manifest["embedder"]["name"]))


#: Rows are functions of `RetrieverSettings`, whose option `reranker_model` names a reranker's model.
RERANKERS: Registry[Callable[[RetrieverSettings], Reranker]] = Registry(
    "reranker",
    {
        "none": lambda settings: NoReranker(),
        "clip": clip,
        "cross_encoder": lambda settings: CrossEncoder(_named(settings, "cross_encoder")),
        "qformer": lambda settings: QFormerScorer(_named(settings, "qformer")),
    },
)


class ArticleRetriever(Retriever):
    """The best sections of the articles whose pictures are nearest.

    Args:
        inner: finds items by image.
        reranker: orders the sections.
        articles: how many articles are looked into.
        weight: share of the article's score; the rest is the reranker's.
    """

    name = "articles"

    def __init__(
        self, inner: VectorRetriever, reranker: Reranker, articles: int = 20, weight: float = 0.5
    ) -> None:
        if articles < 1 or not 0 <= weight <= 1:
            raise ValueError(f"articles={articles}, weight={weight}: give at least 1, and a share of 0 to 1")
        super().__init__(inner.base)
        self.inner, self.reranker, self.articles, self.weight = inner, reranker, articles, weight

    def retrieve(
        self, examples: Sequence[Example], k: int, languages: Collection[str] | None = None
    ) -> dict[str, RetrievedContext]:
        """As `Retriever.retrieve`: pictures, their articles, all sections of these, the best k."""
        found = self.inner.retrieve(examples, min(len(self.base), _PICTURES * self.articles), languages)
        return {each.id: self._sections(each, found[each.id], k) for each in examples}

    def _sections(self, example: Example, hits: RetrievedContext, k: int) -> RetrievedContext:
        pairs: list[tuple[KnowledgeItem, float]] = []
        for item, score in once_each(hits.items, hits.scores)[: self.articles]:
            rows = self.base.rows_of(item.source) if item.source else []
            sections = self.base.items(rows) if rows else [item]
            once = {each.text: each for each in reversed(sections)}  # pictures of one section share its text
            pairs += [(each, score) for each in reversed(once.values())]
        if not pairs:
            return hits
        said = self.reranker.scores(example, [item for item, _ in pairs])  # (n,)
        scores = self.weight * np.asarray([score for _, score in pairs]) + (1 - self.weight) * said
        if not np.isfinite(scores).all():
            logger.warning("question %s: sections whose scores are no numbers are left out", example.id)
        order = [n for n in np.argsort(-scores, kind="stable") if np.isfinite(scores[n])][:k]
        return RetrievedContext(
            example.id, tuple(pairs[n][0] for n in order), tuple(float(scores[n]) for n in order)
        )

    def describe(self) -> dict[str, Any]:
        """The index, and how sections are chosen."""
        return {**self.inner.describe(), "retriever": self.name, "articles": self.articles,
                "weight": self.weight, "reranker": type(self.reranker).__name__}  # fmt: skip


def open_articles(settings: RetrieverSettings) -> Retriever:
    """An index over articles (`comem index import`, or of a `.json` knowledge base), and a reranker.

    `retriever_options`: articles (20), weight (0.5), reranker (clip), reranker_model.
    """
    from comem.retrieval.retriever import open_faiss

    options = settings.retriever_options
    inner = open_faiss(settings)
    assert isinstance(inner, VectorRetriever)
    reranker = RERANKERS[str(options.get("reranker", "clip"))](settings)
    articles, weight = options.get("articles", 20), options.get("weight", 0.5)
    try:
        return ArticleRetriever(inner, reranker, int(articles), float(weight))
    except ValueError as error:
        raise ValueError(
            f"retriever_options.articles={articles}, weight={weight}: give at least 1, and a share of 0 to 1"
        ) from error
