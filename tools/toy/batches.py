"""Episodes to tensors, and the loss over their answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tools.toy.episodes import Episode
from tools.toy.images import ImagePool

IGNORE = -100


def collate(episodes: list[Episode], tokenizer: Any, pool: ImagePool) -> dict[str, Any]:
    """Token ids `(b, l)`, M-RoPE positions `(3, b, l)`, labels and pixels; padded on the right.

    Every image is 2 × 2 tokens, so positions need no search (a test compares with the model's own).
    """
    texts = [episode.text for episode in episodes]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    length = max(len(ids) for ids in encoded["input_ids"])
    pad, image = tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids("<|image_pad|>")
    ids = np.full((len(texts), length), pad, dtype=np.int64)
    labels = np.full((len(texts), length), IGNORE, dtype=np.int64)
    kinds = np.full((len(texts), length), -1, dtype=np.int64)
    for row, episode in enumerate(episodes):
        tokens = encoded["input_ids"][row]
        ids[row, : len(tokens)] = tokens
        starts = np.array([start for start, _ in encoded["offset_mapping"][row]])
        for number, (begin, end) in enumerate(episode.spans):
            inside = np.flatnonzero((starts >= begin) & (starts < end))
            labels[row, inside] = ids[row, inside]
            kinds[row, inside] = number
    pixels = pool.pixel_values([image for episode in episodes for image in episode.images])
    return {
        "input_ids": torch.from_numpy(ids),
        "position_ids": torch.from_numpy(positions(ids == image)),
        "labels": torch.from_numpy(labels),
        "spans": torch.from_numpy(kinds),
        "pixel_values": torch.from_numpy(pixels),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * (len(pixels) // 16)),
    }


def positions(is_image: np.ndarray) -> np.ndarray:
    """M-RoPE positions `(3, b, l)` of sequences whose images are 2 × 2 tokens."""
    within = (np.cumsum(is_image, axis=1) - 1) % 4  # 0..3 inside an image
    last = is_image & (within == 3)
    step = np.where(is_image, 2 * last, 1)
    base = np.cumsum(step, axis=1) - step
    row, column = np.where(is_image, within // 2, 0), np.where(is_image, within % 2, 0)
    return np.stack([base, base + row, base + column]).astype(np.int64)


def loss_and_hits(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weighted cross-entropy over the answers; per answer token whether it is right; its (row, span)."""
    images = {k: batch[k] for k in ("pixel_values", "image_grid_thw") if len(batch["pixel_values"])}
    hidden = model.model(
        input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False, **images
    ).last_hidden_state
    rows, columns = torch.nonzero(batch["labels"] != IGNORE, as_tuple=True)
    logits = model.lm_head(hidden[rows, columns - 1]).float()
    targets = batch["labels"][rows, columns]
    where = torch.stack([rows, batch["spans"][rows, columns]])
    _, answer, lengths = torch.unique(where, dim=1, return_inverse=True, return_counts=True)
    weights = lengths[answer].float().rsqrt()  # a long description weighs little more than a short fact
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return (losses * weights).sum() / weights.sum(), logits.argmax(-1) == targets, where


def answers_right(hits: torch.Tensor, where: torch.Tensor, episodes: list[Episode]) -> list[tuple[str, bool]]:
    """(kind, whether every token of the answer is right) of each answer."""
    right: dict[tuple[int, int], bool] = {}
    for hit, row, span in zip(hits.tolist(), *where.tolist(), strict=True):
        right[row, span] = right.get((row, span), True) and hit
    return [(episodes[row].kinds[span], ok) for (row, span), ok in right.items()]
