"""First, the vision tower learns to see: every token of an image tells field, division and charge."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from comem.toy.lexicon import CHARGES, COLOURS, DIVISIONS
from comem.toy.world import Arms
from tools.toy.images import ImagePool

logger = logging.getLogger(__name__)
_PALETTE = (*COLOURS, "")
CLASSES = (len(_PALETTE), len(DIVISIONS), len(_PALETTE), len(CHARGES), len(_PALETTE))


def traits(arms: Arms) -> list[int]:
    """The classes of field, division, its colour, charge, its colour."""
    colour = _PALETTE.index
    return [
        colour(arms.field),
        DIVISIONS.index(arms.division),
        colour(arms.division_colour),
        CHARGES.index(arms.charge),
        colour(arms.charge_colour),
    ]


class TraitReader(nn.Module):
    """Linear classifiers on each of an image's tokens; thrown away after this stage."""

    def __init__(self, visual: nn.Module, width: int) -> None:
        super().__init__()
        self.visual, self.width = visual, width
        self.heads = nn.Linear(width, sum(CLASSES))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Pixels `(16·n, 1176)` → per trait the logits `(n, 4, classes)`."""
        count = len(pixels) // 16
        tokens = self.visual(pixels, grid_thw=torch.tensor([[1, 4, 4]] * count))
        tokens = getattr(tokens, "pooler_output", tokens).view(count, 4, self.width)
        return self.heads(nn.functional.rms_norm(tokens, (self.width,))).split(CLASSES, dim=-1)


def learn_to_see(
    visual: nn.Module, width: int, pool: ImagePool, steps: int, seed: int, batch: int = 96
) -> None:
    """Train the tower on the pool's images; logs accuracy on them now and then."""
    reader = TraitReader(visual, width)
    targets = torch.tensor([traits(entity.arms) for entity in pool.entities])
    matrices = [p for p in visual.parameters() if p.ndim == 2]
    others = [p for p in reader.parameters() if not any(p is m for m in matrices)]
    optimizers = [
        torch.optim.AdamW(others, lr=2e-3, weight_decay=0.02),
        torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
    ]
    start = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    for step in range(steps):
        rng = random.Random(f"see/{seed}/{step}")
        scale = min(1.0, (step + 1) / 30) * (0.505 + 0.495 * math.cos(math.pi * step / steps))
        for optimizer, lr in zip(optimizers, start, strict=True):
            optimizer.param_groups[0]["lr"] = lr * scale
        rows = [rng.randrange(len(pool.entities) * pool.views) for _ in range(batch)]
        wanted = targets[[row // pool.views for row in rows]]
        logits = reader(torch.from_numpy(pool.pixel_values(rows)))
        losses = [
            nn.functional.cross_entropy(each.flatten(0, 1), wanted[:, i].repeat_interleave(4))
            for i, each in enumerate(logits)
        ]
        loss = torch.stack(losses).sum()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if (step + 1) % 50 == 0:
            logger.info("seeing, step %d: loss %.3f, right %s", step + 1, float(loss), _right(logits, wanted))


@torch.no_grad()
def see(visual: nn.Module, pool: ImagePool, rows: Sequence[int]) -> Tensor:
    """Image tokens `(n, 4·d)`, each image's normalised to length 1."""
    pixels = torch.from_numpy(pool.pixel_values(rows))
    tokens = visual(pixels, grid_thw=torch.tensor([[1, 4, 4]] * len(rows)))
    return nn.functional.normalize(getattr(tokens, "pooler_output", tokens).view(len(rows), -1), dim=-1)


def _right(logits: Sequence[Tensor], wanted: Tensor) -> list[float]:
    return [
        round((each.mean(1).argmax(-1) == wanted[:, i]).float().mean().item(), 3)
        for i, each in enumerate(logits)
    ]
