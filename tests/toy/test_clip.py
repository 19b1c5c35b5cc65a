"""The embedded CLIP: its pictures, its training, and what it has learnt."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from comem.retrieval.embedder import TOY_CLIP, load_embedder
from comem.toy.clip import PREPROCESS_CFG, ClipTraining, pair_source, to_pixels, train
from comem.toy.clip_card import evaluate_towns
from comem.toy.clip_pictures import camera, change, draw_banner, random_banner
from comem.toy.world import World


def test_banners_follow_their_seed_and_their_changes() -> None:
    first, again = (draw_banner(random_banner(random.Random(5))) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    rng, seen = random.Random(0), set()
    for _ in range(200):
        banner = random_banner(rng)
        sibling = change(banner, rng)
        assert sibling != banner
        seen.add(banner.layout)
        assert banner.caption().startswith(banner.layout)
        assert draw_banner(sibling, 48).width == 48
    assert len(seen) == 11


def test_the_camera_gives_what_the_model_takes() -> None:
    rng = random.Random(0)
    picture = draw_banner(random_banner(rng))
    shots = [camera(picture, rng, 64), camera(picture, rng, 64, 0.0)]
    assert all(shot.size == (64, 64) for shot in shots)
    pixels = to_pixels(shots)
    assert pixels.shape == (2, 3, 64, 64)
    preprocess = load_embedder("toy")._preprocess
    assert torch.allclose(preprocess(picture), to_pixels([camera(picture, rng, 64, 0.0)])[0], atol=0.02)


def test_pairs_are_seeded_and_show_no_town_of_the_other_splits() -> None:
    settings = ClipTraining(towns=1.0)
    pairs = pair_source(settings)(40)
    assert [p.caption for p in pairs] == [p.caption for p in pair_source(settings)(40)]
    shown = {p.caption for p in pairs}
    world = World(0, 2000)
    assert shown <= {town.arms.caption() for town in world.split("train")}
    assert not shown & {town.arms.caption() for split in ("val", "test") for town in world.split(split)}  # type: ignore[arg-type]


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

    from comem.toy.clip_pictures import COLOURS

    embedder = load_embedder("toy")
    others = ["red", "blue", "green", "white"]
    pictures = embedder.embed_images([Image.new("RGB", (60, 40), COLOURS[name]) for name in others])
    scores = embedder.embed_texts([f"plain of {colour}"]) @ pictures.T
    assert others[int(scores.argmax())] == colour
