"""How well an embedder finds a picture again that was cropped, resized, re-compressed, tinted or turned."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from comem.images import open_image
from comem.retrieval.embedder import Embedder, Picture, pixels
from comem.tables import Table

KS = (1, 5, 10)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
Distortion = Callable[[Image.Image, random.Random], Image.Image]


@dataclass(frozen=True)
class RecallReport:
    """Recall of one folder of pictures.

    Attributes:
        count: pictures that were asked for.
        distinct: how many different pictures they are.
        recall: distortion → {k: share of queries with the right picture among the first k}.
        misses: distortion → (query, picture found first instead), by file name.
        twins: groups of files with identical pixels; finding one of a group is finding the other.
    """

    count: int
    distinct: int
    recall: Mapping[str, Mapping[int, float]]
    misses: Mapping[str, tuple[tuple[str, str], ...]]
    twins: tuple[tuple[str, ...], ...]


def crop(picture: Image.Image, rng: random.Random) -> Image.Image:
    """80 % to 100 % of each side, anywhere (so 64 % to 100 % of the area)."""
    w, h = (max(1, round(side * rng.uniform(0.8, 1.0))) for side in picture.size)
    x, y = rng.randint(0, picture.width - w), rng.randint(0, picture.height - h)
    return picture.crop((x, y, x + w, y + h))


def resize(picture: Image.Image, rng: random.Random) -> Image.Image:
    """50 % to 150 % of the size, at the same aspect ratio."""
    scale = rng.uniform(0.5, 1.5)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


def jpeg(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Saved as JPEG of quality 50."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=50)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def colour(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Another light: each channel at 75 % to 125 %, then the saturation at 50 % to 150 %."""
    gains = [rng.uniform(0.75, 1.25) for _ in picture.getbands()]
    shifted = picture.point([min(255, round(level * gain)) for gain in gains for level in range(256)])
    return ImageEnhance.Color(shifted).enhance(rng.uniform(0.5, 1.5))


def rotation(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Turned by up to 15 degrees to either side, whole, on white."""
    angle, white = rng.uniform(-15, 15), (255, 255, 255)
    return picture.rotate(angle, Image.Resampling.BICUBIC, expand=True, fillcolor=white)


def combined(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Cropped, then resized, then saved as JPEG."""
    return jpeg(resize(crop(picture, rng), rng), rng)


DISTORTIONS: Table[Distortion] = Table(
    "distortion",
    {"crop": crop, "resize": resize, "jpeg": jpeg, "combined": combined}
    | {"colour": colour, "rotation": rotation},
)
#: Those that leave the content as it is: what the embedded CLIP was made to stand.
MILD = ("crop", "resize", "jpeg", "combined")


def evaluate_folder(
    folder: str | Path, embedder: Embedder, distortions: Sequence[str] = MILD, seed: int = 0
) -> RecallReport:
    """Embeds every picture of a folder, and asks for each by a distorted copy of it.

    Raises:
        ValueError: for an unknown distortion, or a folder without pictures.
    """
    changes = {name: DISTORTIONS[name] for name in distortions}
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"{folder}: no pictures ({', '.join(IMAGE_SUFFIXES)}) in this folder")
    pictures = [open_image(path) for path in paths]
    groups = _identical(pictures)
    gallery = embedder.embed_images(pictures)  # (n, d)
    recall, misses = {}, {}
    for name, change in changes.items():
        queries = [change(picture, random.Random(f"{seed}/{name}/{i}")) for i, picture in enumerate(pictures)]
        ranks, first = _ranks(embedder.embed_images(queries) @ gallery.T, groups)
        recall[name] = {k: float((ranks < k).mean()) for k in KS}
        wrong = np.flatnonzero(ranks > 0)
        misses[name] = tuple((paths[i].name, paths[first[i]].name) for i in wrong)
    twins = tuple(
        tuple(paths[i].name for i in np.flatnonzero(groups == group))
        for group in np.flatnonzero(np.bincount(groups) > 1)
    )
    return RecallReport(len(paths), int(groups.max()) + 1, recall, misses, twins)


def to_json(report: RecallReport) -> dict[str, object]:
    """The report as plain values."""
    recall = {kind: {f"recall@{k}": value for k, value in row.items()} for kind, row in report.recall.items()}
    misses = {kind: [list(pair) for pair in pairs] for kind, pairs in report.misses.items()}
    twins = [list(group) for group in report.twins]
    return {
        "count": report.count,
        "distinct": report.distinct,
        "recall": recall,
        "misses": misses,
        "identical": twins,
    }


class RawPixels:
    """The baseline without learning: the picture squashed to `edge` × `edge`, centred, as a vector."""

    def __init__(self, edge: int = 16) -> None:
        self.edge, self.name, self.dimension = edge, f"raw {edge} x {edge} pixels", 3 * edge * edge

    @property
    def fingerprint(self) -> str:
        """Of the edge length, the only thing that matters."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:32]

    def embed_images(self, images: Sequence[Picture], batch_size: int = 64) -> np.ndarray:
        """float32 (n, 3 · edge²), each row of length 1."""
        size = (self.edge, self.edge)
        rows = [np.asarray(pixels(image).resize(size, Image.Resampling.BOX), np.float32) for image in images]
        flat = np.stack(rows).reshape(len(rows), -1) - 127.5
        return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
        """Pixels have no words.

        Raises:
            ValueError: always.
        """
        raise ValueError("raw pixels cannot embed texts; use a CLIP")


def _ranks(scores: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each query (row of scores (n, n)): how many *other pictures* come before it, and the first found.

    Copies of one picture count as one place in the ranking.
    """
    best = np.full((len(scores), int(groups.max()) + 1), -np.inf, dtype=np.float32)
    for column, group in enumerate(groups):
        best[:, group] = np.maximum(best[:, group], scores[:, column])
    right = best[np.arange(len(groups)), groups]
    return (best > right[:, None]).sum(axis=1), scores.argmax(axis=1)


def _identical(pictures: Sequence[Image.Image]) -> np.ndarray:
    """int64 (n,): equal numbers for equal pixels."""
    numbers: dict[tuple[object, bytes], int] = {}
    keys = [(picture.size, hashlib.sha256(picture.tobytes()).digest()) for picture in pictures]
    return np.asarray([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
