"""Errors as OpenAI's clients read them."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

from comem.io.files import StorageError, no_space
from comem.serve.batching import BusyError
from comem.serve.reading import RequestError
from comem.serve.upstream import UpstreamError
from comem.store.table import NoItemError

_KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404:
        "not_found_error",
    405: "invalid_request_error", 408: "timeout_error", 409: "conflict_error", 413: "invalid_request_error",
    429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error", 507: "insufficient_storage_error",
}  # fmt: skip

_STORAGE = {
    507: "no space is left on the server; nothing is half written",
    409: "another process writes to this memory",
    503: "the memory cannot be written to",
}
_KNOWN: tuple[tuple[tuple[type[BaseException], ...], int, str | None, str], ...] = (
    ((NoItemError,), 404, "not_found", ""),
    ((BusyError,), 503, "overloaded", ""),
    ((TimeoutError, asyncio.TimeoutError), 504, "timeout", "the answer took too long"),
    ((ValueError,), 400, None, ""),
)


def error_body(
    message: str, status: int, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """The body of an error."""
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def explained(error: BaseException) -> tuple[int, dict[str, Any]]:
    """Status and body of what went wrong; what is not the caller's to know is left out."""
    text = " ".join(str(error).split())
    if isinstance(error, RequestError):
        return error.status, error_body(text, error.status, error.code, error.param)
    if isinstance(error, UpstreamError):
        return error.status, error_body(text, error.status, "upstream")
    if isinstance(error, StorageError):
        status = 507 if no_space(error) else 409 if error.errno == errno.EAGAIN else 503
        return status, error_body(_STORAGE[status], status, "storage")
    for kinds, status, code, said in _KNOWN:
        if isinstance(error, kinds):
            return status, error_body(said or text, status, code)
    return 500, error_body("an error of the server; its log has the rest", 500)
