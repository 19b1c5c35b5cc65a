"""Load on a server of the embedded model: what is lost, how long answers take, whether memory stays flat.

    python benchmarks/serving.py --connections 64 --seconds 600
    python benchmarks/serving.py --overhead            # what HTTP adds to the engine's own time

Starts `comem serve` in a process of its own. Of every ten requests seven ask with an image, one does so with
a stream, one searches, one adds an item and deletes it again.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from comem.toy.draw import png
from comem.toy.world import Entity, World

QUESTION = "What are the walls of this town made of?"
TOWNS = World(size=600).split("test")[:100]


def uri(town: Entity, view: int) -> str:
    return "data:image/png;base64," + base64.b64encode(png(town, view)).decode()


def question(number: int, **more: object) -> dict:
    parts = [
        {"type": "image_url", "image_url": {"url": uri(TOWNS[number % 100], 1)}},
        {"type": "text", "text": QUESTION},
    ]
    return {"model": "toy", "messages": [{"role": "user", "content": parts}], **more}


class Server:
    def __init__(self, folder: Path) -> None:
        words = [sys.executable, "-m", "comem", "serve", str(folder), "--port", "0"]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().split()[-1].removesuffix("/v1")

    def resident(self) -> float:
        """MB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1000
        return 0.0


async def load(server: Server, connections: int, seconds: float) -> None:  # noqa: C901
    bodies = [question(n) for n in range(100)]
    took: dict[str, list[float]] = {"ask": [], "stream": [], "search": [], "add and delete": []}
    lost: list[str] = []
    resident = []
    end = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as http:

        async def one(number: int) -> None:
            kind = "ask" if number % 10 < 7 else ("stream", "search", "add and delete")[number % 10 - 7]
            start = time.perf_counter()
            try:
                if kind == "ask":
                    answer = (
                        await http.post("/v1/chat/completions", json=bodies[number % 100])
                    ).raise_for_status()
                    assert len(answer.json()["comem"]["items"]) == 3
                elif kind == "stream":
                    body = {**bodies[number % 100], "stream": True, "temperature": 0}
                    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                        lines = [line async for line in answer.aiter_lines() if line]
                    assert lines[-1] == "data: [DONE]", lines[-1]
                elif kind == "search":
                    body = {"query": TOWNS[number % 100].name}
                    (await http.post("/v1/memories/search", json=body)).raise_for_status()
                else:
                    body = {"text": f"note {number}", "user_id": "load"}
                    added = (await http.post("/v1/memories", json=body)).raise_for_status().json()
                    (await http.delete(f"/v1/memories/{added['results'][0]['id']}")).raise_for_status()
                took[kind].append(time.perf_counter() - start)
            except (httpx.HTTPError, AssertionError) as error:
                lost.append(f"{kind}: {error!r}")

        async def client(number: int) -> None:
            while time.monotonic() < end:
                await one(number)
                number += connections

        async def watch() -> None:
            while time.monotonic() < end:
                resident.append(server.resident())
                await asyncio.sleep(min(10, seconds / 10))

        start = time.monotonic()
        await asyncio.gather(watch(), *(client(n) for n in range(connections)))
        spent = time.monotonic() - start
    count = sum(map(len, took.values()))
    print(f"{connections} connections, {spent:.0f} s: {count:,} answered ({count / spent:.1f} a second)")
    print(f"  lost: {len(lost)} {lost[:3]}")
    for kind, times in took.items():
        if len(times) > 1:
            cut = statistics.quantiles(times, n=100)
            print(f"  {kind}: {len(times):,}, p50 {1000 * cut[49]:.0f} ms, p99 {1000 * cut[98]:.0f} ms")
    warm = resident[len(resident) // 5 :] or resident
    first, last = f"{warm[0]:.0f} MB after a fifth of the time", f"{warm[-1]:.0f} at the end"
    print(f"  resident: {first}, {last}, at most {max(resident):.0f}")


def overhead(server: Server, folder: Path) -> None:
    """One client, alternating: the same question to the server, and to a `Memory` in this process."""
    import comem
    from comem.store.memory import Ask, reference_of

    memory = comem.Memory(folder)
    memory.warm_up()
    asked = [Ask(QUESTION, reference_of(uri(town, 1)), mode="comem", max_tokens=64) for town in TOWNS]
    http, direct, served = httpx.Client(base_url=server.url, timeout=60), [], []
    for number in range(110):
        body = question(number, max_tokens=64)
        start = time.perf_counter()
        answer = http.post("/v1/chat/completions", json=body).json()
        served.append(time.perf_counter() - start)
        start = time.perf_counter()
        (own,) = memory.ask_many([asked[number % 100]])
        direct.append(time.perf_counter() - start)
        assert answer["choices"][0]["message"]["content"] == own.text
    one, two = (1000 * statistics.median(times[10:]) for times in (direct, served))
    print(f"p50 of 100 questions: {one:.1f} ms in the process, {two:.1f} ms over HTTP: {two - one:+.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--overhead", action="store_true")
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import comem

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "memory"
        with comem.Memory(folder) as memory:
            memory.add([{"id": t.id, "text": f"{t.name}: {t.passage()}", "image": uri(t, 0)} for t in TOWNS])
        server = Server(folder)
        try:
            if given.overhead:
                overhead(server, folder)
            else:
                asyncio.run(load(server, given.connections, given.seconds))
        finally:
            server.process.terminate()
            server.process.wait()


if __name__ == "__main__":
    main()
