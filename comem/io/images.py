"""The one place that reads references to images (`image_ref`) and opens their pixels (`open_image`).

An image enters as RGB, or as an error that says why not.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
import re
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast
from urllib.parse import unquote, unquote_to_bytes

from PIL import Image, ImageOps, UnidentifiedImageError

from comem.io.files import exact, is_missing, short, write_json
from comem.types import Example, ImageRef, RetrievedContext

#: Refuse images with more pixels than this (a decompression bomb is a few kB that unpack to gigabytes).
MAX_PIXELS = 64_000_000
#: Refuse images with sides beyond this ratio: the image processors of Qwen-VL models do, without naming them.
MAX_ASPECT = 200
#: Refuse longer files unread.
MAX_BYTES = 512 << 20
#: JPEG 2000 takes a second for each 3 MB of it, five times as long as the others.
MAX_JPEG2000_BYTES = 16 << 20
#: A progressive JPEG has about 10 scans; each costs a pass over all pixels.
MAX_SCANS = 100
#: Folders that records may name images in, wherever the records lie: `os.pathsep` stands between them.
REACH = "COMEM_IMAGES"

#: What may be decoded: no format that starts a program (EPS, WMF) or that no one publishes images in.
_FORMATS = ("PNG", "JPEG", "MPO", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "TGA", "JPEG2000", "AVIF")
#: What Pillow's decoders raise on damaged data.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    RuntimeError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)
_MARKUP = (b"<svg", b"<?xml", b"<!doctype", b"<html", b"<head", b"<body")


class ImageError(ValueError):
    """An image that cannot be used; the message names the file and the remedy."""


def image_ref(value: Any, folder: str | Path, *, anywhere: bool = False) -> ImageRef | None:
    """The image that a record names, in any of the forms that records have; None where it names none.

    Read are: a path, relative to `folder`; `file://`; a data URI; base64; bytes; the dicts of the datasets
    library and of chat APIs; a Pillow image; a uint8 array `(h, w)` or `(h, w, 3 or 4)`; a list of one of
    these. What cannot be used becomes a reference that says so when it is opened: it belongs to its record.

    A path stays within the folder above `folder`, so that a foreign file reaches no picture of the user's
    elsewhere; further folders are allowed by the environment variable COMEM_IMAGES, and by the commands that
    write records about images elsewhere (`allow_images`).

    Args:
        value: of the record.
        folder: where relative paths start.
        anywhere: a path may lead anywhere: it is the user's own word, not a record's.

    Example:
        >>> image_ref("images/1.png", "data")
        ImageRef(path='data/images/1.png')
    """
    while isinstance(value, (Mapping, list, tuple)):
        value = _held(value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, ImageRef) or is_missing(value):
        return value if isinstance(value, ImageRef) else None
    if isinstance(value, str):
        return _of_text(value, folder, anywhere)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return ImageRef(data=bytes(value)) if len(value) else None
    return _of_pixels(value)


def _held(value: Mapping[str, Any] | Sequence[Any]) -> Any:
    """What a dict or a list of one has for an image."""
    if not isinstance(value, Mapping):
        if len(value) > 1:
            return _unusable(f"a list of {len(value)}", "one image is expected")
        return value[0] if value else None
    if value and not any(key in value for key in _KEYS):
        return _unusable(short(repr(dict(value))), f"an image's dict has one of {', '.join(_KEYS)}")
    return next((value[key] for key in _KEYS if not is_missing(value.get(key))), None)


#: Where dicts of the datasets library and of chat APIs have the image, pixels before where these came from.
_KEYS = ("bytes", "data", "base64", "path", "url", "image_url", "image", "file_name")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
_BASE64_STARTS = ("iVBOR", "/9j/", "_9j_", "R0lGOD", "UklGR", "Qk", "SUkq", "TU0AK")  # of the usual formats
_PATH_LENGTH = 4096  # longer texts are no paths


def _of_text(text: str, folder: str | Path, anywhere: bool) -> ImageRef | None:
    """A path or an encoded image."""
    text = text.strip(" \t\r\n")
    if text[:5].lower() == "data:":
        head, _, body = text.partition(",")
        encoded = head.lower().endswith(";base64")
        return _decoded(body, "a data URI") if encoded else _data(unquote_to_bytes(body), "a data URI")
    encoded = len(text) > _PATH_LENGTH // 8 or (len(text) > 40 and text.startswith(_BASE64_STARTS))
    if encoded and _BASE64.fullmatch(text):
        return _decoded(text, "a text as long as base64")
    path = exact(text)
    if len(path) > _PATH_LENGTH:
        return _unusable(short(path), "neither a path nor base64")
    if found := _SCHEME.match(path):
        if found[1].lower() != "file":
            return _unusable(short(path), "an address, not a file; fetch it first, and give its path")
        path = unquote(path[len("file://") :].removeprefix("localhost"))
    place = os.path.join(folder, path)
    fault = "" if anywhere else out_of_reach(place, folder)
    return _unusable(short(path), fault) if fault else ImageRef(path=place)


def out_of_reach(place: str, folder: str | Path) -> str:
    """Why the data of a folder may not name an image at this place; "" where they may."""
    if _within_reach(place, folder):
        return ""
    return f"outside the data's folder; to allow it, set {REACH} to the folder that holds it"


def _within_reach(place: str, folder: str | Path) -> bool:
    """Whether a place is in the folder above the data's, or in one that is allowed."""
    home, place = os.path.abspath(folder), os.path.abspath(place)
    above = os.path.dirname(home)
    if _inside(place, home if above == os.path.dirname(above) else above):  # the root holds everything
        return True
    allowed = [os.path.abspath(root) for root in os.environ.get(REACH, "").split(os.pathsep) if root]
    return any(_inside(place, root) for root in (*allowed, *_allowed(home)))


def _inside(place: str, folder: str) -> bool:
    return place == folder or place.startswith(os.path.join(folder, ""))


#: In a folder of records: which folders they may name images in, as the command that wrote them found it.
ALLOWED = ".comem_images.json"


def _allowed(home: str) -> list[str]:
    """The folders that our own command has allowed these records; what lay elsewhere then allows nothing."""
    try:
        found = json.loads(Path(home, ALLOWED).read_text(encoding="utf-8"))
        return list(map(str, found["folders"])) if found["home"] == os.path.realpath(home) else []
    except (OSError, ValueError, LookupError, TypeError):
        return []


def allow_images(folder: str | Path, paths: Iterable[str]) -> None:
    """Let records that a command writes into a folder name these images, wherever they lie.

    A note in the folder says so. It holds for this place only: one that came with a download is none.

    Args:
        folder: of the records.
        paths: as they stand in the records.
    """
    home = os.path.abspath(folder)
    places = (os.path.abspath(os.path.join(home, path)) for path in paths)
    outside = {os.path.dirname(place) for place in places if not _within_reach(place, Path(home))}
    while len(outside) > _NOTED:
        outside = {os.path.dirname(place) for place in outside}
    if outside:
        folders = sorted(outside | set(_allowed(home)))
        write_json(Path(home, ALLOWED), {"home": os.path.realpath(home), "folders": folders})


_NOTED = 100  # folders


def _decoded(text: str, form: str) -> ImageRef:
    """An image of its base64, of either alphabet, with or without its padding."""
    plain = "".join(text.split()).translate(_URLSAFE).rstrip("=")
    try:
        return _data(base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True), form)
    except binascii.Error as error:
        return _unusable(f"{form} ({len(text)} characters)", f"no base64 ({error}); encode it again")


_URLSAFE = str.maketrans("-_", "+/")


def _data(data: bytes, form: str) -> ImageRef:
    return ImageRef(data=data) if data else _unusable(form, "holds no bytes")


def _of_pixels(value: Any) -> ImageRef:
    """An image in memory, kept as PNG: equal pixels are then the same image."""
    if hasattr(value, "__array_interface__") and not isinstance(value, Image.Image):
        shape, kind = tuple(value.shape), str(value.dtype)
        if kind != "uint8" or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (3, 4)):
            return _unusable(f"an array {kind} {shape}", "an image is uint8 (h, w) or (h, w, 3)")
        value = Image.fromarray(value)
    if not isinstance(value, Image.Image):
        return _unusable(short(repr(value)), "an image is a path, bytes, a Pillow image or an array")
    buffer = io.BytesIO()
    try:
        _to_rgb(value).save(buffer, "PNG")
    except _DECODER_ERRORS as error:
        return _unusable(f"a Pillow image of mode {value.mode}", f"cannot be used ({error})")
    return ImageRef(data=buffer.getvalue())


def _unusable(name: str, fault: str) -> ImageRef:
    return ImageRef(path=name, fault=fault)


def open_image(ref: ImageRef | str | Path | bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open an image as RGB: first frame, upright, transparency on white.

    What stands beside the pixels (texts, profiles, EXIF) is passed over where it is damaged.

    Args:
        ref: a reference, a path, or the encoded bytes.
        max_pixels: the largest width x height that is unpacked.

    Returns:
        An RGB image that is fully loaded; no file stays open.

    Raises:
        ImageError: the file is missing, empty, truncated, too large, too thin, or not a raster image.
    """
    if isinstance(ref, ImageRef) and ref.pixels is not None:
        return cast(Image.Image, ref.pixels)
    name, data = _read(ref)
    _refuse_markup(name, data)
    try:
        return _unpacked(name, data, max_pixels)
    except ImageError as error:
        if not isinstance(error.__cause__, _DECODER_ERRORS) or (bare := without_metadata(data)) == data:
            raise
        try:
            return _unpacked(name, bare, max_pixels)
        except ImageError:
            raise error from None


def _unpacked(name: str, data: bytes, max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow's own bomb warning: the limit below decides, with a message that names the file.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_formats())
            _check_size(name, image, max_pixels)
            _check_work(name, image, data)
            return _to_rgb(_load(name, image))
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image that Pillow can read; save it as PNG or JPEG") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: {error}; resize it first") from error
    except ImageError:
        raise
    except _DECODER_ERRORS as error:
        raise ImageError(f"{name}: the image is damaged ({error}); download it again") from error


def without_metadata(data: bytes) -> bytes:
    """An encoded PNG, JPEG, WebP or TIFF with nothing but what its pixels need, and EXIF's orientation.

    Pillow refuses a whole image for a text chunk or a profile that is damaged or large.
    """
    if data.startswith(_PNG):
        return _PNG + b"".join(
            chunk for kind, chunk in _png_chunks(data) if _png_needs(kind, chunk, data[25:26])
        )
    if data.startswith(b"\xff\xd8"):
        return _bare_jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _bare_webp(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _bare_tiff(data)
    return data


_PNG = b"\x89PNG\r\n\x1a\n"


def _png_needs(kind: bytes, chunk: bytes, colours: bytes) -> bool:
    """Whether the pixels need a chunk; of transparency and orientation what is whole is kept."""
    if kind not in (b"tRNS", b"eXIf"):
        return kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND")
    least = 12 + {b"\0": 2, b"\2": 6}.get(colours, 1) * (kind == b"tRNS")
    return len(chunk) >= least and chunk[-4:] == zlib.crc32(chunk[4:-4]).to_bytes(4, "big")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_PNG)
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at:end]
        at = end


def _bare_jpeg(data: bytes) -> bytes:
    """Without comments and application segments, but whole ones of JFIF and Adobe (colours) and EXIF."""
    kept, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and (kind := data[at + 1]) not in (0xDA, 0xD9):
        if kind == 0xFF:  # filling
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        needed = {0xE0: end - at >= 16, 0xEE: end - at >= 14, 0xE1: data[at + 4 : at + 8] == b"Exif"}
        if needed.get(kind, kind != 0xFE and not 0xE0 <= kind <= 0xEF):
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def _bare_webp(data: bytes) -> bytes:
    kept, at = list[bytes](), 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        chunk, kind = bytearray(data[at : at + 8 + size + size % 2]), data[at : at + 4]
        at += 8 + size + size % 2
        if kind in (b"EXIF", b"XMP ", b"ICCP"):
            continue
        if kind == b"VP8X" and len(chunk) > 8:
            chunk[8] &= ~(0x20 | 0x08 | 0x04)  # the flags of these three
        kept.append(bytes(chunk))
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


#: Of a TIFF's first directory: sizes, samples, strips, tiles, colours and orientation.
_TIFF_KEPT = frozenset((*range(254, 267), 273, 274, *range(277, 280), 284, 292, 293, 317, *range(320, 326),
                        332, 338, 339, 347, *range(512, 533)))  # fmt: skip


def _bare_tiff(data: bytes) -> bytes:
    """With a shorter first directory, in its place; the directory is as damaged as it was."""
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    at = int.from_bytes(data[4:8], order)
    end = at + 2 + 12 * int.from_bytes(data[at : at + 2], order)
    entries = [data[start : start + 12] for start in range(at + 2, end, 12)]
    kept = [entry for entry in entries if int.from_bytes(entry[:2], order) in _TIFF_KEPT]
    if end > len(data) or len(kept) == len(entries):
        return data
    directory = len(kept).to_bytes(2, order) + b"".join(kept) + bytes(4)
    return data[:at] + directory + data[at + len(directory) :]


def opened(ref: ImageRef) -> ImageRef:
    """The same image with its pixels, or unchanged where it cannot be opened: `open_image` then says why."""
    try:
        return replace(ref, pixels=open_image(ref))
    except ImageError:
        return ref


def _formats() -> list[str]:
    """Those of the allowed formats that this Pillow was built with."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def image_bytes(ref: ImageRef | str | Path | bytes, limit: int | None = None) -> bytes:
    """The encoded bytes of an image, unopened; none of more than `limit` is read.

    Raises:
        ImageError: there is no such file, it is no regular file, empty, or too large.
    """
    return _read(ref, limit)[1]


def _read(ref: ImageRef | str | Path | bytes, limit: int | None = None) -> tuple[str, bytes]:
    """The name for messages, and the encoded bytes."""
    if isinstance(ref, bytes):
        ref = ImageRef(data=ref)
    if isinstance(ref, ImageRef) and ref.data is not None:
        name, data = str(ref), ref.data
        _check_bytes(name, len(data), limit)
    elif isinstance(ref, ImageRef) and ref.fault:
        raise ImageError(f"{ref.path}: {ref.fault}")
    else:
        path = Path(ref.path if isinstance(ref, ImageRef) and ref.path else str(ref))
        name = short(str(path), 400)
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(f"{name}: cannot be read: it is no file; check the image folder")
            _check_bytes(name, status.st_size, limit)
            data = path.read_bytes()
        except FileNotFoundError as error:
            how = "; on this system folders end in /, not in a backslash" if "\\" in name else ""
            raise ImageError(f"{name}: no such image file; check the image folder{how}") from error
        except ImageError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
            why = getattr(error, "strerror", None) or error
            raise ImageError(f"{name!r}: cannot be read ({why}); check path and permissions") from error
    if not data:
        raise ImageError(f"{name}: the image is empty (zero bytes); download it again or remove the item")
    return name, data


def _check_bytes(name: str, size: int, limit: int | None) -> None:
    if size > (MAX_BYTES if limit is None else limit):
        most = f"more than {MAX_BYTES:,}" if limit is None else f"at most {limit:,} are read here"
        raise ImageError(f"{name}: {size:,} bytes, {most}; resize the image")


def _refuse_markup(name: str, data: bytes) -> None:
    """SVG drawings and HTML error pages often arrive under an image's name: say so plainly."""
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head.startswith(_MARKUP):
        return
    if b"<svg" in head:
        raise ImageError(f"{name}: an SVG drawing, not pixels; convert it to PNG (rsvg-convert, inkscape)")
    raise ImageError(f"{name}: a web page or XML, not an image; the download failed, fetch it again")


def _check_size(name: str, image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: the image has no pixels ({width} x {height}); remove the item")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(
            f"{name}: {width} x {height} pixels, sides beyond {MAX_ASPECT} : 1, which no vision model takes; "
            "cut or pad it, or remove the item"
        )
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width} x {height} pixels are more than the limit of {max_pixels}; resize the image "
            "or raise comem.io.images.MAX_PIXELS"
        )


def _check_work(name: str, image: Image.Image, data: bytes) -> None:
    """What would take long: JPEG 2000, and small progressive JPEGs of thousands of passes over all pixels."""
    if image.format == "JPEG2000" and len(data) > MAX_JPEG2000_BYTES:
        raise ImageError(
            f"{name}: {len(data)} bytes of JPEG 2000, more than {MAX_JPEG2000_BYTES}; save it as JPEG or PNG"
        )
    if image.format in ("JPEG", "MPO") and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise ImageError(f"{name}: a JPEG of {scans} scans, more than {MAX_SCANS}; save it anew")


def _load(name: str, image: Image.Image) -> Image.Image:
    """Decode the first frame, upright."""
    try:
        image.seek(0)
        image.load()
    except _DECODER_ERRORS as error:
        raise ImageError(
            f"{name}: the image is truncated or damaged ({error}); download it again or remove the item"
        ) from error
    with suppress(*_DECODER_ERRORS):  # what cannot be read turns nothing
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB; 16-bit greys are scaled to 8 bits, transparency lies on white."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.mode in ("LA", "PA", "La", "RGBa", "RGBA") or "transparency" in image.info:
        return _by_strips(image, "RGB", _on_white)
    return image if image.mode == "RGB" else image.convert("RGB")


_STRIP = 4_000_000  # pixels


def _by_strips(image: Image.Image, mode: str, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """A change of single pixels, some rows at a time: copies of 64 million pixels are a gigabyte."""
    width, height = image.size
    found, rows = Image.new(mode, image.size), max(1, _STRIP // width)
    for top in range(0, height, rows):
        found.paste(change(image.crop((0, top, width, min(top + rows, height)))), (0, top))
    return found


def _on_white(image: Image.Image) -> Image.Image:
    """A transparent image as RGB, on white."""
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """A 16-bit, 32-bit or float grey as 8 bits; Pillow alone would clip everything above 255 to white."""
    if image.mode.startswith("I;16"):
        scale = 255.0 / 65535.0
    else:
        high = float(image.getextrema()[1])  # type: ignore[arg-type]
        scale = 255.0 / 65535.0 if 255 < high <= 65535 else 255.0 / high if high > 255 else 1.0
        scale = 255.0 if high <= 1.0 else scale

    def change(strip: Image.Image) -> Image.Image:
        strip = strip.convert("I") if strip.mode.startswith("I;16") else strip
        return strip.convert("F").point(lambda value: value * scale + 0.0).convert("L")

    return _by_strips(image, "L", change)


T = TypeVar("T")
U = TypeVar("U")
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Contexts = list[RetrievedContext | None]


class Ahead(Generic[K, V]):
    """`work(key)`, from the shelf where it has been made ahead, else made now.

    Args:
        work: a function of its key alone.
        kept: results that nobody has taken; the oldest go.
    """

    def __init__(self, work: Callable[[K], V], kept: int = 4) -> None:
        self._work, self._kept = work, kept
        self._shelf: dict[K, V] = {}
        self._lock = threading.Lock()

    def make(self, key: K) -> None:
        """Do the work now, in the calling thread, for a `take` to come.

        An error is left to `take`, where it belongs to a question.
        """
        try:
            made = self._work(key)
        except (OSError, ValueError):
            return
        with self._lock:
            self._shelf[key] = made
            while len(self._shelf) > self._kept:
                del self._shelf[next(iter(self._shelf))]

    def take(self, key: K) -> V:
        """The result, which then belongs to the caller."""
        with self._lock:
            if key in self._shelf:
                return self._shelf.pop(key)
        return self._work(key)


@contextmanager
def one_ahead(work: Callable[[T], U], items: Iterable[T]) -> Iterator[Iterator[tuple[T, U]]]:
    """Pairs of item and `work(item)`, in order; the next item's work goes on in a thread meanwhile.

    An error of `work` comes out with its own item. On leaving, work that has not begun is dropped.
    """
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead")

    def pairs() -> Iterator[tuple[T, U]]:
        before: tuple[T, Future[U]] | None = None
        for item in items:
            started = item, pool.submit(work, item)
            if before is not None:
                yield before[0], before[1].result()
            before = started
        if before is not None:
            yield before[0], before[1].result()

    try:
        yield pairs()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def open_images(
    examples: Sequence[Example], contexts: Sequence[RetrievedContext | None], items: bool
) -> tuple[list[Example], Contexts]:
    """The same examples and contexts, their images opened, each once.

    An image that cannot be opened stays as it is: whoever needs it gets the error then.

    Args:
        examples: the questions.
        contexts: per question its items, or None.
        items: whether the items' images are needed too.
    """
    known: dict[ImageRef, ImageRef] = {}

    def ready(ref: ImageRef | None) -> ImageRef | None:
        if ref is None:
            return None
        if ref not in known:
            known[ref] = opened(ref)
        return known[ref]

    questions = [replace(example, image=ready(example.image)) for example in examples]
    if not items:
        return questions, list(contexts)
    return questions, [
        None
        if context is None
        else replace(context, items=tuple(replace(item, image=ready(item.image)) for item in context.items))
        for context in contexts
    ]


def usable(context: RetrievedContext | None, left_out: dict[str, str]) -> RetrievedContext | None:
    """The items whose images are open, or that have none, as training takes them.

    Args:
        context: its items' images opened where they can be (`open_images`).
        left_out: gets why the other items are left out, by id.
    """
    if context is None:
        return None
    open_ = (item.image is None or item.image.pixels is not None for item in context.items)
    good = [at for at, is_open in enumerate(open_) if is_open]
    if len(good) == len(context.items):
        return context
    for at, item in enumerate(context.items):
        if at not in good and item.image is not None and item.id not in left_out:
            left_out[item.id] = why_not(item.image)
    scores = tuple(context.scores[at] for at in good) if context.scores else ()
    return replace(context, items=tuple(context.items[at] for at in good), scores=scores)


def why_not(image: ImageRef) -> str:
    """Why an image cannot be opened; "" if it can."""
    try:
        open_image(image)
    except ImageError as error:
        return str(error)
    return ""


def pixels(image: ImageRef | Image.Image) -> Image.Image:
    """The image, opened if it is a reference."""
    return image if isinstance(image, Image.Image) else open_image(image)
