"""Which examples make up a step: each once in a pass, by the seed, or as the file has them."""

from __future__ import annotations

from comem.training.schedule import Order


def test_a_pass_holds_every_example_once_and_the_next_one_in_another_order() -> None:
    order = Order(count=10, batch_size=4, seed=3)
    passes = [[i for step in range(3 * n, 3 * n + 3) for i in order.indices(step)] for n in (0, 1)]
    assert [sorted(drawn) for drawn in passes] == [list(range(10))] * 2
    assert passes[0] != passes[1] != list(range(10))
    assert [len(order.indices(step)) for step in range(3)] == [4, 4, 2]


def test_without_shuffling_the_file_s_order_is_kept_in_every_pass() -> None:
    order = Order(count=5, batch_size=2, seed=3, shuffle=False)
    assert [order.indices(step) for step in range(4)] == [[0, 1], [2, 3], [4], [0, 1]]
