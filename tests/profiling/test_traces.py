"""The three hottest paths are the work they are named after."""

from __future__ import annotations

from comem.profiling.bench import Bench
from comem.profiling.traces import hot_paths


def test_hot_paths_do_their_part_and_nothing_else(bench: Bench) -> None:
    seen: list[tuple[int, ...]] = []
    paths = hot_paths(bench, 2, "comem")
    model = bench.model.model.language_model
    model.register_forward_pre_hook(
        lambda module, args, given: seen.append(tuple(given["inputs_embeds"].shape)), with_kwargs=True
    )
    found = {}
    for name, path in paths.items():
        path.ready()
        seen.clear()
        path.call()
        found[name] = list(seen)
    assert found == {
        "prefill": [(1, 16 + 12, 64)],  # two memories and the question
        "decode": [(1, 16, 64), *[(1, 1, 64)] * 7],
        "encode": [(1, 2 * 24, 64)],
    }
