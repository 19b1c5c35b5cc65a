"""Images: every kind of picture that the web serves opens as RGB or is refused with the file and a remedy."""

from __future__ import annotations

import io
import random
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from comem.io import images
from comem.io.images import ImageError, open_image
from comem.types import ImageRef

RED = (255, 0, 0)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def colour(image: Image.Image) -> tuple[int, ...]:
    pixel = image.getpixel((2, 2))
    assert isinstance(pixel, tuple)
    return pixel


def bomb_png(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that claims to be huge."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def palette_with_transparency() -> Image.Image:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 255, 255, 0, 0] + [0] * 762)
    image.putpixel((1, 1), 1)
    return image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_common_formats_open_from_path_bytes_and_reference(tmp_path: Path, kind: str) -> None:
    data = encoded(Image.new("RGB", (9, 5), RED), kind)
    path = tmp_path / "a.png"  # the content decides, not the name
    path.write_bytes(data)
    for ref in (path, str(path), data, ImageRef(path=str(path)), ImageRef(data=data)):
        image = open_image(ref)
        assert image.mode == "RGB" and image.size == (9, 5)
        assert colour(image)[0] >= 250 and max(colour(image)[1:]) <= 5


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F", "LAB"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "PNG" if mode in ("1", "L", "LA", "P", "RGBA", "I;16") else "TIFF"
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else kind
    assert open_image(encoded(Image.new(mode, (6, 6)), kind)).mode == "RGB"


def test_cmyk_keeps_its_colour() -> None:
    pixel = colour(open_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")))
    assert pixel[0] > 230 and pixel[1] < 30 and pixel[2] < 30


def test_transparency_lies_on_white() -> None:
    assert open_image(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)))).getpixel((0, 0)) == (255, 255, 255)
    palette = open_image(encoded(palette_with_transparency(), transparency=0))
    assert palette.getpixel((0, 0)) == (255, 255, 255) and palette.getpixel((1, 1)) == RED
    keyed = open_image(encoded(Image.new("RGB", (4, 4), RED), transparency=RED))
    assert keyed.getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    for value, expected in ((65535, 255), (32896, 128), (0, 0), (257, 1)):
        pixel = colour(open_image(encoded(Image.new("I;16", (4, 4), value))))
        assert abs(pixel[0] - expected) <= 1


def test_animations_give_their_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, (0, 255, 0))]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
        assert colour(open_image(data))[0] > 240


def test_exif_orientation_is_applied_and_bad_exif_does_no_harm() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert open_image(encoded(Image.new("RGB", (9, 5), RED), "JPEG", exif=exif.tobytes())).size == (5, 9)


def test_truncated_empty_and_missing_files_are_named(tmp_path: Path) -> None:
    noise = Image.effect_noise((64, 64), 90)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"):
        data = encoded(noise, kind)
        path = tmp_path / f"half.{kind.lower()}"
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(ImageError, match=f"half.{kind.lower()}: .*(download|save it)"):
            open_image(path)
    empty = tmp_path / "empty.png"
    empty.touch()
    with pytest.raises(ImageError, match="empty.png: the image is empty"):
        open_image(empty)
    with pytest.raises(ImageError, match="none.png: no such image file"):
        open_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="cannot be read"):
        open_image(tmp_path)
    with pytest.raises(ImageError, match="cannot be read"):
        open_image("a\0b.png")


def test_decompression_bombs_are_refused_unopened(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    for width, height in ((20_000, 20_000), (9_000, 9_000), (2**31 - 1, 2**31 - 1)):
        path.write_bytes(bomb_png(width, height))
        with pytest.raises(ImageError, match="bomb.png: .*(limit|resize)"):
            open_image(path)
    with pytest.raises(ImageError, match="limit of 10"):
        open_image(encoded(Image.new("RGB", (4, 4))), max_pixels=10)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\xef\xbb\xbf\n  <svg/>", "SVG"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"<HTML>rate limited</HTML>", "web page"),
        (b"just words", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n", "not an image"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_reason(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "page.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=f"page.jpg: .*{message}"):
        open_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's notes on damaged TIFF tags
def test_damaged_bytes_never_raise_anything_else() -> None:
    random.seed(3)
    noise = Image.effect_noise((24, 24), 90)
    sources = [encoded(noise, kind) for kind in images._formats() if kind not in ("MPO", "ICO", "JPEG2000")]
    for _ in range(400):
        data = bytearray(random.choice(sources))
        for _ in range(random.randint(1, 8)):
            data[random.randrange(min(len(data), 300))] = random.randrange(256)
        with suppress(ImageError):
            assert open_image(bytes(data)).mode == "RGB"
