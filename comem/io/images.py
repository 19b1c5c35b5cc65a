"""The one place that opens pixels: an image enters as RGB, or as an error that says why not."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar, cast

from PIL import Image, ImageOps, UnidentifiedImageError

from comem.types import Example, ImageRef, RetrievedContext

#: Refuse images with more pixels than this (a decompression bomb is a few kB that unpack to gigabytes).
MAX_PIXELS = 64_000_000

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


def open_image(ref: ImageRef | str | Path | bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open an image as RGB: first frame, upright, transparency on white.

    Args:
        ref: a reference, a path, or the encoded bytes.
        max_pixels: the largest width x height that is unpacked.

    Returns:
        An RGB image that is fully loaded; no file stays open.

    Raises:
        ImageError: the file is missing, empty, truncated, too large, or not a raster image.
    """
    if isinstance(ref, ImageRef) and ref.pixels is not None:
        return cast(Image.Image, ref.pixels)
    name, data = _read(ref)
    _refuse_markup(name, data)
    try:
        with warnings.catch_warnings():
            # Pillow's own bomb warning: the limit below decides, with a message that names the file.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_formats())
            _check_size(name, image, max_pixels)
            return _to_rgb(_load(name, image))
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image that Pillow can read; save it as PNG or JPEG") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: {error}; resize it first") from error
    except ImageError:
        raise
    except _DECODER_ERRORS as error:
        raise ImageError(f"{name}: the image is damaged ({error}); download it again") from error


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


def _read(ref: ImageRef | str | Path | bytes) -> tuple[str, bytes]:
    """The name for messages, and the encoded bytes."""
    if isinstance(ref, bytes):
        ref = ImageRef(data=ref)
    if isinstance(ref, ImageRef) and ref.data is not None:
        name, data = str(ref), ref.data
    else:
        path = Path(str(ref))
        name = str(path)
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise ImageError(f"{name}: no such image file; check the image folder") from error
        except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
            raise ImageError(f"{name!r}: cannot be read ({error}); check path and permissions") from error
    if not data:
        raise ImageError(f"{name}: the image is empty (zero bytes); download it again or remove the item")
    return name, data


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
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width} x {height} pixels are more than the limit of {max_pixels}; resize the image "
            "or raise comem.io.images.MAX_PIXELS"
        )


def _load(name: str, image: Image.Image) -> Image.Image:
    """Decode the first frame, upright."""
    try:
        image.seek(0)
        image.load()
        return ImageOps.exif_transpose(image)
    except _DECODER_ERRORS as error:
        raise ImageError(
            f"{name}: the image is truncated or damaged ({error}); download it again or remove the item"
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB; 16-bit greys are scaled to 8 bits, transparency lies on white."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.mode in ("LA", "PA", "La", "RGBa", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """A 16-bit, 32-bit or float grey as 8 bits; Pillow alone would clip everything above 255 to white."""
    sixteen = image.mode.startswith("I;16")
    image = image.convert("I").convert("F") if sixteen else image.convert("F")
    extrema = image.getextrema()
    high = float(extrema[1])  # type: ignore[arg-type]
    if sixteen or 255 < high <= 65535:
        scale = 255.0 / 65535.0
    else:
        scale = 255.0 if high <= 1.0 else 1.0 if high <= 255 else 255.0 / high
    return image.point(lambda value: value * scale + 0.0).convert("L")


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
