"""kill -9 at fifty random moments while appending: the store opens, verifies and goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from comem.bank.format import EncoderInfo
from comem.bank.forms import PLAIN_FORMS
from comem.bank.reader import MemoryStore
from comem.bank.upkeep import verify_store
from comem.bank.writer import create_store

KILLS = 50
# An encoder that costs nothing: the memory of item n is n, everywhere. It goes on behind the last item.
# Each writer is a process of its own, forked from one that has done the imports, which take longest.
NURSERY = """
import os, sys
import numpy as np
from comem.bank import writer as module

def work():
    module.CHECKPOINT = 50  # lookup.bin is often being written
    writer = module.StoreWriter(sys.argv[1])
    print("ready", os.getpid(), flush=True)
    n = len(writer.table)
    while True:
        ids = [f"item {i}" for i in range(n, n + 1 + n % 7)]
        memories = np.stack([np.full((8, 512), i % 251, np.float32) for i in range(n, n + len(ids))])
        writer.append(ids, [i.to_bytes(16, "little") for i in range(n, n + len(ids))], memories)
        n += len(ids)
        os.write(1, f"{n}\\n".encode())  # in one piece, also where output is unbuffered

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        work()
    os.waitpid(child, 0)
    print("dead", 0, flush=True)
"""


def test_killed_fifty_times(tmp_path: Path) -> None:
    folder, moments, before = tmp_path / "store", random.Random(0), 0
    create_store(folder, PLAIN_FORMS["bf16"](8, 512), EncoderInfo("f" * 64), shard_items=300)
    command = [sys.executable, "-c", NURSERY, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
        assert nursery.stdin is not None and nursery.stdout is not None
        for _ in range(KILLS):
            nursery.stdin.write("next\n")
            nursery.stdin.flush()
            word, pid = nursery.stdout.readline().split()
            assert word == "ready"
            finished = before
            for _ in range(moments.randrange(3)):  # so that there is progress on the slowest machine too
                finished = max(finished, int(nursery.stdout.readline()))
            time.sleep(moments.uniform(0, 0.05))
            os.kill(int(pid), signal.SIGKILL)
            while not (line := nursery.stdout.readline()).startswith("dead"):
                finished = max(finished, int(line))
            before = check(folder, finished)
        nursery.stdin.close()
    assert before > KILLS and verify_store(folder).good


def check(folder: Path, finished: int) -> int:
    """Everything that was finished is there, and as it was; the number of items."""
    with MemoryStore(folder) as store:
        count = len(store)
        assert count >= finished
        ids = [f"item {i}" for i in range(max(0, count - 200), count)]
        memories = store.read(ids)
        expected = [int(item_id.split()[1]) % 251 for item_id in ids]
        assert np.array_equal(memories[:, 0, 0], expected) and (memories == memories[:, :1, :1]).all()
        assert f"item {count}" not in store
    return count
