"""Measures the embedded CLIP and writes its model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from comem.io.files import write_atomic, write_json
from comem.retrieval.embedder import Embedder, load_embedder
from comem.retrieval.evaluate import RawPixels, RecallReport, evaluate_folder, to_json
from comem.toy.draw import draw
from comem.toy.world import World

TOWN_KS = (1, 3, 10)
VIEW_SIZE = 112

CARD = """# The embedded CLIP

A small open_clip model ({parameters:,} parameters: a ResNet of four blocks over {size} x {size} pixels,
a text tower of two layers over a byte-level vocabulary of {vocabulary}), for trying retrieval where
nothing can be downloaded. It knows flags, coats of arms and plain shapes, and nothing else: for
photographs use a published model (`--embedder ViT-L-14:openai`).

    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:comem/toy/weights/clip")

## Training

From scratch, by `bash scripts/toy/train_clip.sh` ({steps} steps, {seconds:.0f} s of one core's time,
seed {seed}; settings and losses in `training_log.json`). Two images of one thing against the others
of its batch, and captions beside it. The images are drawn by rules: banners that depict no real flag
(`tools/toy/clip_images.py`), in families of {siblings} that differ in one thing, and the arms of
towns of the training split (`comem/toy/world.py`). No real flag and no town of the validation or test
split was shown.

## Results
{flags}
### Towns

{count} towns of the test split (arms never shown), asked for by another view; the gallery holds one view
of each.

| embedder | {town_head} |
|---|{town_rule}
{towns}

Weights are stored in half precision (biases, norms and their statistics in full). The stop by processor
time and bfloat16 make a second training similar, not identical; `--max-steps {steps} --seconds 1e9`
repeats the schedule.
"""

FLAGS = """
### Real flags (the target domain, never trained on)

{count} real flags ({distinct} different images); each is asked for by a copy that was cropped to
80-100 % of each side, resized to 50-150 %, or saved as JPEG of quality 50; "combined" is all three
(`comem index evaluate --images DIR --baseline`). Flags with identical pixels count as one image:
{twins}.

| embedder | distortion | {head} |
|---|---|{rule}
{rows}

Missed at 1 by the CLIP, combined (asked → found): {missed}.

Closest pairs of different flags (cosine): {closest}.
"""


def evaluate_towns(embedder: Embedder, count: int = 500, seed: int = 0) -> dict[int, float]:
    """Recall of other views of towns from the test split.

    Args:
        embedder: that is measured.
        count: how many towns; the gallery holds view 0 of each, the queries are view 1.
        seed: of the world.

    Returns:
        {k: recall@k}.
    """
    towns = World(seed, 5 * count).split("test")[:count]
    gallery = embedder.embed_images([draw(town, 0, VIEW_SIZE) for town in towns])  # (n, d)
    queries = embedder.embed_images([draw(town, 1, VIEW_SIZE) for town in towns])  # (n, d)
    scores = queries @ gallery.T
    ranks = (scores > np.diagonal(scores)[:, None]).sum(axis=1)
    return {k: float((ranks < k).mean()) for k in TOWN_KS}


def write_card(folder: Path, flags: Path | None = None) -> dict[str, object]:
    """Measures the model in `folder` and writes README.md and evaluation.json beside it.

    Args:
        folder: of the model.
        flags: a folder of real flags; without it that part of the card is left out.
    """
    from tools.toy.clip_model import SIZE, VOCABULARY

    clip = load_embedder(str(folder))
    embedders: dict[str, Embedder] = {"embedded CLIP": clip}
    embedders |= {f"raw pixels {edge} x {edge}": RawPixels(edge) for edge in (8, 16, 32)}
    towns = {name: evaluate_towns(embedder) for name, embedder in embedders.items()}
    results: dict[str, object] = {"towns": towns}
    part = ""
    if flags is not None:
        reports = {name: evaluate_folder(flags, embedder) for name, embedder in embedders.items()}
        closest = closest_pairs(clip, flags)
        results |= {"flags": {name: to_json(report) for name, report in reports.items()}, "closest": closest}
        part = _flags_part(reports, closest)
    training = json.loads((folder / "training_log.json").read_text(encoding="utf-8"))
    card = CARD.format(
        parameters=sum(p.numel() for p in clip.model.parameters()), size=SIZE, vocabulary=VOCABULARY,
        steps=training["log"][-1]["step"], seconds=training["log"][-1]["seconds"],
        seed=training["settings"]["seed"], siblings=training["settings"]["siblings"], flags=part, count=500,
        town_head=" | ".join(f"recall@{k}" for k in TOWN_KS), town_rule="---|" * len(TOWN_KS),
        towns="\n".join(_row(name, list(recall.values())) for name, recall in towns.items()),
    )  # fmt: skip
    write_atomic(folder / "README.md", card)
    write_json(folder / "evaluation.json", results)
    return results


def closest_pairs(embedder: Embedder, folder: Path, count: int = 12) -> list[tuple[str, str, float]]:
    """The most similar images of a folder that do not have the same pixels, by file name."""
    from comem.io.images import open_image

    paths = sorted(folder.glob("*.png"))
    images = [open_image(path) for path in paths]
    scores = (vectors := embedder.embed_images(images)) @ vectors.T
    rows, columns = np.triu_indices(len(paths), k=1)
    found: list[tuple[str, str, float]] = []
    for i in np.argsort(-scores[rows, columns], kind="stable"):
        a, b = int(rows[i]), int(columns[i])
        if images[a].tobytes() != images[b].tobytes() or images[a].size != images[b].size:
            found.append((paths[a].stem, paths[b].stem, round(float(scores[a, b]), 4)))
        if len(found) == count:
            break
    return found


def _flags_part(reports: dict[str, RecallReport], closest: list[tuple[str, str, float]]) -> str:
    first = next(iter(reports.values()))
    ks = list(next(iter(first.recall.values())))
    rows = [
        _row(f"{name} | {kind}", list(recall.values()))
        for name, report in reports.items()
        for kind, recall in report.recall.items()
    ]
    return FLAGS.format(
        count=first.count, distinct=first.distinct, rows="\n".join(rows),
        twins="; ".join(" = ".join(_stems(group)) for group in first.twins),
        head=" | ".join(f"recall@{k}" for k in ks), rule="---|" * len(ks),
        missed=", ".join(" → ".join(_stems(pair)) for pair in first.misses["combined"]) or "none",
        closest=", ".join(f"{a}/{b} {score:.3f}" for a, b, score in closest),
    )  # fmt: skip


def _stems(names: Sequence[str]) -> list[str]:
    return [Path(name).stem for name in names]


def _row(name: str, values: Sequence[float]) -> str:
    return f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |"
