"""Trains as a launcher would start it: `python worker.py PLAN.json`, without a test runner around it.

Importing torch takes most of the time, so it is done once; each process of each run is then a fork.
A process notes the ids of its micro-batches, and any error, in `<config>.<rank>.json`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

from comem.config import load_config
from comem.training import ranks
from comem.training.run import train
from comem.training.settings import TrainSettings
from comem.training.trainer import Trainer


def work(rank: int, run: dict[str, Any], port: int) -> None:
    """One process of one run."""
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": run["processes"]}
    environ = {**run["environ"], **rendezvous, "RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_USE_CPU": 1}
    os.environ.update({name: str(value) for name, value in environ.items()})
    ranks._BUCKET = 10_000  # so that even tiny gradients make several messages
    seen: list[list[list[str]]] = []
    step = Trainer._step

    def noted(self: Trainer, number: int, batches: Any) -> Any:
        seen.append([list(batch.ids) for batch in batches])
        if run["signal"] and rank == 1 and number == run["at"]:
            os.kill(os.getpid(), run["signal"])  # this one process alone
        return step(self, number, batches)

    Trainer._step = noted  # type: ignore[method-assign]
    error = ""
    try:
        train(load_config(TrainSettings, run["config"]))
    except (ValueError, OSError, RuntimeError) as raised:
        error = f"{type(raised).__name__}: {raised}"
    with open(f"{run['config']}.{rank}.json", "w", encoding="utf-8") as file:
        json.dump({"ids": seen, "error": error}, file)


def launch(run: dict[str, Any]) -> None:
    """All processes of one run; returns when they have ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(run["processes"]):
        if child := os.fork():
            children.append(child)
            continue
        try:
            work(rank, run, port)
        finally:
            sys.stderr.flush()
            os._exit(0)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as plan:
        for each in json.load(plan):
            launch(each)
