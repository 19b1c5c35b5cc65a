"""Titles and word pieces to link with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

PIECES = [
    "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "(", ")", ",", "-", "of", "the",
    *"abcdefghijklmnopqrstuvwxyz0123456789", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"),
    "##er", "##in", "##land", "##ing", "bridge", "palace", "river", "church", "saint", "lake",
]  # fmt: skip


def write_titles(folder: Path, titles: list[str]) -> Path:
    path = folder / "titles.tsv"
    path.write_text("".join(f"Q{i}\t{title}\n" for i, title in enumerate(titles)), encoding="utf-8")
    return path


def made_up(count: int) -> list[str]:
    random = np.random.default_rng(5)
    parts = [
        "Saint",
        "Lake",
        "River",
        "of",
        "the",
        "Church",
        "Palace",
        "Bridge",
        "(band)",
        "Zürich",
        "Northern",
    ]
    names = [
        "".join(random.choice(list("aeioubcdfgrt"), size=random.integers(3, 8))).title() for _ in range(80)
    ]
    words = np.array(parts + names)
    return [" ".join(random.choice(words, size=random.integers(1, 6))) for _ in range(count)]


def vocabulary(folder: Path) -> Path:
    path = folder / "vocab.txt"
    path.write_text("\n".join(PIECES), encoding="utf-8")
    return path
