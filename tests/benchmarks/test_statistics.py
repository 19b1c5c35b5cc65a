"""Intervals and groups, against plain resampling."""

from __future__ import annotations

import math

import numpy as np
import pytest

from comem.benchmarks.scoring import Bootstrap, harmonic_mean, harmonic_means, scores_of, with_statistics
from comem.types import Report, Score


def scores(*values: float | None, group: str = "") -> list[Score]:
    return [
        Score(f"{group}{i}", value or 0.0, group, answered=value is not None)
        for i, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    "values",
    [[0.0] * 70 + [1.0] * 30, [0.0, 0.3, 0.6, 0.9, 1.0] * 20, [round(i / 97, 6) for i in range(98)]],
    ids=["right or wrong", "soft accuracy", "all different"],
)
def test_intervals_are_those_of_plain_resampling(values: list[float]) -> None:
    low, high = Bootstrap(samples=20_000).interval(Bootstrap(samples=20_000).means(values))
    generator = np.random.default_rng(7)
    plain = generator.choice(values, size=(20_000, len(values))).mean(axis=1)
    assert (low, high) == pytest.approx(tuple(100 * np.percentile(plain, [2.5, 97.5])), abs=0.6)


def test_the_seed_decides() -> None:
    values = [0.0, 1.0, 1.0] * 50
    first, again, other = (Bootstrap(seed=seed).means(values) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_intervals_are_narrower_with_more_questions_and_a_lower_level() -> None:
    def width(count: int, level: float) -> float:
        low, high = Bootstrap(level=level).interval(Bootstrap().means([0.0, 1.0] * count))
        return high - low

    assert width(1000, 95) < width(100, 95) / 2
    assert width(100, 80) < width(100, 95)
    assert width(1000, 95) == pytest.approx(100 * 2 * 1.96 * 0.5 / math.sqrt(2000), rel=0.1)  # normal


@pytest.mark.parametrize("settings", [{"samples": -1}, {"level": 0}, {"level": 100}, {"seed": -1}])
def test_impossible_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="give samples and seed of 0 or more, and a level between 0 and 100"):
        Bootstrap(**settings)


def test_groups_and_languages() -> None:
    given = scores_of(
        {"a": 1.0, "b": 0.0, "d": 1.0}, "abcd", {"a": "x", "b": "x", "c": "y", "d": "y"}.get,
        {"a": "en", "b": "es", "c": "en", "d": "en"}.get,
    )  # fmt: skip
    report = with_statistics(Report("b", {"accuracy": 66.67}, 4, {"accuracy": given}), Bootstrap())
    x, y = report.metrics["by_group"]["x"], report.metrics["by_group"]["y"]
    assert (x["accuracy"], x["answered"], x["total"]) == (50.0, 2, 2)
    assert (y["accuracy"], y["accuracy_missing_wrong"], y["answered"], y["total"]) == (100.0, 50.0, 1, 2)
    assert report.metrics["by_language"]["en"]["accuracy_missing_wrong"] == 66.67
    low, high = report.metrics["confidence"]["accuracy"]
    assert 0 <= low <= 66.67 <= high <= 100
    assert report.metrics["confidence"]["accuracy_missing_wrong"][1] <= high


def test_one_group_is_no_table_and_no_draws_no_interval() -> None:
    report = with_statistics(Report("b", {}, 2, {"accuracy": scores(1, 0)}), Bootstrap(samples=0))
    assert not {"by_group", "by_language", "confidence"} & set(report.metrics)
    bare = Report("b", {"accuracy": 1.0}, 2)
    assert with_statistics(bare, Bootstrap()) is bare


def test_numbers_made_of_groups() -> None:
    given = [*scores(*[1.0, 0.0] * 50, group="seen"), *scores(*[1.0, 0.0, 0.0, 0.0] * 25, group="unseen")]
    report = with_statistics(
        Report("b", {}, 200, {"accuracy": given}),
        Bootstrap(),
        {
            "harmonic": lambda drawn: 2 / (1 / drawn["seen"] + 1 / drawn["unseen"]),
            "absent": lambda drawn: drawn.get("elsewhere"),
        },
    )
    low, high = report.metrics["confidence"]["harmonic"]
    assert low < 33.33 < high and "absent" not in report.metrics["confidence"]


@pytest.mark.parametrize(("missing_wrong", "expected"), [(False, [100.0, 100.0]), (True, [0.0, 100.0])])
def test_intervals_of_numbers_that_count_missing_ones(missing_wrong: bool, expected: list[float]) -> None:
    """A-OKVQA's official number holds missing answers as wrong; its interval must, too."""
    given = scores(1, None, 1, None)
    report = with_statistics(Report("b", {}, 4, {"m": given}), Bootstrap(), missing_wrong=missing_wrong)
    assert report.metrics["confidence"]["m"] == expected
    assert report.metrics["confidence"]["m_missing_wrong"] == [0.0, 100.0]
    assert report.scores["m"] == given


def test_a_zero_counts_as_next_to_nothing_in_harmonic_means() -> None:
    """As officially: neither an error nor left out; among drawn means as among scores."""
    assert harmonic_mean([40.0, 60.0]) == pytest.approx(48.0)
    assert harmonic_mean([0.0, 60.0]) == 2 / (1 / 1e-12 + 1 / 60.0)
    assert harmonic_mean([0.0, 0.0]) == 1e-12
    drawn = harmonic_means([np.array([0.4, 0.0, 0.0]), np.array([0.6, 0.6, 0.0])])
    assert drawn.tolist() == [harmonic_mean(pair) for pair in ((0.4, 0.6), (0.0, 0.6), (0.0, 0.0))]
    assert np.isfinite(drawn).all() and drawn[0] == pytest.approx(0.48) and 0 < drawn[1] < 1e-11
