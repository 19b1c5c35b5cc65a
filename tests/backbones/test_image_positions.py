"""RoPE-DHR ids: the closed form on all grids, what the authors' code counts, and what does not fit."""

from __future__ import annotations

import pytest
import torch

from comem.backbones.image_positions import LayoutError, image_ids, row_positions, tile_ids, tiles

GRIDS = [(x, y) for x in range(1, 13) for y in range(1, 13) if x * y <= 12]


def test_there_are_thirty_five_grids() -> None:
    assert len(GRIDS) == 35


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: f"{grid[0]}x{grid[1]}")
def test_intended_ids_are_the_closed_form(grid: tuple[int, int]) -> None:
    columns, rows = grid
    wanted = [
        16 * ((16 * row + r) // rows) + (16 * column + c) // columns
        for row in range(rows)
        for column in range(columns)
        for r in range(16)
        for c in range(16)
    ]
    assert tile_ids(grid, 16).tolist() == wanted
    whole = image_ids(grid, 16, "dhr")
    assert len(whole) == 256 * tiles(grid)
    assert whole.min() == 0
    assert whole.max() == 255
    assert whole[-256:].tolist() == list(range(256))


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: f"{grid[0]}x{grid[1]}")
def test_released_ids_are_the_authors_loops(grid: tuple[int, int]) -> None:
    """Blocks column by column, and inside one the points of an inclusive linspace, cut off (reference, 4)."""
    columns, rows = grid
    wide, high = 16 / columns - 1e-6, 16 / rows - 1e-6
    wanted = []
    for column in range(columns):
        for row in range(rows):
            down = torch.linspace(row * high, (row + 1) * high, 16, dtype=torch.float64)
            across = torch.linspace(column * wide, (column + 1) * wide, 16, dtype=torch.float64)
            wanted += [16 * int(y) + int(x) for y in down for x in across]
    assert tile_ids(grid, 16, "dhr_released").tolist() == wanted


@pytest.mark.parametrize(
    ("grid", "share"),
    [((2, 2), 47), ((3, 2), 32), ((2, 3), 32), ((3, 3), 33), ((4, 2), 24), ((5, 2), 19), ((4, 3), 16)],
)
def test_so_many_tokens_have_the_intended_id(grid: tuple[int, int], share: int) -> None:
    """The shares that were measured on the authors' code (reference, 4)."""
    same = (tile_ids(grid, 16) == tile_ids(grid, 16, "dhr_released")).float().mean()
    assert abs(100 * float(same) - share) < 1


def test_text_counts_on_behind_images_of_any_size() -> None:
    one = 4  # side 2
    grids = [(2, 1), (1, 1)]
    is_image = torch.tensor([0, 0] + [1] * 3 * one + [0, 0, 0] + [1] * one + [0, 0]).bool()
    found = row_positions(is_image, grids, 2, "dhr")
    assert found.tokens[:2].tolist() == [0, 1]
    assert found.tokens[14:17].tolist() == [6, 7, 8]  # an image costs one tile's ids
    assert found.tokens[17:21].tolist() == [9, 10, 11, 12]
    assert found.tokens[21:].tolist() == [13, 14]
    assert found.jump == 2 * one
    assert found.media.tolist() == found.tokens[is_image].tolist()
    plain = row_positions(is_image, grids, 2, "plain")
    assert plain.tokens.tolist() == list(range(len(is_image)))
    assert plain.jump == 0


def test_placeholders_that_do_not_match_are_an_error() -> None:
    is_image = torch.tensor([0] + [1] * 8 + [0]).bool()
    with pytest.raises(LayoutError, match="8 placeholders for 12 image tokens"):
        row_positions(is_image, [(2, 1)], 2, "dhr")
    split = torch.tensor([1, 1, 0, 1, 1]).bool()
    with pytest.raises(LayoutError, match="do not lie together"):
        row_positions(split, [(1, 1)], 2, "dhr")
    with pytest.raises(LayoutError, match="grid of 0 × 1"):
        row_positions(is_image, [(0, 1)], 2, "dhr")
    with pytest.raises(LayoutError, match="known: dhr"):
        row_positions(is_image, [], 2, "dhrr")  # type: ignore[arg-type]
