"""The embedded CLIP: its training, and what it has learnt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from comem.retrieval.embedder import TOY_CLIP, load_embedder
from tools.toy.clip import ClipTraining, train
from tools.toy.clip_card import evaluate_towns
from tools.toy.clip_model import PREPROCESS_CFG


def test_training_writes_a_folder_that_loads(tmp_path: Path) -> None:
    log = train(tmp_path / "clip", ClipTraining(max_steps=2, batch=8, warmup=1))
    assert log[-1]["step"] == 2 and np.isfinite(log[-1]["loss"])
    embedder = load_embedder(str(tmp_path / "clip"))
    assert embedder.dimension == 128 and embedder.fingerprint != load_embedder("toy").fingerprint
    assert json.loads((tmp_path / "clip" / "training_log.json").read_text())["settings"]["batch"] == 8


def test_the_committed_folder_is_small_and_complete() -> None:
    names = {path.name for path in TOY_CLIP.iterdir()}
    assert {"open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json", "README.md"} <= names
    assert {"training_log.json", "evaluation.json"} <= names
    assert sum(path.stat().st_size for path in TOY_CLIP.iterdir()) <= 4 * 2**20
    config = json.loads((TOY_CLIP / "open_clip_config.json").read_text())
    assert config["preprocess_cfg"]["resize_mode"] == PREPROCESS_CFG["resize_mode"]


def test_it_tells_unseen_towns_apart() -> None:
    recall = evaluate_towns(load_embedder("toy"), 100)
    assert recall[1] >= 0.9 and recall[3] >= 0.98


@pytest.mark.parametrize("colour", ["red", "blue", "green"])
def test_it_knows_the_words_for_colours(colour: str) -> None:
    from PIL import Image

    from tools.toy.clip_banners import COLOURS

    embedder = load_embedder("toy")
    others = ["red", "blue", "green", "white"]
    images = embedder.embed_images([Image.new("RGB", (60, 40), COLOURS[name]) for name in others])
    scores = embedder.embed_texts([f"plain of {colour}"]) @ images.T
    assert others[int(scores.argmax())] == colour
