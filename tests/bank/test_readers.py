"""Readers beside a writer: what they see is whole and right at every moment, and they never wait."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from comem.bank.format import EncoderInfo
from comem.bank.forms import PLAIN_FORMS
from comem.bank.upkeep import verify_store
from comem.bank.writer import create_store

ITEMS, READERS = 400, 3
WRITER = """
import sys
import numpy as np
from comem.bank import writer as module
module.CHECKPOINT = 50  # lookup.bin is often replaced
with module.StoreWriter(sys.argv[1]) as writer:
    n = 0
    while n < int(sys.argv[2]):
        size = 1 + n % 7
        memories = np.stack([np.full((8, 64), i % 251, np.float32) for i in range(n, n + size)])
        writer.append([f"item {i}" for i in range(n, n + size)], [bytes(16)] * size, memories)
        n += size
"""
READER = """
import random, sys, time
import numpy as np
from comem.bank.reader import MemoryStore
chosen, rounds, deadline = random.Random(int(sys.argv[3])), 0, time.monotonic() + 60
store = MemoryStore(sys.argv[1])
while len(store) < int(sys.argv[2]):
    assert time.monotonic() < deadline, len(store)
    if rounds % 5:
        store.refresh()
    else:
        store = MemoryStore(sys.argv[1])
    count, rounds = len(store), rounds + 1
    numbers = [chosen.randrange(count) for _ in range(min(count, 20))] + [count - 1] * (count > 0)
    memories = store.read([f"item {i}" for i in numbers])
    expected = np.asarray(numbers, np.float32).reshape(-1, 1, 1) % 251
    assert memories.shape == (len(numbers), 8, 64) and (memories == expected).all(), numbers
print(rounds)
"""


def test_many_readers_beside_one_writer(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    create_store(folder, PLAIN_FORMS["bf16"](8, 64), EncoderInfo("f" * 64), shard_items=30)
    words = [str(folder), str(ITEMS)]
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, *words, str(seed)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for seed in range(READERS)
    ]  # fmt: skip
    writer = subprocess.run([sys.executable, "-c", WRITER, *words], capture_output=True, text=True)
    assert writer.returncode == 0, writer.stderr
    for reader in readers:
        shown, errors = reader.communicate(timeout=90)
        assert reader.returncode == 0, errors
        assert int(shown) >= 1
    assert verify_store(folder).good and verify_store(folder).items >= ITEMS
