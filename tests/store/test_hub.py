"""Pushing and fetching, against a stand-in of the hub's API on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from store.conftest import QUESTION

from comem.memory.encoder import toy_memory
from comem.store.hub import Card, card_text, describe, from_pretrained, push_to_hub
from comem.store.table import MemoryFolderError
from comem.toy.draw import image_of

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as pushing small files and fetching a snapshot take."""

    files: dict[str, dict[str, bytes]] = {}

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _json(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("x-repo-commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = unquote(urlsplit(self.path).path)
        assert self.headers["authorization"] == "Bearer token-of-ann"
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            assert asked.get("private") or asked.get("visibility") == "private", asked
            self.files.setdefault(name, {})
            self._json({"url": f"http://{self.headers['host']}/{name}", "name": name})
        elif "/preupload/" in path:
            asked = json.loads(body)["files"]
            modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self._json({"files": [{"path": each["path"], **modes} for each in asked]})
        elif "/commit/" in path:
            name = "/".join(path.split("/")[3:5])
            for line in body.splitlines():
                row = json.loads(line)
                if row["key"] == "file":
                    self.files[name][row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            made = f"http://{self.headers['host']}/{name}/commit/{COMMIT}"
            self._json({"commitUrl": made, "commitOid": COMMIT, "success": True})
        else:
            self._json({}, 200)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/"):
            name = "/".join(path.split("/")[3:5])
            if name not in self.files:
                self._json({"error": "Repository not found"}, 404)
                return
            siblings = [
                {"rfilename": each, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
                for each, data in self.files[name].items()
            ]
            tree = [
                {"type": "file", "path": each["rfilename"], "size": each["size"], "oid": each["blobId"]}
                for each in siblings
            ]
            whole = {
                "id": name,
                "modelId": name,
                "sha": COMMIT,
                "siblings": siblings,
                "private": True,
                "tags": [],
            }
            self._json(tree if "/tree/" in path else whole)
            return
        parts = path.strip("/").split("/")  # owner/name/resolve/revision/file…
        data = self.files["/".join(parts[:2])].get("/".join(parts[4:]))
        if data is None:
            self._json({"error": "Entry not found"}, 404)
            return
        self.send_response(200)
        for header, value in (("etag", f'"{hashlib.sha1(data).hexdigest()}"'), ("x-repo-commit", COMMIT),
                              ("content-length", str(len(data))), ("accept-ranges", "none")):  # fmt: skip
            self.send_header(header, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, bytes]]]:
    import huggingface_hub
    from huggingface_hub import constants

    Hub.files = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    api = huggingface_hub.HfApi
    whole, fetch = api.__init__, huggingface_hub.snapshot_download
    monkeypatch.setattr(api, "__init__", lambda self, *a, **k: whole(self, *a, **{**k, "endpoint": url}))
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download",
        lambda *a, **k: fetch(*a, **k, endpoint=url, cache_dir=tmp_path / "cache"),
    )  # fmt: skip
    yield Hub.files
    server.shutdown()


def test_an_encoder_goes_up_with_a_card_and_comes_back(hub, models) -> None:
    card = Card("apache-2.0", "Qwen/Qwen2.5-VL-7B-Instruct", {"infoseek | val": 41.25}, "Of a test.")
    where = push_to_hub(toy_memory(), "ann/encoder", card, token="token-of-ann")
    assert where.endswith("/ann/encoder")
    text = hub["ann/encoder"]["README.md"].decode()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "apache-2.0" and head["base_model"] == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert models.encoder.fingerprint() in text and "41.25" in text and "Of a test." in text
    again = from_pretrained("ann/encoder", backbone=models._backbone, token="token-of-ann")
    assert again.fingerprint() == models.encoder.fingerprint()


def test_a_memory_and_a_bank(hub, remembered, models, towns, tmp_path: Path) -> None:
    folder = remembered.folder
    remembered.close()
    push_to_hub(folder, "ann/trip", Card("cc-by-4.0"), token="token-of-ann")
    assert sorted(hub["ann/trip"]) == ["README.md", "memory.sqlite"]
    with pytest.raises(MemoryFolderError, match="in which folder"):
        from_pretrained("ann/trip", token="token-of-ann")
    memory = from_pretrained("ann/trip", tmp_path / "copy", token="token-of-ann")
    memory.models = models
    assert memory.ask(QUESTION, image_of(towns[0], view=1)).text == towns[0].value("stone")
    memory.delete(towns[0].id)
    models.encoder.encode([i for i in [memory_item(towns[1])]]).save(tmp_path / "bank.safetensors")
    push_to_hub(tmp_path / "bank.safetensors", "ann/bank", Card("cc-by-4.0"), token="token-of-ann")
    assert from_pretrained("ann/bank", token="token-of-ann").fingerprint == models.encoder.fingerprint()


def memory_item(town):
    import comem

    return comem.KnowledgeItem(town.id, town.passage(), image_of(town, view=0))


def test_what_is_none_of_these(tmp_path: Path) -> None:
    with pytest.raises(MemoryFolderError, match="nothing is pushed"):
        describe(tmp_path)
    assert "No scores were given" in card_text("memory bank", "a/b", Card("mit"), {"items": "3"})
