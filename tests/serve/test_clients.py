"""The server by programs that others wrote.

Opt-in: COMEM_CLIENTS names a Python that has litellm, schemathesis and mcp, which need versions of their own;
without it those run that this Python has, and curl where it is there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from store.conftest import QUESTION

import comem

pytest.importorskip("fastapi")

# ruff: noqa: E402
from serve.test_server import TRIP, Running, chat

from comem.serve.app import build_app
from comem.serve.settings import Keys, ServeSettings
from comem.toy.draw import image_of, png

CLIENTS = os.environ.get("COMEM_CLIENTS", "")
ROOT = str(Path(comem.__file__).parents[1])


def client(name: str, code: str, *words: str, timeout: int = 600) -> str:
    """Run a client's program in its own Python; what it prints."""
    if not CLIENTS and find_spec(name) is None:
        pytest.skip(f"{name} is not installed here; COMEM_CLIENTS=PYTHON names one that has it")
    ran = subprocess.run(
        [CLIENTS or sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=timeout
    )
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-4000:]
    return ran.stdout


@pytest.fixture
def guarded(remembered) -> Iterator[Running]:
    server = Running(build_app(remembered, ServeSettings(TRIP, max_tokens=100), Keys({"key-ann": "ann"})))
    yield server
    server.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_curl(guarded, towns, tmp_path: Path) -> None:
    def curl(path: str, *words: str) -> str:
        place = ["--header", "content-type: application/json", f"{guarded.url}{path}"]
        quiet = ["curl", "--silent", "--show-error", "--no-buffer", "--max-time", "60"]
        return subprocess.run([*quiet, *words, *place], capture_output=True, text=True, check=True).stdout

    key = ("--header", "authorization: Bearer key-ann")
    assert json.loads(curl("/v1/models"))["error"]["code"] == "invalid_api_key"
    assert json.loads(curl("/v1/models", *key))["data"][0]["id"] == "toy"
    body = tmp_path / "body.json"
    body.write_text(json.dumps(chat(towns[0])))
    answer = json.loads(curl("/v1/chat/completions", *key, "--data", f"@{body}"))
    assert answer["choices"][0]["message"]["content"] == towns[0].value("stone")
    body.write_text(json.dumps(chat(towns[0], stream=True)))
    lines = curl("/v1/chat/completions", *key, "--data", f"@{body}").split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""] and towns[0].value("stone") in lines[1]
    refused = curl("/v1/chat/completions", *key, "--data", "{", "--write-out", "%{http_code}")
    assert refused.endswith("400") and json.loads(refused[:-3])["error"]["type"] == "invalid_request_error"


LITELLM = """
import asyncio, json, sys
import litellm

url, key, body = sys.argv[1:]
given = {"api_base": url, "api_key": key, "model": "openai/toy", **json.loads(body)}
answer = litellm.completion(**given)
print("said", answer.choices[0].message.content)
pieces = litellm.completion(**given, stream=True)
print("said", "".join(piece.choices[0].delta.content or "" for piece in pieces))
print("said", asyncio.run(litellm.acompletion(**given)).usage.total_tokens)
try:
    litellm.completion(**{**given, "api_key": "wrong"})
except litellm.AuthenticationError as error:
    print("said refused", error.status_code)
"""


def test_litellm(guarded, towns) -> None:
    out = client("litellm", LITELLM, f"{guarded.url}/v1", "key-ann", json.dumps(chat(towns[0])))
    said = [line.removeprefix("said ") for line in out.splitlines() if line.startswith("said ")]
    assert said[0] == said[1] == towns[0].value("stone")
    assert int(said[2]) > 24 and said[3] == "refused 401"


MCP = """
import asyncio, json, sys
from mcp import Client, StdioServerParameters

python, root, folder, image, question = sys.argv[1:]
server = StdioServerParameters(
    command=python, args=["-m", "comem", "mcp", folder],
    env={"PYTHONPATH": root, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
)

async def talk():
    async with Client(server) as client:
        print(sorted(tool.name for tool in (await client.list_tools()).tools))
        added = await client.call_tool("add_memory", {"text": "The cat is called Ada."})
        item = added.content[0].text
        found = await client.call_tool("search_memories", {"query": "The cat is called Ada.", "k": 1})
        print(item in str(found.structured_content))
        asked = await client.call_tool("ask_memory", {"question": question, "image": image})
        print(json.dumps(asked.structured_content and asked.structured_content["answer"]), asked.content)
        await client.call_tool("delete_memory", {"id": item})
        gone = await client.call_tool("delete_memory", {"id": item})
        print(gone.is_error)

asyncio.run(talk())
"""


@pytest.mark.skipif(
    not CLIENTS, reason="COMEM_CLIENTS=PYTHON names a Python with mcp; the tools: test_server.py"
)
def test_mcp_over_pipes(towns, tmp_path: Path) -> None:
    """`comem mcp` in a process of its own, by the SDK's client."""
    with comem.Memory(tmp_path / "memory") as memory:
        for town in towns[:2]:
            memory.add(f"{town.name}: {town.passage()}", image_of(town, view=0))
    image = tmp_path / "x.png"
    image.write_bytes(png(towns[0], 1))
    said = client("mcp", MCP, sys.executable, ROOT, str(tmp_path / "memory"), str(image), QUESTION)
    tools, found, answer, gone = said.splitlines()[-4:]
    assert "ask_memory" in tools and found == "True" and gone == "True"
    assert answer.startswith(json.dumps(towns[0].value("stone"))), answer
    with comem.Memory(tmp_path / "memory") as memory:
        assert len(memory) == 2 and memory.check() == []


SCHEMATHESIS = """
import subprocess, sys, tempfile
from pathlib import Path

url, examples = sys.argv[1:]
checks = ["not_a_server_error", "status_code_conformance", "content_type_conformance"]
checks += ["response_schema_conformance", "response_headers_conformance", "unsupported_method"]
words = [
    str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json", "--seed", "1",
    "--max-examples", examples, "--phases", "examples,coverage,fuzzing", "--continue-on-failure",
    "--checks", ",".join(checks),
    "--request-timeout", "60", "--no-color",
]
with tempfile.TemporaryDirectory() as place:  # it writes a cache where it runs
    ran = subprocess.run(words, cwd=place, capture_output=True, text=True)
print(ran.stdout[-20000:])
sys.exit(ran.returncode)
"""


def test_schemathesis(remembered) -> None:
    """Whatever the description allows is answered as it says, and never with an error of the server."""
    settings = ServeSettings(TRIP, max_body=2_000_000, max_tokens=8)
    server = Running(build_app(remembered, settings, Keys({})))
    try:
        said = client("schemathesis", SCHEMATHESIS, server.url, "25", timeout=1500)
    finally:
        server.close()
    assert "No issues found" in said or "passed" in said
