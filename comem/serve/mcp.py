"""`comem mcp`: a memory as tools of an agent, by the Model Context Protocol's own SDK."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import wraps
from typing import Any

from comem.io.console import Progress, quiet
from comem.serve.run import NEEDS
from comem.serve.settings import McpSettings
from comem.store.commands import open_memory
from comem.store.memory import Memory
from comem.store.table import NoItemError


def serve(settings: McpSettings, progress: Progress = quiet) -> None:
    """Serve a memory on stdin and stdout until the input ends.

    Raises:
        ValueError: a package is missing, or a folder of other models.
    """
    with redirect_stdout(sys.stderr):  # stdout is the protocol's
        memory = open_memory(settings, progress, create=True)
    with memory:
        build_mcp(memory, settings.user_id).run("stdio")


def build_mcp(memory: Memory, user_id: str | None = None) -> Any:
    """The MCP server of a memory, of all items or of one user's.

    Raises:
        ValueError: the package `mcp` is missing.
    """
    try:
        from mcp.server import MCPServer
    except ImportError as error:
        raise ValueError(f"{NEEDS} ({error.name} is missing)") from error
    server = MCPServer("comem", instructions="A memory of images and texts: add, search, ask, delete.")

    def own(item_id: str) -> None:
        if user_id is not None and memory.get(item_id).user_id != user_id:
            raise NoItemError(f"no item {item_id!r} in this memory; it may have been deleted")

    @server.tool()
    @_told
    def add_memory(text: str = "", image: str | None = None, metadata: dict[str, Any] | None = None) -> str:
        """Remember a text, an image (a path, or a data URI), or both. Returns the id."""
        return memory.add({"text": text}, image, user_id=user_id, metadata=metadata).id

    @server.tool()
    @_told
    def search_memories(query: str = "", image: str | None = None, k: int = 5) -> list[dict[str, Any]]:
        """The items nearest to a text, an image (a path, or a data URI), or both, best first."""
        found = memory.search(query or None, image, k=k, user_id=user_id)
        return [item.as_dict() for item in found]

    @server.tool()
    @_told
    def ask_memory(question: str, image: str | None = None, k: int = 3) -> dict[str, Any]:
        """Answer a question from what is remembered; says which items it comes from."""
        answer = memory.ask(question, image, k=k, user_id=user_id, attention=False)
        return {"answer": answer.text, "items": [item.as_dict() for item in answer.items]}

    @server.tool()
    @_told
    def delete_memory(id: str) -> str:
        """Forget an item, in every file."""
        own(id)
        memory.delete(id)
        return f"{id} is forgotten"

    return server


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    """A tool whose errors say what the agent can do about them; the SDK keeps others to itself."""

    @wraps(function)
    def told(*args: Any, **options: Any) -> Any:
        from mcp.server.mcpserver.exceptions import ToolError

        try:
            return function(*args, **options)
        except (ValueError, OSError) as error:
            raise ToolError(str(error)) from error

    return told
