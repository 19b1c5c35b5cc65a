"""A web server on this machine that behaves as badly as the web does."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from comem.retrieval.corpus.build import build_corpus
from comem.retrieval.corpus.sources import CorpusSettings
from comem.retrieval.download.settings import DownloadSettings


def picture(seed: int = 0, size: int = 40, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (seed * 37 % 256, seed * 91 % 256, 200)).save(buffer, kind)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Answers by path; counts what was asked and remembers when, by whom and how many at a time."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.times: list[float] = []
        self.agents: set[str] = set()
        self.open = self.most_open = 0
        self.lock = threading.Lock()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what is tested."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server, name = self.server, self.path.strip("/")
        with server.lock:
            server.asked[name] += 1
            server.times.append(time.monotonic())
            server.agents.add(self.headers["User-Agent"])
            server.open += 1
            server.most_open = max(server.most_open, server.open)
        try:
            with suppress(BrokenPipeError, ConnectionResetError):
                self.answer(name)
        finally:
            with server.lock:
                server.open -= 1

    def answer(self, name: str) -> None:
        kind, _, number = name.partition("/")
        if kind == "good":
            time.sleep(0.02)
            self.send(200, picture(int(number.partition(".")[0] or 0)))
        elif kind == "status":
            self.send(int(number), b"no")
        elif kind == "busy":  # once, then the picture
            first = self.server.asked[name] == 1
            self.send(429, b"", {"Retry-After": "1"}) if first else self.send(200, picture())
        elif kind == "closed":
            self.send(429, b"", {"Retry-After": "86400"})
        elif kind == "flaky":  # twice, then the picture
            self.send(500, b"") if self.server.asked[name] < 3 else self.send(200, picture())
        elif kind == "circle":
            self.send(302, b"", {"Location": self.server.url(f"circle/{int(number) ^ 1}")})
        elif kind == "to":  # to the address that the path brings, in hex
            self.send(302, b"", {"Location": bytes.fromhex(number.partition(".")[0]).decode()})
        elif kind == "moved":
            self.send(301, b"", {"Location": self.server.url("good/5")})
        elif kind == "html":
            self.send(200, b"<!DOCTYPE html><html>login</html>", {"Content-Type": "image/png"})
        elif kind == "svg":
            self.send(200, b"<svg xmlns='http://www.w3.org/2000/svg'/>", {"Content-Type": "image/svg+xml"})
        elif kind == "bomb":
            self.send(200, picture(size=400))
        elif kind == "empty":
            self.send(200, b"")
        elif kind == "cut":
            body = picture()
            self.send(200, body[: len(body) // 2], {"Content-Length": str(len(body))}, cut=True)
        elif kind == "silent":
            time.sleep(5)
        else:
            self.endless(kind)

    def endless(self, kind: str) -> None:
        """A body without an end, fast, or a byte at a time ("drip")."""
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        self.close_connection = True
        for _ in range(10_000):
            self.wfile.write(b"\0" if kind == "drip" else b"\0" * 65536)
            time.sleep(0.05 if kind == "drip" else 0)

    def send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.close_connection or cut


@pytest.fixture()
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture()
def corpus(server: Server, tmp_path: Path) -> Callable[..., Path]:
    """`corpus("good/1", "status/404", …)` builds a corpus whose pictures are at these paths."""

    def build(*paths: str) -> Path:
        table = tmp_path / "items.csv"
        rows = [f'{i},text {i},"{server.url(path)}"' for i, path in enumerate(paths)]
        table.write_text("\n".join(["id,text,image", *rows]) + "\n")
        build_corpus(CorpusSettings(sources=(str(table),), output=tmp_path / "corpus"))
        return tmp_path / "corpus"

    return build


@pytest.fixture()
def quick() -> Callable[..., DownloadSettings]:
    """Settings that are impatient enough for a test."""

    def settings(**changes: object) -> DownloadSettings:
        defaults: dict[str, object] = {
            "contact": "tester@example.org", "rate": 500.0, "connections": 8, "read_seconds": 1.0,
            "total_seconds": 2.0, "retries": 2, "backoff_seconds": 0.01, "max_bytes": 1 << 20,
            "allow_private": True,  # the server is on this machine
        }  # fmt: skip
        return DownloadSettings(**{**defaults, **changes})  # type: ignore[arg-type]

    return settings
