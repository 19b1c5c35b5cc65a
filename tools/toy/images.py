"""Images of the towns that the embedded backbone is trained on, drawn once and kept as patches."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from comem.toy.draw import draw
from comem.toy.world import Entity


class ImagePool:
    """Images of the training towns, drawn once and kept as patches; and words for drills.

    Attributes:
        words: every single token that is a word with its leading space.
        patches: `(entities, views, 16, 3, 14·14)` float16, one temporal frame.
    """

    def __init__(
        self, entities: Sequence[Entity], views: int, processor: Any, cache: Path | None = None
    ) -> None:
        self.entities, self.views, self.tokenizer = list(entities), views, processor.tokenizer
        decoded = (self.tokenizer.decode([i]) for i in range(len(self.tokenizer)))
        self.words = [word for word in decoded if word[:1] == " " and word[1:].isalpha()]
        if cache is not None and cache.exists():
            self.patches = np.load(cache, mmap_mode="r")
        else:
            self.patches = self._draw(processor.image_processor)
            if cache is not None:
                cache.parent.mkdir(parents=True, exist_ok=True)
                np.save(cache, self.patches)
        self._alike: dict[tuple[str, str], list[int]] = defaultdict(list)
        for i, entity in enumerate(self.entities):
            for key in _resemblances(entity):
                self._alike[key].append(i)

    def _draw(self, image_processor: Any) -> np.ndarray:
        patches = np.empty((len(self.entities), self.views, 16, 3, 196), dtype=np.float16)
        for i, entity in enumerate(self.entities):
            images = [draw(entity, view) for view in range(self.views)]
            values = image_processor(images=images, return_tensors="np")["pixel_values"]
            patches[i] = values.reshape(self.views, 16, 3, 2, 196)[:, :, :, 0]
        return patches

    def view(self, row: int, rng: random.Random) -> int:
        """One of the images of entity `row`, as a row of all images."""
        return row * self.views + rng.randrange(self.views)

    def pixel_values(self, rows: Sequence[int]) -> np.ndarray:
        """`(16·len(rows), 3·2·14·14)` float32, as the image processor gives them."""
        flat = self.patches.reshape(-1, 16, 3, 196)[list(rows)].astype(np.float32)
        return np.repeat(flat[:, :, :, None], 2, axis=3).reshape(-1, 3 * 2 * 196)

    def draw_entities(self, rng: random.Random, count: int, hard: float) -> list[int]:
        """Distinct entities in random order; with probability `hard` each resembles the first."""
        chosen = [rng.randrange(len(self.entities))]
        while len(chosen) < count:
            key = rng.choice(_resemblances(self.entities[chosen[0]]))
            pool = self._alike[key] if rng.random() < hard else range(len(self.entities))
            candidate = rng.choice(pool)
            if candidate not in chosen or len(pool) <= count:
                chosen.append(candidate if candidate not in chosen else rng.randrange(len(self.entities)))
        rng.shuffle(chosen)
        return chosen


def _resemblances(entity: Entity) -> list[tuple[str, str]]:
    arms = entity.arms
    return [
        ("field+charge", arms.field + arms.charge),
        ("field+division", arms.field + arms.division + arms.division_colour),
        ("charge", arms.charge + arms.charge_colour),
        ("colours", arms.field + arms.charge_colour),
    ]
