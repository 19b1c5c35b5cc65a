"""The results as a table: means over questions and seeds, bootstrap intervals, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.ablation_past.arms import BASE
from benchmarks.ablation_past.measure import CUT, FEWER, WITHOUT
from benchmarks.ablation_past.questions import RETRIEVALS, USUAL
from comem.benchmarks.scoring import Bootstrap

BOOTSTRAP = Bootstrap(samples=4000)


def lines(results: Mapping[str, Any]) -> list[str]:
    """Markdown: what is answered right, what as without items; and the arms' differences from the base."""
    right = [*(f"{name}/{count}" for name in CUT for count in FEWER), *RETRIEVALS]
    columns = [("right", name) for name in right] + [("plain", name) for name in WITHOUT]
    head = [name if kind == "right" else f"{name} as plain" for kind, name in columns]
    found = {run["arm"] for run in results.values() if "arm" in run}  # those of earlier times, too
    arms = sorted(found, key=lambda arm: (arm != BASE, arm))
    rows = ["| | " + " | ".join([*head, "steps", "loss"]) + " |", "|---" * (len(columns) + 3) + "|"]
    for label, runs in [
        ("plain (no items)", _without(results)),
        ("RAG", _fixed(results, "rag")),
        ("shipped, before", _fixed(results, "untrained")),
        *((f"{arm} ({len(_runs(results, arm))} seeds)", _runs(results, arm)) for arm in arms),
    ]:
        if runs:
            cells = [_cell([run[kind].get(name) for run in runs]) for kind, name in columns]
            steps = "–".join(sorted({str(run["steps"]) for run in runs if "steps" in run}))
            loss = [run["loss"] for run in runs if "loss" in run]
            mean = f"{sum(loss) / len(loss):.3f}" if loss else ""
            rows.append("| " + " | ".join([label, *cells, steps, mean]) + " |")
    rows += ["", "Differences, in points, paired by question and seed:", ""]
    rows += ["| | " + " | ".join(head) + " |", "|---" * (len(columns) + 1) + "|"]
    for arm in arms:
        if arm != BASE:
            cells = [_difference(results, arm, BASE, kind, name) for kind, name in columns]
            rows.append("| " + " | ".join([f"{arm} − {BASE}", *cells]) + " |")
    return rows


def _runs(results: Mapping[str, Any], arm: str) -> list[Mapping[str, Any]]:
    """The arm's runs by seed."""
    found = [run for run in results.values() if run.get("arm") == arm]
    return sorted(found, key=lambda run: run["seed"])


def _fixed(results: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return [results[name]] if name in results else []


def _without(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The reader without knowledge: the same answers whatever was retrieved, so told once."""
    if "rag" not in results:
        return []
    right, plain = (results["rag"][kind]["none"] for kind in ("right", "plain"))
    return [{"right": {USUAL: right}, "plain": {WITHOUT[0]: plain}}]


def _cell(marks: Sequence[str | None]) -> str:
    """Mean in percent, its interval over questions, and the seeds' spread."""
    known = [one for one in marks if one]
    if not known:
        return ""
    low, high = BOOTSTRAP.interval(BOOTSTRAP.means(_means(known)))
    shares = [100 * one.count("1") / len(one) for one in known]
    spread = f"; {min(shares):.1f}–{max(shares):.1f}" if len(known) > 1 else ""
    return f"{sum(shares) / len(shares):.1f} [{low:.1f}, {high:.1f}{spread}]"


def _means(marks: Sequence[str]) -> list[float]:
    """Each question's share of seeds that have it."""
    return [sum(mark == "1" for mark in question) / len(marks) for question in zip(*marks, strict=True)]


def _difference(results: Mapping[str, Any], arm: str, base: str, kind: str, name: str) -> str:
    """Arm minus base over the seeds that both have, with its interval; bold where 0 is outside."""
    ours = {run["seed"]: run[kind].get(name) for run in _runs(results, arm)}
    theirs = {run["seed"]: run[kind].get(name) for run in _runs(results, base)}
    seeds = sorted(seed for seed in ours if ours[seed] and theirs.get(seed))
    if not seeds:
        return ""
    pairs = zip(_means([ours[s] for s in seeds]), _means([theirs[s] for s in seeds]), strict=True)
    differences = [round(a - b, 12) for a, b in pairs]
    low, high = BOOTSTRAP.interval(BOOTSTRAP.means(differences))
    text = f"{100 * sum(differences) / len(differences):+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"**{text}**" if low > 0 or high < 0 else text
