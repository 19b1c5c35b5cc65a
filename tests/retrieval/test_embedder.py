"""Embedders: what loads, what is refused, what a fingerprint tells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comem.io.images import ImageError
from comem.retrieval.embedder import CONFIG_NAME, TOY_CLIP, WEIGHTS_NAME, EmbedderError, load_embedder
from comem.types import ImageRef


def test_open_clip_loads_the_folder_like_any_other() -> None:
    import open_clip
    import torch

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{TOY_CLIP}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{TOY_CLIP}")
    picture = Image.new("RGB", (90, 60), (200, 30, 30))
    with torch.inference_mode():
        image = model.eval().encode_image(preprocess(picture)[None], normalize=True)
        text = model.encode_text(tokenizer(["a red field", "красный"]), normalize=True)
    ours = load_embedder("toy").embed_images([picture])
    assert image.shape == (1, ours.shape[1]) and text.shape == (2, ours.shape[1])
    assert np.abs(image.numpy() - ours).max() < 1e-5


def test_vectors_have_length_one_and_do_not_depend_on_the_batch() -> None:
    embedder = load_embedder("toy")
    pictures = [
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (50, 80, 3), np.uint8)) for i in range(5)
    ]
    vectors = embedder.embed_images(pictures)
    assert vectors.dtype == np.float32 and vectors.shape == (5, embedder.dimension)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    assert np.abs(vectors - embedder.embed_images(pictures, batch_size=2)).max() < 1e-5
    assert embedder.embed_images([]).shape == (0, embedder.dimension)
    assert embedder.embed_texts(["a star", ""]).shape == (2, embedder.dimension)


def test_a_bad_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"x\.png"):
        load_embedder("toy").embed_images([ImageRef(path=str(tmp_path / "x.png"))])


def test_the_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    import torch

    first, second = load_embedder("toy"), load_embedder(str(TOY_CLIP))
    assert first.fingerprint == second.fingerprint
    third = load_embedder("toy")
    with torch.no_grad():
        third.model.visual.conv1.weight[0, 0, 0, 0] += 0.5
    assert third.fingerprint != first.fingerprint


def test_incomplete_folders_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(TOY_CLIP, folder)
    (folder / WEIGHTS_NAME).unlink()  # open_clip itself would keep random weights
    with pytest.raises(EmbedderError, match=f"{WEIGHTS_NAME} missing"):
        load_embedder(str(folder))
    shutil.copy(TOY_CLIP / WEIGHTS_NAME, folder)
    (folder / CONFIG_NAME).write_text(json.dumps({"embed_dim": 1}))
    with pytest.raises(EmbedderError, match="no model_cfg"):
        load_embedder(str(folder))
    (folder / CONFIG_NAME).write_text("{")
    with pytest.raises(EmbedderError, match="not JSON"):
        load_embedder(str(folder))


def test_cut_weights_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(TOY_CLIP, folder)
    path = folder / WEIGHTS_NAME
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(EmbedderError, match="open_clip cannot load"):
        load_embedder(str(folder))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-L-41:openai", "did you mean"),
        ("ViT-L-14", "unknown pretrained tag ''.*openai"),
        ("ViT-L-14:opanai", "unknown pretrained tag 'opanai'"),
        ("local-dir:/no/such/folder", "not an open_clip model folder"),
    ],
)
def test_unknown_names_get_an_offer(name: str, message: str) -> None:
    with pytest.raises(EmbedderError, match=message):
        load_embedder(name)
