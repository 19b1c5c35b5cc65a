"""Damage to bytes, and to the values in records; every mutation follows from its seed."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from typing import Any

Mutator = Callable[[bytes, random.Random], bytes]


def flipped(data: bytes, draw: random.Random) -> bytes:
    """One bit is another."""
    if not data:
        return data
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def overwritten(data: bytes, draw: random.Random) -> bytes:
    """Some bytes are others: noise, or zeros as a lost block leaves them."""
    at, size = draw.randrange(len(data) + 1), draw.choice((1, 4, 16, 512))
    size = min(size, len(data) - at)
    return data[:at] + (bytes(size) if draw.random() < 0.5 else draw.randbytes(size)) + data[at + size :]


def cut(data: bytes, draw: random.Random) -> bytes:
    """The end is missing."""
    return data[: draw.randrange(len(data) + 1)]


def emptied(data: bytes, draw: random.Random) -> bytes:
    """Nothing is left."""
    return b""


def swapped(data: bytes, draw: random.Random) -> bytes:
    """Two blocks have changed places."""
    size = max(1, len(data) // draw.choice((2, 4, 16)))
    blocks = [data[at : at + size] for at in range(0, len(data), size)]
    one, other = draw.randrange(len(blocks) or 1), draw.randrange(len(blocks) or 1)
    if blocks:
        blocks[one], blocks[other] = blocks[other], blocks[one]
    return b"".join(blocks)


def repeated(data: bytes, draw: random.Random) -> bytes:
    """A piece comes twice."""
    at = draw.randrange(len(data) + 1)
    end = min(len(data), at + draw.choice((1, 8, 64, 4096)))
    return data[:end] + data[at:]


#: What disks, copies and crashes do to a file.
DAMAGE: tuple[Mutator, ...] = (flipped, flipped, overwritten, cut, emptied, swapped, repeated)

_DEEP: Any = "deep"
for _ in range(60):
    _DEEP = [_DEEP]
#: Values that files of strangers hold where others are expected.
ODD: tuple[Any, ...] = (
    None, "", " ", "null", "NaN", "nan", "N/A", True, False, 0, -1, 2**63, 10**30, 1.5, float("nan"),
    float("inf"), [], {}, [None], [[]], {"": ""}, "\ud800", "a\x00b", "\u202e\u200b\ufeff", "e\u0301",
    "<image>", "<|im_start|>system", "../../../../etc/passwd", "http://[::1", "https://127.0.0.1/a.png",
    "file:///etc/hostname", "data:image/png;base64,AA", "x" * 70_000, _DEEP, "1e999", "-0", "\r\n", "\t",
    '"', "\\", "%s%n{}", ["a", 1, None], {"bytes": None, "path": None},
)  # fmt: skip


def odd_values(data: bytes, draw: random.Random) -> bytes:
    """Of JSON, or lines of it: some value is an odd one, or is missing, renamed or repeated."""
    lines = data.split(b"\n") if _is_lines(data) else [data]
    filled = [at for at, line in enumerate(lines) if line.strip()]
    if not filled:
        return data
    for at in draw.sample(filled, min(len(filled), draw.choice((1, 1, 2, 5)))):
        try:
            value = json.loads(lines[at])
        except ValueError:
            continue
        lines[at] = json.dumps(_changed(value, draw), ensure_ascii=draw.random() < 0.5).encode(
            "utf-8", "surrogatepass"
        )
    if draw.random() < 0.1:
        lines.append(lines[draw.choice(filled)])
    return b"\n".join(lines)


def _is_lines(data: bytes) -> bool:
    return data[:1] == b"{" and b"}\n{" in data


def _changed(value: Any, draw: random.Random) -> Any:
    """The same with one change somewhere in it."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        way = draw.random()
        if way < 0.1:
            return {name: each for name, each in value.items() if name != key}
        if way < 0.15:
            return {(f"{name}x" if name == key else name): each for name, each in value.items()}
        return {**value, key: _changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.7:
        at = draw.randrange(len(value))
        return [*value[:at], _changed(value[at], draw), *value[at + 1 :]]
    if isinstance(value, str) and draw.random() < 0.3:
        at = draw.randrange(len(value) + 1)
        return value[:at] + str(draw.choice(ODD))[:1000] + value[at:]
    return draw.choice(ODD)


def odd_lines(data: bytes, draw: random.Random) -> bytes:
    """Of text: lines or fields are gone, come twice, have changed places, or are odd."""
    end = draw.choice((b"\n", b"\t", b",", b'"', b":", b" "))
    parts = data.split(end)
    at = draw.randrange(len(parts))
    way = draw.randrange(5)
    if way == 0:
        del parts[at]
    elif way == 1:
        parts.insert(at, parts[draw.randrange(len(parts))])
    elif way == 2:
        other = draw.randrange(len(parts))
        parts[at], parts[other] = parts[other], parts[at]
    else:
        odd = str(draw.choice(ODD)).encode("utf-8", "surrogatepass")
        parts[at] = odd if way == 3 else parts[at] + odd
    return end.join(parts)


def recoded(data: bytes, draw: random.Random) -> bytes:
    """Another encoding, line end, or a mark at the start."""
    text = data.decode("utf-8", "replace")
    way = draw.randrange(5)
    if way == 0:
        return text.encode("utf-16")
    if way == 1:
        return text.encode("cp1252", "replace") + "é".encode("cp1252")
    if way == 2:
        return b"\xef\xbb\xbf" + data
    return data.replace(b"\n", b"\r\n" if way == 3 else b"\r")


def digits(data: bytes, draw: random.Random) -> bytes:
    """A number has thousands of digits."""
    places = [at for at, byte in enumerate(data) if 48 <= byte <= 57]
    at = draw.choice(places) if places else 0
    return data[:at] + b"9" * 5000 + data[at:]


TEXT: tuple[Mutator, ...] = (
    *DAMAGE,
    odd_values,
    odd_values,
    odd_values,
    odd_values,
    odd_lines,
    odd_lines,
    recoded,
    digits,
)


def mutate(data: bytes, draw: random.Random, ways: tuple[Mutator, ...]) -> tuple[bytes, str]:
    """One to three mutations, and their names. Packed text (gzip) is unpacked first more often than not."""
    packed = data[:2] == b"\x1f\x8b" and draw.random() < 0.7
    data = gzip.decompress(data) if packed else data
    names = []
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        way = draw.choice(ways)
        names.append(way.__name__)
        data = way(data, draw)
    return gzip.compress(data, 1) if packed else data, "+".join(names)
