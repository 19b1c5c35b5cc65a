"""Image to article to section: worked by hand, and the rerankers against transformers' own models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from comem.registry import UnknownNameError
from comem.retrieval.corpus.table import write_knowledge_base
from comem.retrieval.evaluate import RawPixels
from comem.retrieval.index import index_base
from comem.retrieval.knowledge import KnowledgeBase
from comem.retrieval.rerank import RERANKERS, ArticleRetriever, CrossEncoder, NoReranker
from comem.retrieval.retriever import RETRIEVERS, VectorRetriever
from comem.retrieval.settings import RetrieverSettings
from comem.types import Example, ImageRef, KnowledgeItem


class Words:
    """Scores sections by the words that they share with the question."""

    def scores(self, example: Example, items: Sequence[KnowledgeItem]) -> np.ndarray:
        asked = set(example.question.lower().split())
        return np.asarray([len(asked & set(item.text.lower().split())) / len(asked) for item in items])


@pytest.fixture()
def base(tmp_path: Path, corpus: Any) -> KnowledgeBase:
    """Two articles; the mill's two pictures hang on different sections, one section has none."""
    pictures = corpus(3).parent
    image = [ImageRef(path=str(pictures / f"{n}.png")) for n in range(3)]
    items = [
        KnowledgeItem("mill#image0", "A mill.", image[0], "mill"),
        KnowledgeItem("mill#image1", "It ground rye.", image[1], "mill"),
        KnowledgeItem("mill#section1", "It was built in 1204.", None, "mill"),
        KnowledgeItem("tower#image0", "A tower built in 1380.", image[2], "tower"),
    ]
    return write_knowledge_base(items, tmp_path / "kb")


def found(retriever: Any, question: str, image: ImageRef, k: int = 4) -> list[str]:
    return [item.id for item in retriever.retrieve([Example("q", question, image)], k)["q"].items]


def test_sections_without_pictures_are_found_by_their_articles_pictures(base: KnowledgeBase) -> None:
    index = index_base(base, RawPixels(4))
    inner = VectorRetriever(index, RawPixels(4))
    shown = base.items([1])[0].image
    assert shown is not None
    one = ArticleRetriever(inner, Words(), articles=1, weight=0.0)
    assert found(one, "it was built when", shown, 1) == ["mill#section1"]
    assert found(one, "it was built when", shown) == ["mill#section1", "mill#image1", "mill#image0"]
    two = ArticleRetriever(inner, Words(), articles=2, weight=0.0)
    assert found(two, "a tower", shown, 1) == ["tower#image0"], "the second article is looked into, too"
    by_picture = ArticleRetriever(inner, NoReranker(), articles=2, weight=1.0)
    assert found(by_picture, "a tower", shown, 1) == ["mill#image0"]

    class Odd(Words):
        """No number of the section that would be the best."""

        def scores(self, example: Example, items: Sequence[KnowledgeItem]) -> np.ndarray:
            made = super().scores(example, items)
            return np.where([item.id == "mill#section1" for item in items], np.nan, made)

    odd = ArticleRetriever(inner, Odd(), articles=1, weight=0.0)
    assert found(odd, "it was built when", shown) == ["mill#image1", "mill#image0"]
    with pytest.raises(ValueError, match="articles=0"):
        ArticleRetriever(inner, NoReranker(), articles=0)


def test_a_question_by_image_words_or_both(base: KnowledgeBase) -> None:
    class Embedder(RawPixels):
        def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
            tower = base.items([3])[0].image
            assert tower is not None
            return np.repeat(self.embed_images([tower]), len(texts), axis=0)

    index = index_base(base, RawPixels(4))
    shown = base.items([1])[0].image
    assert shown is not None
    for share, first in (
        (1.0, "mill#image1"),
        (0.9, "mill#image1"),
        (0.1, "tower#image0"),
        (0.0, "tower#image0"),
    ):
        retriever = VectorRetriever(index, Embedder(4), image_weight=share)
        assert found(retriever, "the tower", shown, 1) == [first]
        assert ("image_weight" in retriever.describe()) == (share != 1)
    words = VectorRetriever(index, Embedder(4), image_weight=0.0)
    assert words.retrieve([Example("q", "the tower", None)], 1)["q"].items[0].id == "tower#image0"
    with pytest.raises(ValueError, match="image_weight"):
        VectorRetriever(index, Embedder(4), image_weight=1.5)


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("reranker")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "when", "was", "it", "built", "in", "rye", "1204"]
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=1, initializer_range=1.0,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_cross_encoder_scores_as_transformers_does(cross_encoder: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    items = [KnowledgeItem(str(n), text, None) for n, text in enumerate(["built in 1204", "rye", "it " * 40])]
    scores = CrossEncoder(str(cross_encoder)).scores(Example("q", "when was it built", None), items)
    model = AutoModelForSequenceClassification.from_pretrained(cross_encoder).eval()
    tokenizer = AutoTokenizer.from_pretrained(cross_encoder)
    for item, score in zip(items, scores, strict=True):
        inputs = tokenizer("when was it built", item.text, truncation=True, return_tensors="pt")
        with torch.no_grad():
            assert model(**inputs).logits.sigmoid().item() == pytest.approx(float(score), abs=1e-5)
    assert len(set(scores.round(5))) == 3


def test_the_qformer_scorer_takes_the_best_of_its_queries(
    base: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BatchFeature, Blip2Config, Blip2ForImageTextRetrieval

    from comem.retrieval import rerank

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = Blip2Config(
        vision_config={**sizes, "image_size": 28, "patch_size": 14},
        qformer_config={**sizes, "vocab_size": 40, "encoder_hidden_size": 16, "use_qformer_text_input": True},
        num_query_tokens=3, image_text_hidden_size=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Blip2ForImageTextRetrieval(config).eval()

    def processor(images: Any, text: Sequence[str], **_: Any) -> BatchFeature:
        pixels = torch.from_numpy(np.asarray(images.resize((28, 28)), np.float32)).permute(2, 0, 1) / 255
        ids = torch.tensor([[1 + len(each) % 30, 2, 3] for each in text])
        data = {"pixel_values": pixels[None], "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return BatchFeature(data)

    monkeypatch.setattr(rerank, "_loaded", lambda kind, name: processor if "Processor" in kind else model)
    scorer = rerank.QFormerScorer("tiny")
    shown = base.items([1])[0].image
    items = base.items(range(4))
    scores = scorer.scores(Example("q", "x", shown), items)
    one_by_one = [scorer.scores(Example("q", "x", shown), [item])[0] for item in items]
    assert scores == pytest.approx(one_by_one, abs=1e-5) and len(set(scores.round(4))) > 1
    assert scorer.scores(Example("q", "x", None), items).tolist() == [0.0] * 4


def test_rerankers_that_cannot_be_had(cross_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="cross_encoder"):
        RERANKERS["cross_encode"]
    with pytest.raises(ValueError, match="reranker_model=NAME"):
        RERANKERS["qformer"](RetrieverSettings())
    with pytest.raises(ValueError, match="cannot be loaded"):
        CrossEncoder(str(tmp_path / "nothing"))
    from safetensors.torch import load_file, save_file

    cut = tmp_path / "cut"
    cut.mkdir()
    for file in cross_encoder.iterdir():
        (cut / file.name).write_bytes(file.read_bytes())
    weights = load_file(cut / "model.safetensors")
    save_file({name: t for name, t in weights.items() if "classifier" not in name}, cut / "model.safetensors")
    with pytest.raises(ValueError, match="weights are missing"):
        CrossEncoder(str(cut))


def test_the_rows_open(base: KnowledgeBase, tmp_path: Path) -> None:
    from comem.retrieval.embedder import load_embedder

    index_base(base, load_embedder("toy"))
    settings = RetrieverSettings(index=base.folder, retriever_options={"articles": 2, "reranker": "clip"})
    shown = base.items([1])[0].image
    with pytest.raises(ValueError, match="retriever_options.articles=x, weight"):
        RETRIEVERS["articles"](RetrieverSettings(index=base.folder, retriever_options={"articles": "x"}))
    assert shown is not None
    assert len(found(RETRIEVERS["articles"](settings), "when was it built", shown)) == 4
    keys = RetrieverSettings(index=base.folder, retriever_options={"encoder": "toy"})
    by_memory = RETRIEVERS["memory"](keys)
    item = base.items([1])[0]
    assert found(by_memory, "", shown, 1) == ["mill#image1"], "the same picture alone, without its passage"
    words = RETRIEVERS["memory"](
        RetrieverSettings(index=base.folder, retriever_options={"encoder": "toy", "words": "true"})
    )
    assert found(words, item.text, shown, 1) == ["mill#image1"]
    with pytest.raises(ValueError, match="encoder=DIR"):
        RETRIEVERS["memory"](RetrieverSettings(index=base.folder))
