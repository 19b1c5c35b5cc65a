"""The server by real clients: openai's, httpx; what is refused; who sees what; streams, drains, restarts."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store.conftest import QUESTION

import comem

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

# ruff: noqa: E402
from comem.serve.app import build_app
from comem.serve.batching import Batcher, BusyError
from comem.serve.fetching import fetch_image
from comem.serve.limits import depth
from comem.serve.run import _listen
from comem.serve.settings import Keys, ServeSettings, read_keys
from comem.store.shapes import Ask
from comem.toy.draw import image_of, png

TRIP = Path("trip")


def uri(town, view: int = 1) -> str:
    return "data:image/png;base64," + base64.b64encode(png(town, view)).decode()


def chat(town, **more) -> dict:
    parts = [{"type": "image_url", "image_url": {"url": uri(town)}}, {"type": "text", "text": QUESTION}]
    return {"messages": [{"role": "user", "content": parts}], **more}


class Running:
    """An application behind uvicorn, in a thread."""

    def __init__(self, app) -> None:
        import uvicorn

        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def close(self) -> None:
        self.http.close()
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture
def running(remembered) -> Iterator[Running]:
    app = build_app(remembered, ServeSettings(TRIP, max_body=2_000_000, max_tokens=100, timeout=20), Keys({}))
    server = Running(app)
    yield server
    server.close()


@pytest.fixture
def guarded(remembered) -> Iterator[Running]:
    keys = Keys({"key-ann": "ann", "key-ben": "ben", "key-all": "*"})
    server = Running(build_app(remembered, ServeSettings(TRIP), keys))
    yield server
    server.close()


def test_openais_client(running, towns) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none")
    assert {model.id for model in client.models.list()} >= {"toy", "toy/rag", "toy/baseline"}
    answer = client.chat.completions.create(
        model="toy", **chat(towns[0]), extra_body={"memory": {"attention": True}}
    )
    assert answer.choices[0].message.content == towns[0].value("stone")
    assert answer.choices[0].finish_reason == "stop" and answer.usage.completion_tokens == 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 1
    items = answer.model_extra["comem"]["items"]
    assert items[0]["id"] == towns[0].id and items[0]["attention"] > 0
    stream = client.chat.completions.create(
        model="toy", **chat(towns[0]), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == towns[0].value("stone")
    assert chunks[-1].usage.completion_tokens == 1 and chunks[-2].choices[0].finish_reason == "stop"
    without = client.chat.completions.create(model="toy", **chat(towns[0]), extra_body={"memory": False})
    assert without.model_extra["comem"]["items"] == []
    assert client.chat.completions.create(model="toy/rag", **chat(towns[1])).choices[0].message.content
    sampled = [
        client.chat.completions.create(
            model="toy", **chat(towns[0]), temperature=1.5, seed=3, max_tokens=9
        ).choices[0]
        for _ in range(2)
    ]
    assert sampled[0].message.content == sampled[1].message.content
    with pytest.raises(openai.NotFoundError, match="toy/baseline"):
        client.chat.completions.create(model="gpt-9", **chat(towns[0]))
    with pytest.raises(openai.BadRequestError, match="at most 100 tokens"):
        client.chat.completions.create(model="toy", **chat(towns[0]), max_tokens=101)
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        client.chat.completions.create(
            model="toy", **chat(towns[0]), tools=[{"type": "function", "function": {"name": "f"}}]
        )


def test_decisions_by_openais_client(running, towns) -> None:
    openai = pytest.importorskip("openai")
    pytest.importorskip("transformers.decision")
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none")
    if not hasattr(client, "decisions"):
        pytest.skip("an openai client without decisions")
    content = [{"type": "input_image", "image_url": uri(towns[0])}, {"type": "input_text", "text": "A town."}]
    questions = [
        {"type": "predicate", "instructions": "Is it old?", "name": "old"},
        {"type": "choice", "instructions": QUESTION, "choices": [{"value": "marble"}, {"value": True}]},
        {
            "type": "score",
            "instructions": "How large?",
            "levels": [{"label": "small"}, {"label": "large"}],
            "name": "s",
        },
    ]
    made = client.decisions.create(
        model="toy", input=[{"role": "user", "content": content}], questions=questions
    )
    old, stone, size = made.answers
    assert old.name == "old" and 0 <= old.probability <= 1
    assert stone.choice in ("marble", True) and sum(
        p.probability for p in stone.probabilities
    ) == pytest.approx(1)
    assert [p.label for p in size.probabilities] == ["small", "large"] and 0 <= size.score <= 1
    assert made.model_extra["comem"]["items"][0]["id"] == towns[0].id
    body = {"state": "<p> A town.", "assets": {"<p>": {"data_base64": uri(towns[0]).partition(",")[2]}}}
    asked = {"old": {"type": "noul", "instructions": "Is it old?"}}
    one = running.http.post("/v1/systemone", json={**body, "questions": asked, "memory": False}).json()
    assert 0 <= one["answers"]["old"]["noul"] <= 1 and one["comem"]["items"] == []
    images = running.http.post(
        "/v1/systemone", json={"state": "A town.", "images": [uri(towns[0])], "questions": asked}
    )
    assert images.json()["comem"]["items"][0]["id"] == towns[0].id
    assert (
        running.http.post("/v1/systemone", json={"state": "x", "questions": {"a": {"type": "b"}}}).status_code
        == 400
    )


def test_memories_in_mem0s_shapes(running, towns) -> None:
    http, town = running.http, towns[0]
    added = http.post("/v1/memories", json={
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": "My cat Ada."},
            {"type": "image_url", "image_url": {"url": uri(town, 2)}},
        ]}], "user_id": "cleo", "metadata": {"kind": "cat"},
    })  # fmt: skip
    (result,) = added.json()["results"]
    assert result["event"] == "ADD" and result["memory"] == "My cat Ada."
    item = http.get(f"/v1/memories/{result['id']}").json()
    assert item["user_id"] == "cleo" and item["metadata"] == {"kind": "cat"} and item["has_image"]
    found = http.post(
        "/v1/memories/search", json={"query": "Ada", "user_id": "cleo", "filters": {"kind": "cat"}}
    )
    assert found.json()["results"][0]["id"] == result["id"] and found.json()["results"][0]["score"] > 0
    picture = http.get(f"/v1/memories/{result['id']}/image?side=32")
    assert picture.headers["content-type"] == "image/jpeg" and len(picture.content) < 5000
    assert http.get(f"/v1/memories/{result['id']}/image").content == png(town, 2)
    http.put(f"/v1/memories/{result['id']}", json={"text": "My cat Bea."})
    events = http.get(f"/v1/memories/{result['id']}/history").json()
    assert [e["event"] for e in events] == ["ADD", "UPDATE"] and events[1]["new_memory"] == "My cat Bea."
    assert http.get("/v1/memories?user_id=cleo").json()["total"] == 1
    assert http.delete(f"/v1/memories/{result['id']}").status_code == 200
    assert http.get(f"/v1/memories/{result['id']}").status_code == 404
    odd = http.post("/v1/memories", json={"text": "An id with slashes.", "id": "a/b/../c"}).json()["results"][
        0
    ]["id"]
    assert (
        http.get("/v1/memories/a%2Fb%2F..%2Fc").json()["memory"] == "An id with slashes."
        and odd == "a/b/../c"
    )
    assert http.put("/v1/memories/a%2Fb%2F..%2Fc/history", json={"text": "x"}).status_code == 405
    assert http.delete("/v1/memories/a%2Fb%2F..%2Fc/image").headers["allow"] == "GET"
    assert http.post("/v1/memories", json={"text": "x", "id": "a/image"}).status_code == 400
    assert http.delete("/v1/memories").status_code == 400
    assert http.delete("/v1/memories?user_id=ben").json()["count"] == 3


def test_users_never_mix(guarded, towns) -> None:
    http = guarded.http

    def ask(key: str, method: str, path: str, **json_body):
        body = {"json": json_body} if json_body else {}
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return http.request(method, path, headers=headers, **body)

    assert http.get("/health").status_code == 200
    for key in ("", "wrong", "key-an"):
        refused = ask(key, "GET", "/v1/memories")
        assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
    ann, ben = (
        {item["id"] for item in ask(f"key-{n}", "GET", "/v1/memories").json()["results"]}
        for n in ("ann", "ben")
    )
    assert len(ann) == len(ben) == 3 and not ann & ben
    assert len(ask("key-all", "GET", "/v1/memories").json()["results"]) == 6
    for town in towns:  # whoever asks gets own items only, by search, chat and decisions
        for key, own in (("key-ann", ann), ("key-ben", ben)):
            found = ask(key, "POST", "/v1/memories/search", query=town.name, image=uri(town)).json()[
                "results"
            ]
            assert {item["id"] for item in found} == own
            answer = ask(key, "POST", "/v1/chat/completions", **chat(town)).json()
            assert {item["id"] for item in answer["comem"]["items"]} == own
    theirs = sorted(ben)[0]
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/history"), ("GET", "/image")):
        assert ask("key-ann", method, f"/v1/memories/{theirs}{path}").status_code == 404
    assert ask("key-ann", "PUT", f"/v1/memories/{theirs}", text="mine").status_code == 404
    assert ask("key-ann", "POST", "/v1/memories", text="x", user_id="ben").status_code == 403
    assert ask("key-ann", "GET", "/v1/memories?user_id=ben").status_code == 403
    assert ask("key-ann", "DELETE", "/v1/memories?user_id=ben").status_code == 403
    assert ask("key-ann", "GET", "/metrics").status_code == 403  # counts others' items, too
    assert "comem_items 6.0" in ask("key-all", "GET", "/metrics").text
    assert ask("key-ann", "POST", "/v1/chat/completions", **chat(towns[1]), user="ben").status_code == 403
    sneaky = ask(
        "key-ann",
        "POST",
        "/v1/memories/search",
        query="town",
        filters={"OR": [{"user_id": "ben"}, {"NOT": []}]},
    )
    assert {item["id"] for item in sneaky.json().get("results", [])} <= ann
    assert ask("key-ann", "DELETE", "/v1/memories").json()["count"] == 3
    assert len(ask("key-ben", "GET", "/v1/memories").json()["results"]) == 3


def test_what_is_refused(running, towns) -> None:
    http = running.http

    def refused(status: int, path: str = "/v1/chat/completions", **options) -> str:
        answer = http.post(path, **options)
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return str(error["message"])

    assert "2,000,000 bytes" in refused(413, content=b"x" * 2_000_001)
    deep = b'{"a":' * 50 + b"1" + b"}" * 50
    assert "40 deep" in refused(400, content=deep)
    assert refused(400, content=b'{"messages": [')
    assert refused(400, json={"messages": []})
    assert "user's question" in refused(400, json={"messages": [{"role": "assistant", "content": "x"}]})
    assert "empty" in refused(400, json={"messages": [{"role": "user", "content": ""}]})
    assert "fetches no images" in refused(400, json=with_image("http://127.0.0.1/x.png"))
    assert "fetches no images" in refused(400, json=with_image("HTTPS://127.0.0.1/x.png"))
    assert "not an image" in refused(400, json=with_image("DATA:image/png;BASE64,aGVsbG8="))
    assert "never as a path" in refused(400, json=with_image("/etc/passwd"))
    assert "no base64" in refused(400, json=with_image("data:image/png;base64,!!"))
    assert "not an image" in refused(400, json=with_image("data:image/png;base64,aGVsbG8="))
    assert "more than 8 images" in refused(400, json=with_image(*[uri(towns[0])] * 9))
    assert "100,000" in refused(400, json={"messages": [{"role": "user", "content": "x" * 200_000}]})
    for path, body in (
        ("systemone", {"state": "x " * 60_000, "questions": {"a": {"type": "noul", "instructions": "?"}}}),
        ("decisions", {"input": "x", "questions": [{"type": "predicate", "instructions": "? " * 60_000}]}),
        ("memories/search", {"query": "x" * 100_001}),
    ):
        assert "at most 100,000" in refused(400, f"/v1/{path}", json=body)
    for wrong in (5, {"type": "text"}, ["a"]):
        said = refused(400, "/v1/memories", json={"messages": [{"role": "user", "content": wrong}]})
        assert "a list of parts" in said
    assert "64 bits" in refused(400, "/v1/memories/search", json={"query": "x", "filters": {"a": 2**70}})
    assert "unknown comparison" in refused(
        400, json={**chat(towns[0]), "memory": {"filters": {"a": {"x": 1}}}}
    )
    assert "Extra" in refused(400, json={**chat(towns[0]), "memory": {"kk": 1}})
    assert "nothing to remember" in refused(400, "/v1/memories", json={"text": " "})
    assert http.get("/v1/nothing").status_code == 404 and http.put("/health").status_code == 405
    assert http.request("MADEUP", "/health").status_code == 405
    assert "MADEUP" not in http.get("/metrics").text and 'method="other"' in http.get("/metrics").text
    assert http.post("/v1/chat/completions", json=chat(towns[0])).status_code == 200  # and is still there


def with_image(*urls: str) -> dict:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "x"}]}]}


def test_clients_that_go_in_the_middle(running, towns) -> None:
    body = json.dumps(chat(towns[0])).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    for cut in (0, 10, len(body) // 2, len(body)):
        with socket.create_connection(("127.0.0.1", running.port)) as client:
            client.sendall(head.encode() + body[:cut])
    long = chat(towns[0], temperature=2, max_tokens=100, stream=True)
    for _ in range(5):
        with running.http.stream("POST", "/v1/chat/completions", json=long) as response:
            next(response.iter_lines())
    start = time.perf_counter()
    assert running.http.post("/v1/chat/completions", json=chat(towns[0])).status_code == 200
    assert time.perf_counter() - start < 10
    service = running.server.config.app
    while hasattr(service, "app") and not hasattr(service, "state"):
        service = service.app
    assert len(service.state.service.batcher) == 0


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_while_waiting_is_not_answered(running, remembered, towns, stream) -> None:
    """Whoever is ahead holds the models; the one behind goes, and costs no batch."""
    body = json.dumps(chat(towns[0], stream=stream)).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"

    def waiting() -> int:
        return int(running.http.get("/health").json()["waiting"])

    def until(there: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not there() and time.monotonic() < end:
            time.sleep(0.01)
        assert there()

    remembered.models.alone.acquire()
    try:
        answers: list[int] = []
        post = running.http.post
        ahead = threading.Thread(
            target=lambda: answers.append(post("/v1/chat/completions", json=chat(towns[1])).status_code)
        )
        ahead.start()
        time.sleep(0.3)
        with socket.create_connection(("127.0.0.1", running.port)) as client:
            client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            until(lambda: waiting() == 1)
        time.sleep(0.5)
    finally:
        remembered.models.alone.release()
    ahead.join()
    until(lambda: waiting() == 0)
    lines = running.http.get("/metrics").text.splitlines()
    assert answers == [200] and "comem_batch_size_sum 1.0" in lines


def test_many_at_once_are_batched_and_each_gets_its_own(running, towns) -> None:
    answers: dict[int, str] = {}

    def ask(number: int) -> None:
        with httpx.Client(base_url=running.url, timeout=60) as http:
            answer = http.post("/v1/chat/completions", json=chat(towns[number % 6])).json()
            answers[number] = answer["comem"]["items"][0]["id"]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: towns[n % 6].id for n in range(24)}
    metrics = running.http.get("/metrics").text
    sizes = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith("comem_batch_size"))
    assert float(sizes["comem_batch_size_sum"]) == 24 and float(sizes["comem_batch_size_count"]) < 24
    assert "comem_request_seconds_bucket" in metrics and 'kind="memory"' in metrics


def test_a_full_queue_says_so(remembered, towns) -> None:
    batcher = Batcher(remembered, size=1, limit=1)
    held = remembered.models.alone
    held.acquire()
    try:
        waiting = [batcher.submit(Ask(QUESTION, mode="comem"))]
        while len(batcher):  # the first is being answered
            time.sleep(0.001)
        waiting.append(batcher.submit(Ask(QUESTION, mode="comem")))
        with pytest.raises(BusyError, match="waiting already"):
            batcher.submit(Ask(QUESTION, mode="comem"))
    finally:
        held.release()
    assert all(each.result(30).mode == "comem" for each in waiting)
    bad = batcher.submit(Ask("x", filters={"a": {"b": 1}}, mode="comem"))
    assert isinstance(bad.exception(30), ValueError)
    batcher.close()
    with pytest.raises(BusyError, match="going down"):
        batcher.submit(Ask(QUESTION, mode="comem"))


def test_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text("# people\nsk-1 ann\n\nsk-2 *\n")
    keys = read_keys(ServeSettings(TRIP, keys=file), {})
    assert keys.user("sk-1") == "ann" and keys.user("sk-2") == "*" and keys.user("sk-3") is None
    assert read_keys(ServeSettings(TRIP), {"COMEM_API_KEY": "k"}).user("k") == "*"
    file.write_text("sk-1 ann admin\n")
    with pytest.raises(ValueError, match="txt:1: write a key and a user"):
        read_keys(ServeSettings(TRIP, keys=file), {})
    with pytest.raises(ValueError, match="other machines"):
        read_keys(ServeSettings(TRIP, host="0.0.0.0"), {})
    assert not read_keys(ServeSettings(TRIP, host="::1"), {})
    for wrong in ({"port": 99_999}, {"port": -1}, {"timeout": float("nan")}, {"drain": float("inf")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ServeSettings(TRIP, **wrong)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "10.1.2.3",
        "169.254.169.254",
        "192.168.1.1",
        "::1",
        "::ffff:10.0.0.1",
        "0.0.0.0",
        "100.64.0.1",
    ],
)
def test_private_addresses_are_not_fetched_from(host: str) -> None:
    with pytest.raises(ValueError, match="private address"):
        fetch_image(f"http://{f'[{host}]' if ':' in host else host}/a.png")


def test_answers_are_sent_at_once(tmp_path: Path) -> None:
    """Without it a client waits 40 ms for each: asyncio asks the socket whether it is TCP."""
    options = []

    class Client(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            place = transport.get_extra_info("socket")
            options.append(place.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    async def connect() -> None:
        server = await asyncio.get_running_loop().create_server(Client, sock=listener)
        _, writer = await asyncio.open_connection(*listener.getsockname())
        for _ in range(100):
            await asyncio.sleep(0 if options else 0.01)
        writer.close()
        server.close()

    with _listen(ServeSettings(tmp_path, port=0)) as listener:
        asyncio.run(connect())
    assert options and options[0]


def test_depth() -> None:
    assert depth(b'{"a": [1, {"b": "]]]]{{{{\\"["}]}') == 3
    assert depth(b"[" * 1000) == 1000 and depth(b"") == 0


@pytest.mark.slow
def test_it_drains_and_restarts_with_all_that_was_acknowledged(tmp_path: Path, towns) -> None:
    """The command itself, in a process of its own, stopped by SIGTERM while a stream is open, then killed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(comem.__file__).parents[1]), "OMP_NUM_THREADS": "1"}

    def start() -> tuple[subprocess.Popen, httpx.Client]:
        words = [sys.executable, "-m", "comem", "serve", str(tmp_path / "m"), "--port", "0"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
        line = process.stdout.readline()
        return process, httpx.Client(base_url=line.split()[-1].removesuffix("/v1"), timeout=60)

    process, http = start()
    ids = [
        http.post("/v1/memories", json={"text": f"note {n}", "image": uri(towns[n], 0)}).json()["results"][0][
            "id"
        ]
        for n in range(3)
    ]
    with http.stream(
        "POST", "/v1/chat/completions", json=chat(towns[0], temperature=2, max_tokens=40, stream=True)
    ) as s:
        lines = s.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]", "what had begun was answered to its end"
    assert process.wait(30) in (0, -signal.SIGTERM)  # uvicorn hands the signal on when all is done
    process, http = start()
    assert {item["id"] for item in http.get("/v1/memories").json()["results"]} == set(ids)
    ids.append(http.post("/v1/memories", json={"text": "the last"}).json()["results"][0]["id"])
    process.kill()
    process.wait()
    memory = comem.Memory(tmp_path / "m")
    assert {item.id for item in memory.get_all()} == set(ids) and memory.check() == []


def test_mcp(remembered, towns, tmp_path: Path) -> None:
    pytest.importorskip("mcp")
    import asyncio

    from mcp import Client

    from comem.serve.mcp import build_mcp

    path = tmp_path / "x.png"
    path.write_bytes(png(towns[0], 1))

    async def talk() -> None:
        async with Client(build_mcp(remembered, "ann")) as client:
            tools = {tool.name for tool in (await client.list_tools()).tools}
            assert tools == {"add_memory", "search_memories", "ask_memory", "delete_memory"}
            asked = await client.call_tool("ask_memory", {"question": QUESTION, "image": str(path)})
            assert asked.structured_content["answer"] == towns[0].value("stone")
            added = await client.call_tool("add_memory", {"text": "The cat is called Ada."})
            item_id = added.content[0].text
            found = await client.call_tool("search_memories", {"query": "Ada", "k": 1})
            assert item_id in str(found.structured_content)
            assert remembered.get(item_id).user_id == "ann"
            await client.call_tool("delete_memory", {"id": item_id})
            refused = await client.call_tool("delete_memory", {"id": towns[1].id})  # ben's
            assert refused.is_error and len(remembered) == 6
            assert towns[1].id in refused.content[0].text, "says why"

    asyncio.run(talk())
    assert image_of(towns[0], view=0)


def test_mcp_says_nothing_on_the_protocols_own_stream(towns, tmp_path: Path, monkeypatch, capsys) -> None:
    """A folder that becomes a memory is told of, where a client does not read."""
    from comem.serve import mcp
    from comem.serve.settings import McpSettings

    served: list[str] = []

    class Served:
        def run(self, transport: str) -> None:
            served.append(transport)

    monkeypatch.setattr(mcp, "build_mcp", lambda memory, user: Served())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(png(towns[0], 1))
    mcp.serve(McpSettings(str(tmp_path / "photos")))
    said = capsys.readouterr()
    assert served == ["stdio"] and said.out == "" and "photos" in said.err
