"""The calls of `comem.Memory`, to be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from comem.store.memory import Memory
from comem.store.shapes import Added, Ask, MemoryAnswer, MemoryItem


class AsyncMemory:
    """A `Memory` whose calls are awaited; each runs in a thread, so the loop goes on meanwhile.

    Example:
        >>> from comem.store.asynchronous import AsyncMemory
        >>> memory = AsyncMemory("trip")
        >>> await memory.add("The mill, built in 1204.", image="mill.jpg", user_id="ann")
        >>> answer = await memory.ask("When was this built?", image="photo.jpg")
        >>> async for piece in memory.stream("And by whom?"):
        ...     print(piece, end="")

    Args:
        folder: a folder, or a `Memory` that is open.
        options: as of `Memory`.
    """

    def __init__(self, folder: str | Path | Memory, **options: Any) -> None:
        self.memory = folder if isinstance(folder, Memory) else Memory(folder, **options)

    async def __aenter__(self) -> AsyncMemory:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def add(self, *args: Any, **options: Any) -> Added:
        """As `Memory.add`."""
        return await asyncio.to_thread(self.memory.add, *args, **options)

    async def search(self, *args: Any, **options: Any) -> list[MemoryItem]:
        """As `Memory.search`."""
        return await asyncio.to_thread(self.memory.search, *args, **options)

    async def ask(self, *args: Any, **options: Any) -> MemoryAnswer:
        """As `Memory.ask`."""
        return await asyncio.to_thread(self.memory.ask, *args, **options)

    async def ask_many(self, asks: Sequence[Ask]) -> list[MemoryAnswer]:
        """As `Memory.ask_many`."""
        return await asyncio.to_thread(self.memory.ask_many, asks)

    async def stream(self, *args: Any, **options: Any) -> AsyncIterator[str]:
        """As `Memory.stream`."""
        pieces = self.memory.stream(*args, **options)
        try:
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece
        finally:
            await asyncio.to_thread(pieces.close)  # type: ignore[attr-defined]

    async def get(self, id: str) -> MemoryItem:
        """As `Memory.get`."""
        return await asyncio.to_thread(self.memory.get, id)

    async def get_all(self, **options: Any) -> list[MemoryItem]:
        """As `Memory.get_all`."""
        return await asyncio.to_thread(self.memory.get_all, **options)

    async def update(self, id: str, *args: Any, **options: Any) -> MemoryItem:
        """As `Memory.update`."""
        return await asyncio.to_thread(self.memory.update, id, *args, **options)

    async def delete(self, id: str) -> None:
        """As `Memory.delete`."""
        await asyncio.to_thread(self.memory.delete, id)

    async def delete_all(self, **options: Any) -> int:
        """As `Memory.delete_all`."""
        return await asyncio.to_thread(self.memory.delete_all, **options)

    async def history(self, id: str) -> list[dict[str, Any]]:
        """As `Memory.history`."""
        return await asyncio.to_thread(self.memory.history, id)

    async def export(self, folder: str | Path, **scope: str | None) -> int:
        """As `Memory.export`."""
        return await asyncio.to_thread(self.memory.export, folder, **scope)

    async def close(self) -> None:
        """As `Memory.close`."""
        await asyncio.to_thread(self.memory.close)
