"""Operations by arithmetic equal those that torch counts in the run itself."""

from __future__ import annotations

import math

import pytest
import torch
from profiling.conftest import SHORT
from torch.utils.flop_counter import FlopCounterMode

from comem.profiling.bench import WAYS, Bench
from comem.profiling.cost import cell_flops, context_tokens
from comem.profiling.shapes import SHAPES, random_model
from comem.profiling.timing import Cell

Shape = tuple[int, ...]


def added_product(total: Shape, a: Shape, b: Shape, out_shape: Shape = (), **_: object) -> int:
    """LoRA's second product, which is added in place; the counter does not know it."""
    return 2 * math.prod(a) * b[-1]


@pytest.mark.parametrize("mode", WAYS)
def test_operations_of_a_run(mode: str) -> None:
    # In half precision LoRA is computed beside the layer, as it is counted, and never folded into it.
    bench = Bench(random_model(SHAPES["tiny"], "cpu", torch.bfloat16), SHORT)
    cell = Cell(mode, 0 if mode == "baseline" else 2, 2, "transformers")
    answer = WAYS[mode](bench, cell)
    if mode == "comem":
        bench.encoder().packs = False
    bench.model.set_attn_implementation("eager")  # the counter sees its products
    answer(2)
    in_place = {torch.ops.aten.addmm_: added_product, torch.ops.aten.baddbmm_: added_product}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        answer(bench.lengths.answer)
    text = bench.model.config.text_config
    lengths = [bench.lengths.question + context_tokens(cell, bench.lengths)]
    lengths += [bench.lengths.item] * (cell.k if mode == "comem" else 0)
    # The counter has the whole square of scores, `cell_flops` the half under the causal mask.
    above = sum(length * (length - 1) / 2 for length in lengths)
    width = text.hidden_size
    masked = cell.batch * 4 * above * width * text.num_hidden_layers
    expected = sum(cell_flops(cell, bench.lengths, bench.model.config).values()) + masked
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-3)


def test_context_tokens(bench: Bench) -> None:
    found = {mode: context_tokens(Cell(mode, 10, 1), bench.lengths) for mode in WAYS}
    assert found == {"baseline": 0, "rag": 240, "comem": 80, "comem-bank": 80}
