"""The paper's numbers: every table complete, and equal to the averages that the paper itself prints."""

from __future__ import annotations

from collections import Counter
from statistics import fmean

import pytest

from comem.benchmarks import BENCHMARKS
from comem.eval.paper_numbers import ALL, PRINTED, E, Q, printed

#: Table 3's last column, the mean of the eight before it.
AVERAGES = {
    ("LLaVA-v1.5", "baseline"): 15.1, ("LLaVA-NeXT-LLaMA3", "baseline"): 17.1,
    ("mPLUG-Owl3", "baseline"): 21.4, ("Qwen2-VL", "baseline"): 27.8, ("Qwen2.5-VL", "baseline"): 30.8,
    ("LLaVA-v1.5", "rag"): 13.3, ("LLaVA-v1.6", "rag"): 15.2, ("LLaVA-NeXT-LLaMA3", "rag"): 20.8,
    ("InternLM-XC2.5", "rag"): 20.8, ("mPLUG-Owl3", "rag"): 20.7, ("Qwen2-VL", "rag"): 31.1,
    ("Qwen2.5-VL", "rag"): 27.6, ("Wiki-LLaVA", "other"): 27.2, ("EchoSight", "other"): 23.5,
    ("ReflectiVA", "other"): 36.9, ("Qwen2-VL", "comem"): 38.7, ("Qwen2.5-VL", "comem"): 35.4,
}  # fmt: skip


@pytest.mark.parametrize(("model", "mode"), AVERAGES)
def test_table_3_adds_up(model: str, mode: str) -> None:
    values = [row.value for row in PRINTED if (row.table, row.model, row.mode) == ("Table 3", model, mode)]
    assert fmean(values) == pytest.approx(AVERAGES[model, mode], abs=0.12)


def test_table_4_adds_up() -> None:
    """The overall CVQA row is near the mean of the five pairs, which differ in their number of questions."""
    for model in ("Qwen2.5-VL", "Qwen2-VL"):
        for mode in ("baseline", "rag", "comem"):
            rows = [row for row in PRINTED if (row.table, row.model, row.mode) == ("Table 4", model, mode)]
            pairs = [row.value for row in rows if row.metric.startswith("by_pair.")]
            (overall,) = (row.value for row in rows if row.metric == "overall")
            assert len(pairs) == 5 and fmean(pairs) == pytest.approx(overall, abs=1.5)


def test_all_is_the_harmonic_mean_of_the_splits() -> None:
    """But for one printed number, which exceeds both of its splits."""
    for (table, name, model, mode), values in _splits().items():
        if len(values) == 3 and (name, model, mode) != ("infoseek_es", "Qwen2-VL", "comem"):
            mean = 2 / (1 / values[Q] + 1 / values[E])
            assert values[ALL] == pytest.approx(mean, abs=0.35), (table, name, model, mode)


def _splits() -> dict[tuple[str, str, str, str], dict[str, float]]:
    found: dict[tuple[str, str, str, str], dict[str, float]] = {}
    for row in PRINTED:
        if row.benchmark.startswith("infoseek"):
            found.setdefault((row.table, row.benchmark, row.model, row.mode), {})[row.metric] = row.value
    return found


def test_every_number_is_there_once_and_of_a_benchmark_of_ours() -> None:
    once = Counter((row.benchmark, row.metric, row.mode, row.model) for row in PRINTED)
    assert max(once.values()) == 1
    assert {row.benchmark for row in PRINTED} <= set(BENCHMARKS)
    assert len([row for row in PRINTED if row.table == "Table 3"]) == 20 * 8 - (6 + 4 + 2 + 2)
    assert len([row for row in PRINTED if row.table == "Table 4"]) == 15 * 8 + 6


def test_the_appendix_is_there() -> None:
    """Tables 7 to 9: three metrics, nine subjects, four tasks."""
    counts = {
        table: len([row for row in PRINTED if row.table == table])
        for table in ("Table 7", "Table 8", "Table 9")
    }
    assert counts == {"Table 7": 6 * 3, "Table 8": 3 * 9, "Table 9": 3 * 4}
    subjects = [row.value for row in PRINTED if row.table == "Table 8"]
    assert all(round(value * 0.3, 1) == pytest.approx(round(value * 0.3), abs=0.05) for value in subjects), (
        "of 30"
    )


def test_oven_s_sets_are_parts_of_one_benchmark() -> None:
    assert printed("oven_query", "query_score") == printed("oven", "query_score") != []
