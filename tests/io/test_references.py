"""References to images are read in one place, whatever their form; a fault belongs to its record."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import comem.io.images as images
from comem.io.images import ImageError, allow_images, image_ref, open_image
from comem.types import ImageRef

PICTURE = Image.effect_noise((20, 10), 60).convert("RGB")


def encoded(kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    PICTURE.save(buffer, kind, **options)
    return buffer.getvalue()


PNG = encoded()
BASE64 = base64.b64encode(PNG).decode()


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """`data/kb` with a picture in it, one beside it, and one outside."""
    (tmp_path / "outer" / "data" / "kb" / "x").mkdir(parents=True)
    for place in ("outer/data/kb/a b\u202f.png", "outer/data/b.png", "secret.png"):
        (tmp_path / place).write_bytes(PNG)
    return tmp_path / "outer" / "data" / "kb"


@pytest.mark.parametrize(
    "value",
    [
        "a b\u202f.png", Path("a b\u202f.png"), " a b\u202f.png\n", "../b.png", "file://a%20b%E2%80%AF.png",
        PNG, bytearray(PNG), memoryview(PNG), PICTURE, np.asarray(PICTURE),
        f"data:image/png;base64,{BASE64}", f" \ndata:image/png;base64,{BASE64}\n", f"\n{BASE64}",
        f"DATA:image/png;charset=x;BASE64,{BASE64}", BASE64,
        BASE64.replace("+", "-").replace("/", "_").rstrip("="),
        "\n".join([BASE64[:76], BASE64[76:]]),
        {"bytes": PNG, "path": None}, {"bytes": None, "path": "../b.png"}, {"bytes": BASE64},
        {"url": f"data:image/png;base64,{BASE64}"}, {"type": "image_url", "image_url": {"url": "../b.png"}},
        ["../b.png"], ImageRef(data=PNG),
    ],
)  # fmt: skip
def test_every_form_gives_the_same_pixels(folder: Path, value: Any) -> None:
    ref = image_ref(value, folder)
    assert ref is not None and open_image(ref).tobytes() == PICTURE.tobytes()
    assert image_ref(value, folder) == ref and hash(ref) == hash(image_ref(value, folder))
    if not str(ref).startswith("<"):
        assert image_ref(f"file://{Path(str(ref)).resolve()}", folder) is not None


@pytest.mark.parametrize("value", [None, "", " ", float("nan"), b"", [], {}, {"bytes": None, "path": None}])
def test_nothing_is_no_image(folder: Path, value: Any) -> None:
    assert image_ref(value, folder) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("http://host/x.png", "an address"), ("HTTPS://host/x.png", "an address"),
        ("s3://b/x.png", "an address"),
        ("data:image/png;base64,@@@@", "no base64"), ("data:image/png;base64,", "no bytes"),
        ("x" * 9000, "not an image"), ("../" * 3000, "neither a path"), (7, "an image is a path"),
        (True, "an image is a path"), (object(), "an image is a path"), (["a.png", "b.png"], "one image is"),
        ({"colour": "red"}, "an image's dict"), (np.zeros((4, 4, 3)), "uint8"), (np.zeros(4, np.uint8),
        "uint8"),
        ("a\0.png", "cannot be read"), ("images\\b.png", "backslash"), ("gone.png", "no such image file"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_in_one_line(folder: Path, value: Any, said: str) -> None:
    ref = image_ref(value, folder)
    assert ref is not None
    with pytest.raises(ImageError, match=said) as error:
        open_image(ref)
    assert len(str(error.value)) < 600 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "way",
    ["../../../secret.png", "x/../../../../secret.png", "{absolute}", "file://{absolute}",
     "file://localhost{absolute}", "file://../../../secret.png"],
)  # fmt: skip
def test_paths_stay_in_the_data_unless_allowed(
    folder: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = folder.parents[2]
    value = way.format(absolute=outside / "secret.png")
    with pytest.raises(ImageError, match="outside the data's folder; to allow it, set COMEM_IMAGES"):
        open_image(image_ref(value, folder) or b"")
    monkeypatch.setenv("COMEM_IMAGES", f"/nowhere:{outside}")
    assert open_image(image_ref(value, folder) or b"").size == (20, 10)


@pytest.mark.parametrize("way", ["..%2f..%2f..%2fsecret.png", "..\\..\\..\\secret.png", "~/secret.png"])
def test_what_is_no_way_out_is_a_name(folder: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parents[2]))
    with pytest.raises(ImageError, match="no such image file"):
        open_image(image_ref(way, folder) or b"")


def test_links_are_followed(folder: Path) -> None:
    """They were made by whoever made the folder; the hub's downloads consist of links."""
    (folder / "link.png").symlink_to(folder.parents[2] / "secret.png")
    assert open_image(image_ref("link.png", folder) or b"").size == (20, 10)


def test_a_command_allows_what_it_writes_and_only_in_its_place(folder: Path) -> None:
    outside = folder.parents[2] / "secret.png"
    allow_images(folder, [f"../../../{outside.name}", "b.png"])
    assert open_image(image_ref("../../../secret.png", folder) or b"").size == (20, 10)
    copied = folder.parents[1] / "else" / "kb"
    copied.mkdir(parents=True)
    (copied / images.ALLOWED).write_bytes((folder / images.ALLOWED).read_bytes())  # a download
    with pytest.raises(ImageError, match="outside"):
        open_image(image_ref("../../../secret.png", copied) or b"")


@pytest.mark.parametrize("size", [(3000, 10), (1, 201), (202, 1)])
def test_sides_that_no_model_takes(size: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG")
    with pytest.raises(ImageError, match="sides beyond 200 : 1"):
        open_image(buffer.getvalue())


@pytest.mark.parametrize("size", [(200, 1), (1, 200), (1, 1), (2, 3), (3, 600)])
def test_what_is_opened_is_taken_by_reader_and_encoder(size: tuple[int, int]) -> None:
    from comem.backbones.specs import resolve_backbone
    from comem.retrieval.embedder import load_embedder

    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    image = open_image(buffer.getvalue())
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(resolve_backbone("toy").source)
    assert processor.image_processor(images=[image], return_tensors="pt")["pixel_values"].isfinite().all()
    assert np.isfinite(load_embedder("toy").embed_images([image])).all()


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


BIG = zlib.compress(b"a" * (3 << 20))
END = PNG.rindex(b"IEND") - 4


@pytest.mark.parametrize(
    ("at", "extra"),
    [
        (33, chunk(b"zTXt", b"k\0\0" + BIG)), (33, chunk(b"iTXt", b"k\0\1\0\0\0" + BIG)),
        (END, chunk(b"zTXt", b"k\0\0" + BIG)),
        (33, chunk(b"tEXt", b"k\0v", crc=1)), (33, chunk(b"pHYs", b"1")), (33, chunk(b"iCCP", b"n\0\0junk")),
        (33, chunk(b"eXIf", b"junk")), (33, chunk(b"zTXt", b"k\0\7nonsense")), (33, chunk(b"acTL", b"1")),
        (33, chunk(b"eXIf", b"II*\0\x08\0\0\0", crc=1)), (33, chunk(b"tRNS", b"\0" * 6, crc=1)),
        (33, chunk(b"tRNS", b"\0")), (33, chunk(b"PRVT", b"a critical one that nobody knows")),
    ],
)  # fmt: skip
def test_what_stands_beside_the_pixels_of_a_png_does_not_decide(at: int, extra: bytes) -> None:
    assert open_image(PNG[:at] + extra + PNG[at:]).tobytes() == PICTURE.tobytes()


@pytest.mark.parametrize(
    ("form", "options"), [("PNG", {}), ("JPEG", {}), ("WEBP", {"exif": b"Exif\0\0junk"}), ("TIFF", {})]
)
@pytest.mark.filterwarnings("ignore")
def test_wherever_an_image_was_cut_it_is_read_or_refused(form: str, options: dict[str, Any]) -> None:
    made = encoded(form, **options)
    for length in {*range(1, min(len(made), 300)), *range(1, len(made), 37)}:
        with suppress(ImageError):
            open_image(made[:length])
        images.without_metadata(made[:length])


def segment(kind: int, data: bytes) -> bytes:
    return b"\xff" + bytes([kind]) + struct.pack(">H", len(data) + 2) + data


@pytest.mark.parametrize(
    "extra",
    [
        segment(0xE1, b"Exif\0\0junk"), segment(0xE2, b"MPF\0junk"), segment(0xEE, b"Adobe"),
        segment(0xE0, b"JFIF\0"),
        segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04"), b"\xff\xe1\0\0",
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_what_stands_beside_the_pixels_of_a_jpeg_does_not_decide(extra: bytes) -> None:
    plain = encoded("JPEG")
    assert open_image(plain[:2] + extra + plain[2:]).tobytes() == open_image(plain).tobytes()


def test_damaged_profiles_of_a_webp_do_not_decide() -> None:
    made = encoded("WEBP", lossless=True, exif=b"Exif\0\0junk", icc_profile=b"junk", xmp=b"<x")
    assert open_image(made).tobytes() == PICTURE.tobytes()
    bare = images.without_metadata(made)
    assert len(bare) < len(made) and open_image(bare).tobytes() == PICTURE.tobytes()


@pytest.mark.parametrize("tag", [270, 305, 306, 700, 34675])  # texts, XMP, a profile
@pytest.mark.parametrize(
    ("at", "value"), [(8, b"\xff\xff\xff\x7f"), (4, b"\xff\xff\xff\x7f"), (2, b"\xff\x7f")]
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_tags_beside_the_pixels_of_a_tiff_do_not_decide(tag: int, at: int, value: bytes) -> None:
    own = {270: "text" * 9, 305: "text" * 9, 306: "text" * 9, 700: b"<x" * 9, 34675: b"junk" * 9}
    made = bytearray(encoded("TIFF", tiffinfo=own))
    (start,) = struct.unpack_from("<I", made, 4)
    entry = next(
        place
        for place in range(start + 2, len(made), 12)
        if made[place : place + 2] == struct.pack("<H", tag)
    )
    made[entry + at : entry + at + len(value)] = value
    assert open_image(bytes(made)).tobytes() == PICTURE.tobytes()


def test_work_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg = encoded("JPEG", progressive=True)
    with pytest.raises(ImageError, match="a JPEG of .* scans"):
        open_image(jpeg[:-2] + b"\xff\xda\0\x02" * 200 + jpeg[-2:])
    monkeypatch.setattr(images, "MAX_JPEG2000_BYTES", 100)
    with pytest.raises(ImageError, match="JPEG 2000"):
        open_image(encoded("JPEG2000"))
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    (tmp_path / "a.png").write_bytes(PNG)
    with pytest.raises(ImageError, match="bytes, more than 10"):
        open_image(tmp_path / "a.png")
    with pytest.raises(ImageError, match="no file"):
        open_image("/dev/null")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "I", "F", "I;16"])
def test_strips_change_no_pixel(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = PICTURE.convert("L" if mode in ("I", "F", "I;16") else mode.replace("PA", "P")).convert(mode)
    if mode == "P":
        image.info["transparency"] = 3
    whole = images._to_rgb(image).tobytes()
    monkeypatch.setattr(images, "_STRIP", 50)
    assert images._to_rgb(image).tobytes() == whole
