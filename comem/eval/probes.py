"""What a memory holds: linear probes that read a property of an item off its memory."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from comem.types import KnowledgeItem

if TYPE_CHECKING:
    from comem.memory.bank import MemoryBank

FOLDS = 5
_RIDGE = 1.0  # of the probes, on standardised inputs
_FEWEST = 5  # items of a value, for it to be probed


@dataclass(frozen=True)
class Probe:
    """How well a property is read off memories, in percent of held-out items.

    Attributes:
        property: its name.
        items, values: how many items were probed, and how many values the property has.
        accuracy: of the linear probe.
        usual: of always saying the most frequent value.
        chance: of the same probe with values dealt out at random.
        by_vector: of probes that see one vector of the memory.
    """

    property: str
    items: int
    values: int
    accuracy: float
    usual: float
    chance: float
    by_vector: Sequence[float] = ()


def read_off(item: KnowledgeItem) -> dict[str, str]:
    """What any passage says: the century of its first year, how many digits, the initial of its name."""
    year = re.search(r"\b(1\d|20)\d\d\b", item.text)
    initial = next((letter for letter in item.text if letter.isalpha()), "")
    return {
        **({"date: century": year.group(1)} if year else {}),
        "number of digits": str(sum(each.isdigit() for each in item.text)),
        **({"name: initial": initial.upper()} if initial else {}),
    }


def probe(memories: MemoryBank, properties: Mapping[str, Mapping[str, str]]) -> list[Probe]:
    """A linear probe for each property that enough items have, in at least two values."""
    found = []
    for name, values in properties.items():
        counts = {value: list(values.values()).count(value) for value in set(values.values())}
        kept = [key for key, value in values.items() if counts[value] >= _FEWEST]
        labels = [values[key] for key in kept]
        if len(set(labels)) < 2:
            continue
        vectors = memories.select(kept).embeddings.float().cpu().numpy()  # (n, q, d)
        classes = np.unique(labels, return_inverse=True)[1]
        dealt = np.random.default_rng(0).permutation(classes)
        whole = vectors.reshape(len(kept), -1)
        found.append(
            Probe(
                name,
                len(kept),
                len(set(labels)),
                _probed(whole, classes),
                100 * float(np.bincount(classes).max()) / len(kept),
                _probed(whole, dealt),
                [_probed(vectors[:, n], classes) for n in range(vectors.shape[1])],
            )  # fmt: skip
        )
    return found


def _probed(inputs: np.ndarray, classes: np.ndarray) -> float:
    """Percent of held-out items that ridge regression on one-hot values gets right, in five folds.

    Args:
        inputs: float `(n, d)`.
        classes: int `(n,)`.
    """
    order = np.random.default_rng(0).permutation(len(classes))
    targets = np.eye(classes.max() + 1)[classes]  # (n, c)
    right = 0
    for fold in range(FOLDS):
        test = order[fold::FOLDS]
        train = np.setdiff1d(order, test)
        mean, spread = inputs[train].mean(0), inputs[train].std(0) + 1e-6
        seen, held = (inputs[train] - mean) / spread, (inputs[test] - mean) / spread
        # The dual form: there are fewer items than numbers in a memory.
        kernel = seen @ seen.T / seen.shape[1] + _RIDGE * np.eye(len(train)) / len(train)
        weights = np.linalg.solve(kernel, targets[train] - targets[train].mean(0))
        said = held @ seen.T / seen.shape[1] @ weights + targets[train].mean(0)
        right += int((said.argmax(1) == classes[test]).sum())
    return 100 * right / len(classes)
