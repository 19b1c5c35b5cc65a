"""Private networks and this machine are not asked, however a URL leads there; every hop is paced."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comem.config import ConfigError
from comem.retrieval.download import addresses, fetch
from comem.retrieval.download.addresses import PrivateAddressError, PublicResolver, is_public
from comem.retrieval.download.job import download_corpus
from comem.retrieval.download.settings import DownloadSettings

Corpus = Callable[..., Path]
PRIVATE = """127.0.0.1 127.8.9.1 10.0.0.1 172.16.5.5 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1
240.0.0.1 255.255.255.255 192.0.2.7 198.18.0.1 ::1 :: fe80::1 fe80::1%eth0 fc00::1 fd12:3456::1 fec0::1
ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 2002:7f00:1:: 64:ff9b::a00:1 ::7f00:1 2001:db8::1""".split()
PUBLIC = "8.8.8.8 1.1.1.1 93.184.216.34 2606:4700:4700::1111 ::ffff:8.8.8.8 64:ff9b::808:808".split()


def outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "downloads" / "shard_00000.jsonl").read_text().splitlines()
    return {row["url"]: row for row in map(json.loads, lines)}


def named(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[str]]) -> list[str]:
    """Names as a server of names gives them, one answer after the other; those that were looked up."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: Any, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        found = names[host]
        address = found.pop(0) if len(found) > 1 else found[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_which_addresses_are_public() -> None:
    assert [address for address in PRIVATE if is_public(address)] == []
    assert [address for address in PUBLIC if not is_public(address)] == []


@pytest.mark.parametrize(
    "form",
    ["127.0.0.1", "[::ffff:127.0.0.1]", "localhost", "2130706433", "0x7f.1", "127.1", "0177.0.0.1", "0",
     "①②⑦.⓪.⓪.①", "127。0。0。1", "１２７.0.0.1", "ⓛocalhost", "8.8.8.8@127.0.0.1", "[::1]"],
)  # fmt: skip
def test_this_machine_is_refused_in_every_spelling(
    server: Any, corpus: Corpus, quick: Any, form: str, tmp_path: Path
) -> None:
    folder = corpus("good/1")
    path = folder.parent / "items.csv"
    path.write_text(path.read_text().replace("127.0.0.1", form))
    folder = build(path, tmp_path / "again")
    counts = download_corpus(folder, quick(allow_private=False))
    assert sum(counts.values()) == 1 and server.asked == {}
    (row,) = outcomes(folder).values()
    assert row["reason"] in ("private address", "no address", "no connection")  # some are no names at all
    if row["reason"] == "private address":
        assert "--allow-private" in row["detail"]
        if form == "127.0.0.1":
            assert download_corpus(folder, quick())["ok"] == 1  # asked again when it is allowed


def build(table: Path, folder: Path) -> Path:
    from comem.retrieval.corpus.build import build_corpus
    from comem.retrieval.corpus.sources import CorpusSettings

    build_corpus(CorpusSettings(sources=(str(table),), output=folder))
    return folder


def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test, 127.0.0.1 is the public network, and the rest of 127.0.0.0/8 is private."""
    real = is_public
    monkeypatch.setattr(addresses, "is_public", lambda text: text == "127.0.0.1" or real(text))


@pytest.mark.parametrize(
    "where",
    ["http://127.0.0.2:{port}/good/3", "http://inside.example:{port}/good/3", "http://[::1]:{port}/x"],
)
def test_a_redirect_or_a_name_into_a_private_network_is_refused(
    server: Any, corpus: Corpus, quick: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    at_home(monkeypatch)
    looked_up = named(monkeypatch, {"127.0.0.1": ["127.0.0.1"], "inside.example": ["10.1.2.3"]})
    target = where.format(port=server.server_port)
    folder = corpus(f"to/{target.encode().hex()}", "good/1")
    counts = download_corpus(folder, quick(allow_private=False))
    assert counts == {"private address": 1, "ok": 1}
    assert server.asked.total() == 2 and "good/3" not in server.asked
    assert looked_up == (["inside.example"] if "inside" in where else [])


def test_a_name_that_changes_is_checked_whenever_it_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection gets the addresses that were checked, not the name."""
    named(monkeypatch, {"now.example": ["93.184.216.34", "127.0.0.1"], "both.example": ["8.8.8.8"]})

    async def ask() -> None:
        resolver = PublicResolver()
        (first,) = await resolver.resolve("now.example", 80)
        assert first["host"] == "93.184.216.34"
        with pytest.raises(PrivateAddressError, match="now.example is 127.0.0.1, which is no address of"):
            await resolver.resolve("now.example", 80)
        await resolver.close()

    asyncio.run(ask())


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.org/x", "http://[bad/", "//"])
def test_redirects_to_nowhere(server: Any, corpus: Corpus, quick: Any, target: str) -> None:
    folder = corpus(f"to/{target.encode().hex()}")
    assert set(download_corpus(folder, quick())) <= {"no address", "status 404", "redirects in circles"}


def test_every_hop_waits_for_its_host(
    server: Any, corpus: Corpus, quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five URLs that all lead to one host, whose pace they keep together."""
    port = server.server_port
    hosts = [f"http://127.0.0.{n}:{port}/good/{n}" for n in (7, 8, 9)]
    folder = corpus(*(f"to/{server.url(f'good/{n}').encode().hex()}" for n in range(4)), "good/9")
    assert download_corpus(folder, quick(rate=10.0, connections=4))["ok"] == 5
    times = sorted(server.times)
    assert len(times) == 9 and times[-1] - times[0] > 0.25  # half a second of them may come at once
    assert hosts[0]  # other hosts have a pace of their own


def test_too_many_hops_and_their_time(server: Any, corpus: Corpus, quick: Any) -> None:
    folder = corpus("circle/0")
    assert download_corpus(folder, quick(redirects=3)) == {"redirects in circles": 1}
    assert server.asked.total() == 4


def test_a_key_in_an_address_is_not_said(server: Any) -> None:
    hosts = fetch.Hosts(DownloadSettings(contact="a@b.org"))
    assert hosts.of("http://me:secret@Example.org/x.png").name == "example.org"


def test_the_setting_has_a_name_on_the_command_line() -> None:
    assert DownloadSettings(contact="a@b.org").allow_private is False
    with pytest.raises((ConfigError, ValueError)):
        DownloadSettings(contact="nobody")
