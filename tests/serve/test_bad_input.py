"""What may come in: each a clear error in OpenAI's shape, and nothing is lost by it.

Elsewhere: a request cut in the middle, wrong keys, JSON of 50 levels, private addresses, ids with slashes
(test_server.py); folders of another version or encoder (tests/store).
"""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path

import pytest

import comem

pytest.importorskip("fastapi")

# ruff: noqa: E402
from serve.test_server import TRIP, Running, chat, with_image

from comem.io.images import ImageError
from comem.serve.app import build_app
from comem.serve.fetching import fetch_image
from comem.serve.settings import Keys, ServeSettings
from comem.toy.draw import png

FILES = 10_000 if os.environ.get("COMEM_TEST_LARGE") else 30


def refused(answer, status: int) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return str(error["message"])


def test_a_folder_of_many_files_of_which_a_third_is_no_picture(tmp_path: Path, towns) -> None:
    """Ten thousand with COMEM_TEST_LARGE=1."""
    folder, pictures = tmp_path / "trip", [png(town, 0) for town in towns]
    kinds = {0: (".png", None), 1: (".png", None), 2: (".jpg", b"\xff\xd8 no picture")}
    for n in range(FILES):
        suffix, data = kinds[n % 3]
        (folder / str(n % 7)).mkdir(parents=True, exist_ok=True)
        (folder / str(n % 7) / f"{n}{suffix}").write_bytes(data or pictures[n % len(pictures)])
    with comem.Memory(tmp_path / "m", "toy", "none", "toy") as memory:
        added = memory.add(folder)
        assert len(added.ids) == len(memory) == FILES - FILES // 3 and len(added.skipped) == FILES // 3
        assert all("not an image" in reason for reason in added.skipped) and memory.check() == []


def test_a_picture_of_200_mb(remembered, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with open(path, "wb") as file:
        file.write(b"\x89PNG")
        file.truncate(200_000_000)  # takes no room, and none in memory when it is refused unread
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="200,000,000 bytes, at most"):
        remembered.add(image=path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    server = Running(build_app(remembered, ServeSettings(TRIP), Keys({})))
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        head = "POST /v1/memories HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        client.sendall(f"{head}content-length: 200000000\r\n\r\n".encode())
        said = "".join(iter(lambda: client.recv(65536).decode(), ""))  # until it is closed
    assert said.startswith("HTTP/1.1 413") and "50,000,000 bytes" in said, "before the body is sent"
    assert len(remembered) == 6
    server.close()


def test_a_thousand_connections(remembered, towns) -> None:
    """All are answered; those beyond the limit by a 503, and whoever sends nothing holds up nobody."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2_300 if hard == resource.RLIM_INFINITY else min(hard, 2_300)
    if wanted < 2_300:
        pytest.skip(f"only {hard} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    server = Running(build_app(remembered, ServeSettings(TRIP, connections=50), Keys({})))
    clients = []
    try:
        for n in range(1_000):
            clients.append(socket.create_connection(("127.0.0.1", server.port), timeout=60))
            if n >= 500:  # the first half says nothing
                clients[-1].sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert all(client.recv(12) in (b"HTTP/1.1 200", b"HTTP/1.1 503") for client in clients[500:])
        half = "POST /v1/memories HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
        for client in clients[:50]:
            client.sendall(half.encode())  # fifty requests that do not end
        clients[50].sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
        said = b""
        while b'"code"' not in said:
            said += clients[50].recv(65536)
        assert said.startswith(b"HTTP/1.1 503") and b"overloaded" in said and b"retry-after: 1" in said
        for client in clients:
            client.close()
        clients.clear()
        for _ in range(100):  # the places are free as soon as the server has seen them go
            answer = server.http.post("/v1/chat/completions", json=chat(towns[0]))
            if answer.status_code == 200:
                break
        assert answer.json()["choices"][0]["message"]["content"] == towns[0].value("stone")
        assert len(remembered) == 6
    finally:
        for client in clients:
            client.close()
        server.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_image_url_to_a_private_address(remembered) -> None:
    server = Running(build_app(remembered, ServeSettings(TRIP, fetch_images=True), Keys({}), fetch_image))
    for url in ("http://127.0.0.1:1/a.png", "http://169.254.169.254/latest", "http://[::1]/a.png"):
        said = refused(server.http.post("/v1/chat/completions", json=with_image(url)), 400)
        assert "private address" in said
    said = refused(server.http.post("/v1/memories", json={"text": "x", "image": "http://10.0.0.1/a"}), 400)
    assert "private address" in said and len(remembered) == 6
    server.close()


def test_a_text_that_is_a_path_of_the_server(remembered, towns, tmp_path: Path) -> None:
    """Is remembered as a text: whoever may add must not read files by it."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "a.png").write_bytes(png(towns[0], 0))
    server = Running(build_app(remembered, ServeSettings(TRIP), Keys({})))
    for path in (tmp_path / "private", tmp_path / "private" / "a.png"):
        for body in ({"text": str(path)}, {"messages": str(path)}):
            (added,) = server.http.post("/v1/memories", json=body).json()["results"]
            item = server.http.get(f"/v1/memories/{added['id']}").json()
            assert item["memory"] == str(path) and not item["has_image"]
    assert len(remembered) == 10
    server.close()


def test_a_memory_that_is_open_elsewhere(remembered, opened, towns) -> None:
    """Reading goes on; adding is refused by name until the other is done."""
    reader = opened()  # the same folder, whose writer is the first
    server = Running(build_app(reader, ServeSettings(TRIP), Keys({})))
    assert "another process" in refused(server.http.post("/v1/memories", json={"text": "x"}), 409)
    refused(server.http.delete(f"/v1/memories/{towns[0].id}"), 409)
    assert server.http.post("/v1/chat/completions", json=chat(towns[0])).status_code == 200
    remembered.close()
    assert server.http.post("/v1/memories", json={"text": "x"}).status_code == 200 and len(reader) == 7
    server.close()


def test_a_full_disk_in_add(remembered) -> None:
    server = Running(build_app(remembered, ServeSettings(TRIP), Keys({})))
    database = remembered._table._db
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages}")
    said = refused(server.http.post("/v1/memories", json={"text": "a long text " * 4000}), 507)
    assert "no space" in said and server.http.get("/v1/memories").json()["total"] == 6
    assert remembered.check() == []
    database.execute("PRAGMA max_page_count = 1000000")
    assert server.http.post("/v1/memories", json={"text": "a long text " * 4000}).status_code == 200
    assert len(remembered) == 7
    server.close()
    with pytest.raises(ValueError, match="this memory is closed"):
        remembered.get_all()
