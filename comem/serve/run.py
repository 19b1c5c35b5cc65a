"""`comem serve`: a memory behind uvicorn, until it is told to stop."""

from __future__ import annotations

import os
import socket

from comem.io.console import Progress, print_line, quiet
from comem.io.files import whole_file
from comem.serve.fetching import fetch_image
from comem.serve.settings import ServeSettings, loopback, read_keys
from comem.store.commands import open_memory

NEEDS = "the server needs more packages: pip install 'comem[serve]'"


def serve(settings: ServeSettings, progress: Progress = quiet) -> None:
    """Serve a memory until SIGTERM or Ctrl-C; requests that have begun are answered.

    Example:
        >>> serve(ServeSettings(Path("trip"), port=8000, ui=True))

    Raises:
        ValueError: a package is missing, no key for an address that others reach, or a folder of others.
        StorageError: another process writes to the memory.
    """
    try:
        import uvicorn

        from comem.serve.app import build_app

        if settings.fetch_images:
            import aiohttp  # noqa: F401 (now, not with the first request)
    except ImportError as error:
        raise ValueError(f"{NEEDS} ({error.name} is missing)") from error
    if settings.template is not None:
        _write_template(settings)
        return
    keys = read_keys(settings, os.environ)
    fetch = fetch_image if settings.fetch_images else None
    listener = _listen(settings)
    memory = open_memory(settings, progress, create=True)
    memory.warm_up(reader=not settings.upstream)
    app = build_app(memory, settings, keys, fetch)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    what = "the page is at" if settings.ui else "OpenAI's clients take"
    where = f"http://{shown}:{port}{'/' if settings.ui else '/v1'}"
    print_line(f"{len(memory):,} items of {memory.folder}; {what} {where}")
    if not loopback(settings.host):
        print_line("behind it stands no TLS: put a reverse proxy before it on a network that you do not own")
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=max(1, round(settings.drain)),
        timeout_keep_alive=30, h11_max_incomplete_event_size=65_536,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listener])


def _write_template(settings: ServeSettings) -> None:
    """The chat template of the reader, the memory before it, for `vllm serve --chat-template`."""
    from comem.serve.upstream import memory_template

    assert settings.template is not None
    with open_memory(settings, create=True) as memory:
        process = memory.models.backbone.process
    template = process.processor.chat_template or process.tokenizer.chat_template
    with whole_file(settings.template) as path:
        path.write_text(memory_template(template), encoding="utf-8")
    print_line(f"vllm serve MODEL --enable-prompt-embeds --chat-template {settings.template}")


def _listen(settings: ServeSettings) -> socket.socket:
    """A socket on the address; an error now, not after the models have been loaded.

    Raises:
        ValueError: the address is taken, or none of this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sends at once only on sockets that say TCP; others wait 40 ms for the client's acknowledgement
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        text = f"{settings.host}:{settings.port}: {error.strerror}; give another --port or --host"
        raise ValueError(text) from error
    return listener
