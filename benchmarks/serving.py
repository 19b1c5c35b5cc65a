"""Load on a server of the embedded model: what is lost, how long answers take, whether memory stays flat.

    python benchmarks/serving.py --connections 64 --seconds 600 --output docs/results/serving_load.json
    python benchmarks/serving.py --overhead            # what HTTP adds to the engine's own time

Starts `comem serve` in a process of its own. Of every ten requests seven ask with an image, one does so with
a stream, one searches, one adds an item and deletes it again. Every answer is checked: the items that the
same question finds in this process, text, the end of a stream. The command ends with 1 where a request was
lost, or where the server's resident memory grew by more than 3 % from the second fifth of the time to the
last.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
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


async def load(  # noqa: C901
    server: Server, connections: int, seconds: float, expected: list[list[str]]
) -> dict:
    bodies = [question(n) for n in range(100)]
    took: dict[str, list[float]] = {"ask": [], "stream": [], "search": [], "add and delete": []}
    lost: list[str] = []
    resident: list[tuple[float, float]] = []
    begun = time.monotonic()
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
                    body = answer.json()
                    found = [item["id"] for item in body["comem"]["items"]]
                    assert found == expected[number % 100], "other items than alone"
                    assert body["choices"][0]["message"]["content"], "no text"
                elif kind == "stream":
                    body = {**bodies[number % 100], "stream": True, "temperature": 0}
                    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                        lines = [line async for line in answer.aiter_lines() if line]
                    assert lines[-1] == "data: [DONE]", lines[-1]
                elif kind == "search":
                    body = {"query": TOWNS[number % 100].name}
                    answer = (await http.post("/v1/memories/search", json=body)).raise_for_status()
                    assert len(answer.json()["results"]) == 10, "not all items of a search"
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
                resident.append((time.monotonic() - begun, server.resident()))
                await asyncio.sleep(min(10, seconds / 10))

        start = time.monotonic()
        await asyncio.gather(watch(), *(client(n) for n in range(connections)))
        spent = time.monotonic() - start
    early = [mb for at, mb in resident if 0.2 <= at / seconds < 0.4] or [resident[0][1]]
    late = [mb for at, mb in resident if at / seconds >= 0.8] or [resident[-1][1]]
    growth = statistics.median(late) / statistics.median(early) - 1
    figures = {
        "connections": connections, "seconds": round(spent), "answered": sum(map(len, took.values())),
        "lost": len(lost), "why": dict(Counter(lost).most_common(10)), "milliseconds": {},
        "resident_mb": {
            "early": statistics.median(early), "late": statistics.median(late),
            "most": max(mb for _, mb in resident), "growth": round(growth, 4),
            "series": [(round(at), round(mb)) for at, mb in resident],
        },
        "flat": growth <= 0.03, "load_average": os.getloadavg(),
    }  # fmt: skip
    for kind, times in took.items():
        if len(times) > 1:
            cut = [1000 * each for each in statistics.quantiles(times, n=100)]
            figures["milliseconds"][kind] = {"count": len(times), "p50": cut[49], "p99": cut[98]}
    return figures


def show(figures: dict) -> int:
    """Print them; 1 where a request was lost or memory is not flat."""
    count, spent = figures["answered"], figures["seconds"]
    print(
        f"{figures['connections']} connections, {spent} s: {count:,} answered ({count / spent:.1f} a second)"
    )
    print(f"  lost: {figures['lost']} {figures['why'] or ''}")
    for kind, each in figures["milliseconds"].items():
        print(f"  {kind}: {each['count']:,}, p50 {each['p50']:.0f} ms, p99 {each['p99']:.0f} ms")
    mb = figures["resident_mb"]
    flat = "flat" if figures["flat"] else "NOT FLAT"
    print(f"  resident: {mb['early']:.0f} MB, at the end {mb['late']:.0f} ({mb['growth']:+.1%}: {flat})")
    return int(bool(figures["lost"]) or not figures["flat"])


def overhead(server: Server, folder: Path) -> dict:
    """One client, alternating: the same question to the server, and to a `Memory` in this process.

    The server says how long its engine took, so that what HTTP adds is also measured within each request.
    """
    import comem
    from comem.store.incoming import reference_of
    from comem.store.shapes import Ask

    memory = comem.Memory(folder)
    memory.warm_up()
    asked = [Ask(QUESTION, reference_of(uri(town, 1)), mode="comem", max_tokens=64) for town in TOWNS]
    http, direct, served = httpx.Client(base_url=server.url, timeout=60), [], []
    around = []
    for number in range(110):
        body = question(number, max_tokens=64)
        start = time.perf_counter()
        answer = http.post("/v1/chat/completions", json=body).json()
        served.append(time.perf_counter() - start)
        around.append(served[-1] - answer["comem"]["seconds"])
        start = time.perf_counter()
        (own,) = memory.ask_many([asked[number % 100]])
        direct.append(time.perf_counter() - start)
        assert answer["choices"][0]["message"]["content"] == own.text
    one, two, three = (1000 * statistics.median(times[10:]) for times in (direct, served, around))
    print(f"p50 of 100 questions: {one:.1f} ms in the process, {two:.1f} ms over HTTP: {two - one:+.1f} ms")
    print(f"  within a request, beside its engine: {three:.1f} ms; load {os.getloadavg()[0]:.1f}")
    return {"process": one, "http": two, "beside_the_engine": three, "load_average": os.getloadavg()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the figures go, as JSON")
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import comem

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "memory"
        with comem.Memory(folder) as memory:
            memory.add([{"id": t.id, "text": f"{t.name}: {t.passage()}", "image": uri(t, 0)} for t in TOWNS])
            expected = [[item.id for item in memory.search(image=uri(t, 1), k=3)] for t in TOWNS]
        server = Server(folder)
        try:
            if given.overhead:
                figures, code = overhead(server, folder), 0
            else:
                figures = asyncio.run(load(server, given.connections, given.seconds, expected))
                code = show(figures)
        finally:
            server.process.terminate()
            server.process.wait()
    if given.output is not None:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(figures, indent=1) + "\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
