"""Positions of image tokens: RoPE-DHR, which keeps an image's layout at one tile's ids, and plain ones.

An image of X columns × Y rows of tiles with a thumbnail behind them takes as many ids as one tile has tokens,
however many tiles there are (arXiv 2506.06279; reference/comemo.md 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

#: "dhr" as the paper means it, "dhr_released" as the authors' code counts, "plain" the running index.
PositionScheme = Literal["dhr", "dhr_released", "plain"]
SCHEMES = ("dhr", "dhr_released", "plain")
Grid = tuple[int, int]


class LayoutError(ValueError):
    """Image tokens, tiles and placeholders that do not fit together; the message names what differs."""


def tiles(grid: Grid) -> int:
    """Tiles of an image of `(columns, rows)`, its thumbnail included: one tile has none."""
    columns, rows = grid
    if columns < 1 or rows < 1:
        raise LayoutError(f"a grid of {columns} × {rows} tiles: give at least one column and one row")
    return columns * rows + (columns * rows > 1)


def tile_ids(grid: Grid, side: int, scheme: PositionScheme = "dhr") -> Tensor:
    """Ids of the tokens of an image's tiles, row-major and without the thumbnail, from the image's first id.

    Token (r, c) of the tile in row R and column K has `side·⌊(side·R + r)/Y⌋ + ⌊(side·K + c)/X⌋`. The
    authors' code differs in two ways, kept as "dhr_released": the blocks come column by column, and inside
    a tile the ids are points of an inclusive linspace, cut off.

    Args:
        grid: columns and rows of tiles, X and Y.
        side: tokens along an edge of a tile.
        scheme: "dhr" or "dhr_released".

    Returns:
        `(X·Y·side²,)`.
    """
    columns, rows = grid
    if scheme == "dhr":
        across = torch.arange(side * columns) // columns
        down = torch.arange(side * rows) // rows
        whole = side * down[:, None] + across  # (side·Y, side·X)
        blocks = whole.unflatten(0, (rows, side)).unflatten(2, (columns, side))  # type: ignore[no-untyped-call]
        return blocks.transpose(1, 2).flatten()  # type: ignore[no-any-return]
    across, down = _released(columns, side), _released(rows, side)
    blocks = side * down[None, :, :, None] + across[:, None, None, :]  # (X, Y, side, side)
    return blocks.flatten()


def _released(count: int, side: int) -> Tensor:
    """Ids along one axis `(tiles, side)`."""
    step = side / count - 1e-6
    points = [np.linspace(tile * step, (tile + 1) * step, side) for tile in range(count)]
    return torch.from_numpy(np.stack(points).astype(np.int64))


def image_ids(grid: Grid, side: int, scheme: PositionScheme) -> Tensor:
    """Ids of all tokens of an image, thumbnail last, from its first id."""
    one = side * side
    if scheme == "plain" or tiles(grid) == 1:
        return torch.arange(one * tiles(grid))
    return torch.cat([tile_ids(grid, side, scheme), torch.arange(one)])


@dataclass(frozen=True)
class Positions:
    """Ids of one row.

    Attributes:
        tokens: `(l,)`, of the decoder and of the queries.
        media: `(M,)`, of the image tokens.
        jump: how far the index of the next token is ahead of its id.
    """

    tokens: Tensor
    media: Tensor
    jump: int


def row_positions(
    is_image: Tensor, grids: Sequence[Grid], side: int, scheme: PositionScheme, start: int = 0
) -> Positions:
    """Ids of a row's tokens and of its image tokens.

    Args:
        is_image: `(l,)`, which of its tokens, padding left out, stand for an image token.
        grids: of its images, in order.
        side: tokens along an edge of a tile.
        scheme: how they are counted.
        start: the first id.

    Raises:
        LayoutError: another number of placeholders than the images have tokens, or placeholders of one
        image that
            do not lie together.
    """
    if scheme not in SCHEMES:
        raise LayoutError(f"positions={scheme!r}; known: {', '.join(SCHEMES)}")
    one, places = side * side, is_image.nonzero()[:, 0].cpu()
    wanted = sum(one * tiles(grid) for grid in grids)
    if len(places) != wanted:
        raise LayoutError(
            f"{len(places)} placeholders for {wanted} image tokens ({len(grids)} images): the prompt was "
            "made for "
            "other images, or was cut"
        )
    ids = torch.arange(start, start + len(is_image))
    saved, at = 0, 0  # ids that images so far took less than their tokens
    for grid in grids:
        count = one * tiles(grid)
        first, last = int(places[at]), int(places[at + count - 1])
        if last - first != count - 1:
            raise LayoutError(
                f"the {count} placeholders of an image of {grid[0]} × {grid[1]} tiles do not lie together"
            )
        ids[first : last + 1] = start + first - saved + image_ids(grid, side, scheme)
        if scheme != "plain":
            saved += count - one
        ids[last + 1 :] = torch.arange(start + last + 1 - saved, start + len(is_image) - saved)
        at += count
    return Positions(ids, ids[places], saved)
