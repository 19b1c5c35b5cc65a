"""How well an embedder finds an image again that was cropped, resized, re-compressed, tinted or turned."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image, ImageEnhance

from comem.io.files import RecordError, read_jsonl, write_json
from comem.io.images import open_image, pixels
from comem.io.run_folder import run_manifest
from comem.registry import Registry
from comem.retrieval.embedder import Embedder, ImageLike, load_embedder
from comem.retrieval.index import VectorIndex
from comem.retrieval.knowledge import KnowledgeBase
from comem.retrieval.settings import RecallSettings
from comem.retrieval.vectors import Vectors

KS = (1, 5, 10)
_CHUNK = 1 << 16  # vectors compared at once


@dataclass(frozen=True)
class Quality:
    """Shares between 0 and 1 over `count` queries.

    Attributes:
        recall: k → share of the right items that are among the first k.
        mrr: mean of 1 / rank of the first right item (0 where there is none).
    """

    count: int
    recall: Mapping[int, float]
    mrr: float


def exact_search(vectors: Vectors, queries: np.ndarray, k: int) -> np.ndarray:
    """int64 `(b, k)`: the true nearest neighbours by inner product, chunk by chunk."""
    best = np.full((len(queries), k), -np.inf, dtype=np.float32)
    places = np.full((len(queries), k), -1, dtype=np.int64)
    start = 0
    for part in vectors.chunks(_CHUNK):
        scores = np.concatenate([best, queries @ part.T], axis=1)
        found = np.concatenate(
            [places, np.broadcast_to(np.arange(start, start + len(part)), (len(queries), len(part)))], axis=1
        )
        top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        best, places = np.take_along_axis(scores, top, axis=1), np.take_along_axis(found, top, axis=1)
        start += len(part)
    return np.take_along_axis(places, np.argsort(-best, axis=1, kind="stable"), axis=1)


def recall_at(found: np.ndarray, exact: np.ndarray, k: int) -> float:
    """Share of the true k nearest `(b, ≥ k)` that are among the first k found `(b, ≥ k)`."""
    hits = [len(np.intersect1d(a[:k], b[:k])) for a, b in zip(found, exact, strict=True)]
    return float(np.mean(hits)) / k if hits else 0.0


def relevance(contexts: str | Path, relevant: str | Path, ks: Sequence[int] = KS) -> Quality:
    """Quality of retrieved items given the relevant ids of each question.

    Args:
        contexts: lines of `comem retrieve` (`example_id`, `ids`).
        relevant: lines of `example_id` and `relevant` (ids); questions without any do not count.
        ks: the k of each recall@k.

    Raises:
        RecordError: a line without these fields, or a question that was not retrieved.
    """
    found = {str(row["example_id"]): row["ids"] for row in _rows(contexts, "ids")}
    recalls: dict[int, list[float]] = {k: [] for k in ks}
    ranks = []
    for row in _rows(relevant, "relevant"):
        name, right = str(row["example_id"]), {str(item) for item in row["relevant"]}
        if not right:
            continue
        if name not in found:
            raise RecordError(f"{contexts}: no results for question {name!r} of {relevant}; retrieve it too")
        ids = [str(item) for item in found[name]]
        ranks.append(next((1 / rank for rank, item in enumerate(ids, start=1) if item in right), 0.0))
        for k in ks:
            recalls[k].append(len(right & set(ids[:k])) / len(right))
    if not ranks:
        raise RecordError(f"{relevant}: no question has relevant ids")
    return Quality(len(ranks), {k: float(np.mean(recalls[k])) for k in ks}, float(np.mean(ranks)))


def _rows(path: str | Path, field: str) -> list[dict[str, Any]]:
    rows = list(read_jsonl(path))
    for number, row in enumerate(rows, start=1):
        if "example_id" not in row or not isinstance(row.get(field), list):
            raise RecordError(f"{path}: record {number} needs example_id and a list {field!r}")
    return rows


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
Distortion = Callable[[Image.Image, random.Random], Image.Image]


@dataclass(frozen=True)
class RecallReport:
    """Recall of one folder of images.

    Attributes:
        count: images that were asked for.
        distinct: how many different images they are.
        recall: distortion → {k: share of queries with the right image among the first k}.
        misses: distortion → (query, image found first instead), by file name.
        twins: groups of files with identical pixels; finding one of a group is finding the other.
    """

    count: int
    distinct: int
    recall: Mapping[str, Mapping[int, float]]
    misses: Mapping[str, tuple[tuple[str, str], ...]]
    twins: tuple[tuple[str, ...], ...]


def crop(image: Image.Image, rng: random.Random) -> Image.Image:
    """80 % to 100 % of each side, anywhere (so 64 % to 100 % of the area)."""
    w, h = (max(1, round(side * rng.uniform(0.8, 1.0))) for side in image.size)
    x, y = rng.randint(0, image.width - w), rng.randint(0, image.height - h)
    return image.crop((x, y, x + w, y + h))


def resize(image: Image.Image, rng: random.Random) -> Image.Image:
    """50 % to 150 % of the size, at the same aspect ratio."""
    scale = rng.uniform(0.5, 1.5)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def jpeg(image: Image.Image, rng: random.Random) -> Image.Image:
    """Saved as JPEG of quality 50."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=50)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def colour(image: Image.Image, rng: random.Random) -> Image.Image:
    """Another light: each channel at 75 % to 125 %, then the saturation at 50 % to 150 %."""
    gains = [rng.uniform(0.75, 1.25) for _ in image.getbands()]
    shifted = image.point([min(255, round(level * gain)) for gain in gains for level in range(256)])
    return ImageEnhance.Color(shifted).enhance(rng.uniform(0.5, 1.5))


def rotation(image: Image.Image, rng: random.Random) -> Image.Image:
    """Turned by up to 15 degrees to either side, whole, on white."""
    angle, white = rng.uniform(-15, 15), (255, 255, 255)
    return image.rotate(angle, Image.Resampling.BICUBIC, expand=True, fillcolor=white)


def combined(image: Image.Image, rng: random.Random) -> Image.Image:
    """Cropped, then resized, then saved as JPEG."""
    return jpeg(resize(crop(image, rng), rng), rng)


DISTORTIONS: Registry[Distortion] = Registry(
    "distortion",
    {"crop": crop, "resize": resize, "jpeg": jpeg, "combined": combined}
    | {"colour": colour, "rotation": rotation},
)
#: Those that leave the content as it is: what the embedded CLIP was made to stand.
MILD = ("crop", "resize", "jpeg", "combined")


def evaluate_folder(
    folder: str | Path, embedder: Embedder, distortions: Sequence[str] = MILD, seed: int = 0
) -> RecallReport:
    """Embeds every image of a folder, and asks for each by a distorted copy of it.

    Raises:
        ValueError: for an unknown distortion, or a folder without images.
    """
    changes = {name: DISTORTIONS[name] for name in distortions}
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"{folder}: no images ({', '.join(IMAGE_SUFFIXES)}) in this folder")
    images = [open_image(path) for path in paths]
    groups = _identical(images)
    gallery = embedder.embed_images(images)  # (n, d)
    recall, misses = {}, {}
    for name, change in changes.items():
        queries = [change(image, random.Random(f"{seed}/{name}/{i}")) for i, image in enumerate(images)]
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
    return {
        "count": report.count, "distinct": report.distinct,
        "recall": {kind: {f"recall@{k}": v for k, v in row.items()} for kind, row in report.recall.items()},
        "misses": {kind: [list(pair) for pair in pairs] for kind, pairs in report.misses.items()},
        "identical": [list(group) for group in report.twins],
    }  # fmt: skip


class RawPixels:
    """The baseline without learning: the image squashed to `edge` × `edge`, centred, as a vector."""

    def __init__(self, edge: int = 16) -> None:
        self.edge, self.name, self.dimension = edge, f"raw {edge} x {edge} pixels", 3 * edge * edge

    @property
    def fingerprint(self) -> str:
        """Of the edge length, the only thing that matters."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:32]

    def embed_images(self, images: Sequence[ImageLike], batch_size: int = 64) -> np.ndarray:
        """float32 (n, 3 · edge²), each row of length 1."""
        size = (self.edge, self.edge)
        rows = [np.asarray(pixels(image).resize(size, Image.Resampling.BOX), np.float32) for image in images]
        flat = np.stack(rows).reshape(len(rows), -1) - 127.5
        return cast(np.ndarray, flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6))

    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
        """Pixels have no words.

        Raises:
            ValueError: always.
        """
        raise ValueError("raw pixels cannot embed texts; use a CLIP")


def _ranks(scores: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each query (row of scores (n, n)): how many *other images* come before it, and the first found.

    Copies of one image count as one place in the ranking.
    """
    best = np.full((len(scores), int(groups.max()) + 1), -np.inf, dtype=np.float32)
    for column, group in enumerate(groups):
        best[:, group] = np.maximum(best[:, group], scores[:, column])
    right = best[np.arange(len(groups)), groups]
    return (best > right[:, None]).sum(axis=1), scores.argmax(axis=1)


def _identical(images: Sequence[Image.Image]) -> np.ndarray:
    """int64 (n,): equal numbers for equal pixels."""
    numbers: dict[tuple[object, bytes], int] = {}
    keys = [(image.size, hashlib.sha256(image.tobytes()).digest()) for image in images]
    return np.asarray([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def evaluate_retrieval(settings: RecallSettings) -> dict[str, RecallReport | float]:
    """Recall of images (a report for each embedder), of an index, or of items that are known (numbers).

    Raises:
        ValueError: no images, no index, or files that do not fit.
    """
    if settings.images is not None:
        embedders: list[Embedder] = [load_embedder(settings.embedder)]
        embedders += [RawPixels(16)] * settings.baseline
        kinds = settings.distortions or tuple(DISTORTIONS)
        seed, folder = settings.seed, settings.images
        reports = {each.name: evaluate_folder(folder, each, kinds, seed) for each in embedders}
        plain = {name: to_json(report) for name, report in reports.items()}
        _write(settings, {"reports": plain}, {"images": str(settings.images)})
        return dict(reports)
    if settings.index is not None:
        numbers = _index_recall(settings.index, settings.queries, settings.seed)
    elif settings.relevant is not None and settings.relevant.suffix == ".csv":
        numbers = _article_recall(settings.contexts or Path(), settings.relevant, settings.knowledge)
    else:
        quality = relevance(settings.contexts or "", settings.relevant or "")
        numbers = {"questions": float(quality.count), "mrr": quality.mrr}
        numbers |= {f"recall@{k}": value for k, value in quality.recall.items()}
    _write(settings, {"numbers": numbers}, {})
    return dict(numbers)


def _article_recall(contexts: Path, questions: Path, knowledge: Path | None) -> dict[str, float]:
    """Recall by the articles' URLs: of EchoSight's results, or of lines of ids whose items name them."""
    from comem.retrieval.exchange import article_recall, read_entries

    if contexts.suffix == ".json":
        found = {name: row["retrieved_entries"] for name, row in read_entries(contexts).items()}
    elif knowledge is None:
        raise ValueError(f"{contexts}: lines of ids; give --knowledge DIR, whose items name their articles")
    else:
        base = KnowledgeBase(knowledge)
        found = {
            str(row["example_id"]): [item.source for item in base.by_ids(row["ids"])]
            for row in _rows(contexts, "ids")
        }
    return article_recall(found, questions)


def _write(settings: RecallSettings, found: dict[str, object], about: dict[str, object]) -> None:
    if settings.output is not None:
        write_json(settings.output, {**found, **run_manifest({"seed": settings.seed, **about})})


def _index_recall(folder: Path, count: int, seed: int) -> dict[str, float]:
    """Recall of an index against exact search, over a sample of its own vectors."""
    index = VectorIndex(folder)
    vectors = index.stored_vectors()
    queries = vectors.sample(count, seed)
    deep = min(max(KS), len(index))
    exact = exact_search(vectors, queries, deep)
    _, found = index.vectors.search(queries, deep)
    numbers = {"vectors": float(len(index)), "queries": float(len(queries))}
    return numbers | {f"recall@{k}": recall_at(found, exact, k) for k in KS if k <= deep}
