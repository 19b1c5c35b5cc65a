"""Embedding a corpus: pictures once each, texts of all items, taken over by the index, any architecture."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from comem.cli import main
from comem.retrieval.corpus.sources import find_sources, read_corpus
from comem.retrieval.corpus.table import write_knowledge_base
from comem.retrieval.embed import EmbedSettings, embed_corpus
from comem.retrieval.embedder import EmbedderError, load_embedder
from comem.retrieval.evaluate import RawPixels
from comem.retrieval.index import FaissSettings, index_base
from comem.retrieval.knowledge import KnowledgeBase

Corpus = Callable[..., Path]


@pytest.fixture()
def base(corpus: Corpus, tmp_path: Path) -> KnowledgeBase:
    return write_knowledge_base(read_corpus(find_sources([corpus(12, ("en", "de"))])), tmp_path / "kb")


class Counting(RawPixels):
    """Counts the pictures that it embeds, over all instances."""

    embedded = 0

    def embed_images(self, images: list[Image.Image], batch_size: int = 64) -> np.ndarray:
        Counting.embedded += len(images)
        return super().embed_images(images, batch_size)


def test_each_picture_once_and_the_index_takes_them_over(base: KnowledgeBase) -> None:
    Counting.embedded = 0
    settings = EmbedSettings(corpus=base.folder, embedder="raw", shard_size=5, batch_size=2)
    found = embed_corpus(settings, loader=partial(Counting, 4))["images"]
    assert Counting.embedded == len(found.positions) == 12  # 24 items show them
    assert np.load(found.files[0], allow_pickle=False).dtype == np.float16
    metadata = pq.read_table(base.folder / "embeddings" / "metadata" / "metadata_0.parquet").to_pylist()
    assert metadata[0]["caption"] == "en text 0"
    manifest = json.loads((base.folder / "embeddings" / "img_manifest.json").read_text())
    assert manifest["vectors"] == 12 and manifest["settings"]["shard_size"] == 5
    index = index_base(base, Counting(4), FaissSettings(factory="Flat"))
    assert len(index) == 24 and Counting.embedded == 12


def test_a_corpus_that_was_moved_keeps_its_embeddings(base: KnowledgeBase, tmp_path: Path) -> None:
    settings = EmbedSettings(corpus=base.folder, embedder="raw", shard_size=5)
    embed_corpus(settings, loader=partial(Counting, 4))
    Counting.embedded = 0
    (tmp_path / "there").mkdir()
    for name in ("kb", "corpus"):
        (tmp_path / name).rename(tmp_path / "there" / name)
    moved = tmp_path / "there" / "kb"
    assert len(index_base(KnowledgeBase(moved), Counting(4))) == 24


@pytest.mark.slow
def test_the_command_embeds_pictures_and_texts_in_half_precision(
    base: KnowledgeBase, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--embedder", "toy", "--what", "both", "--precision", "bf16", "--shard-size", "10"]
    assert main(["corpus", "embed", str(base.folder), *words]) == 0
    assert "12 ×" in capsys.readouterr().out
    half = np.load(base.folder / "text_embeddings" / "text_emb" / "text_emb_2.npy", allow_pickle=False)
    full = load_embedder("toy").embed_texts(base.texts()[20:])
    assert half.shape == full.shape and float(np.abs(half - full).max()) < 0.03
    assert np.allclose(np.linalg.norm(half.astype(np.float32), axis=1), 1, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["eva02_tiny_patch14_224", "vit_tiny_patch16_224"])
def test_other_architectures_from_a_folder(tmp_path: Path, tower: str) -> None:
    """EVA-CLIP's and SigLIP's towers come from timm; a folder with a config and weights is all it takes."""
    timm = pytest.importorskip("timm")
    import open_clip
    from safetensors.torch import save_file

    assert timm.is_model(tower)
    vision = {"timm_model_name": tower, "timm_model_pretrained": False, "timm_proj": "linear"}
    vision |= {"timm_pool": "avg", "image_size": 224}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text, "custom_text": True}
    if "vit" in tower:
        config["init_logit_bias"] = -10  # as SigLIP
    model = open_clip.CustomTextCLIP(**{key: value for key, value in config.items() if key != "custom_text"})
    mean = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": mean}))
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "open_clip_model.safetensors"
    )
    embedder = load_embedder(str(tmp_path))
    vectors = embedder.embed_images([Image.new("RGB", (50, 40), (i * 60, 90, 0)) for i in range(3)])
    assert vectors.shape == (3, 8) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert embedder.embed_texts(["a", "b"]).shape == (2, 8)
    assert (
        load_embedder(str(tmp_path)).fingerprint == embedder.fingerprint != load_embedder("toy").fingerprint
    )


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(EmbedderError, match="precision 'int4': choose of fp32, bf16, fp16"):
        load_embedder("toy", precision="int4")
