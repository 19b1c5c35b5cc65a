"""How a memory is served."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from comem.config import option
from comem.store.commands import MemorySettings

_NETWORK, _LIMITS, _UPSTREAM = "network", "limits", "a vLLM that answers"
#: Stands for every user in a file of keys.
ANYBODY = "*"


@dataclass(frozen=True)
class ServeSettings(MemorySettings):
    """A server that OpenAI's and mem0's clients speak to; with --ui also a page for people.

    Beyond loopback a key is asked for. A file of keys has lines of a key and the user whose items it
    opens: "sk-abc ann", or "sk-all *" for a program that may name any user.

    Attributes:
        host: to listen on.
        port: to listen on; 0 takes a free one.
        keys: file of keys and users, one pair a line.
        key: one key for all users; better in the environment as COMEM_API_KEY.
        ui: show the page at /.
        fetch_images: fetch images by http(s) URL, never from private addresses.
        upstream: URL of a vLLM that answers in place of the reader here, memories as `prompt_embeds`; its key
            in the environment as COMEM_UPSTREAM_KEY.
        upstream_model: its model (default: the first that it serves).
        template: write the chat template that the upstream has to be started with, and end.
        batch_size: questions that are answered together.
        max_body: bytes of a request.
        max_images: of a request.
        max_tokens: the longest answer that may be asked for.
        max_chars: of a conversation.
        timeout: seconds that a request may take.
        queue: questions that may wait; others are told to come again.
        connections: at once; others are told to come again.
        drain: seconds that requests get to end after SIGTERM.
    """

    host: str = option("127.0.0.1", group=_NETWORK)
    port: int = option(8000, group=_NETWORK)
    keys: Path | None = option(None, group=_NETWORK, metavar="FILE")
    key: str = option("", group=_NETWORK)
    ui: bool = False
    fetch_images: bool = option(False, group=_NETWORK)
    upstream: str = option("", group=_UPSTREAM, metavar="URL")
    upstream_model: str = option("", group=_UPSTREAM, metavar="NAME")
    template: Path | None = option(None, group=_UPSTREAM, metavar="FILE")
    batch_size: int = option(32, group=_LIMITS)
    max_body: int = option(50_000_000, group=_LIMITS)
    max_images: int = option(8, group=_LIMITS)
    max_tokens: int = option(1024, group=_LIMITS)
    max_chars: int = option(100_000, group=_LIMITS)
    timeout: float = option(120.0, group=_LIMITS)
    queue: int = option(256, group=_LIMITS)
    connections: int = option(1024, group=_LIMITS)
    drain: float = option(30.0, group=_LIMITS)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "batch_size",
            "max_body",
            "max_images",
            "max_tokens",
            "max_chars",
            "queue",
            "connections",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give 1 or more")
        if self.upstream and not self.upstream.startswith(("http://", "https://")):
            raise ValueError(
                f"upstream={self.upstream!r}: give the URL of a server, as http://127.0.0.1:8000/v1"
            )
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port={self.port}: give 1 to 65535, or 0 for a free one")
        if not (0 < self.timeout < float("inf") and 0 <= self.drain < float("inf")):
            raise ValueError(f"timeout={self.timeout}, drain={self.drain}: give seconds above 0")


@dataclass(frozen=True)
class PageSettings(ServeSettings):
    """The server with its page, to be opened in a browser.

    Attributes:
        ui: show the page at /.
    """

    ui: bool = True


@dataclass(frozen=True)
class McpSettings(MemorySettings):
    """A memory for an agent: an MCP server on stdin and stdout, with the tools add, search, ask and delete.

    Attributes:
        user_id: whose items; None for all.
    """

    user_id: str | None = option(None, metavar="NAME")


class Keys:
    """Which key opens whose items; keys are held as digests.

    Args:
        users: user by key; `ANYBODY` for a key that may name any.
    """

    def __init__(self, users: Mapping[str, str]) -> None:
        self._users = {_digest(key): user for key, user in users.items()}

    def __bool__(self) -> bool:
        return bool(self._users)

    def user(self, key: str) -> str | None:
        """Whose items a key opens; None for a key that is wrong. As long for every key."""
        given, found = _digest(key), None
        for known, user in self._users.items():
            if hmac.compare_digest(known, given):
                found = user
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def read_keys(settings: ServeSettings, environment: Mapping[str, str]) -> Keys:
    """The keys of a server, from its file, its option and COMEM_API_KEY.

    Raises:
        ValueError: a line that is no pair, or no key for an address that others reach.
    """
    users: dict[str, str] = {}
    if settings.keys is not None:
        try:
            lines = settings.keys.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ValueError(f"{settings.keys}: {error.strerror}; give a file of keys and users") from error
        for number, line in enumerate(lines, start=1):
            words = line.split()
            if not words or line.lstrip().startswith("#"):
                continue
            if len(words) != 2:
                raise ValueError(f"{settings.keys}:{number}: write a key and a user, or a key and *")
            users[words[0]] = words[1]
    for key in (settings.key, environment.get("COMEM_API_KEY", "")):
        if key:
            users[key] = ANYBODY
    if not users and not loopback(settings.host):
        raise ValueError(
            f"--host {settings.host} is reached from other machines: give --keys FILE (lines of a key and "
            "a user), or a key in COMEM_API_KEY"
        )
    return Keys(users)


def loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
