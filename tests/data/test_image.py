"""The image loader: right pixels or one fixed reason, for everything that people call a picture."""

import io
import os
import pickle
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from chiasm.core.errors import InputError
from chiasm.data import image as module
from chiasm.data.image import ImageError, load_image, resize_to
from chiasm.data.image_refs import image_ref, image_ref_from_array, image_ref_from_bytes

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, raw: bytes, extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")


JPEG, PNG = encoded(PICTURE, "JPEG", quality=90), encoded(PICTURE, "PNG")
BLANK = Image.new("RGB", (64, 48))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    """A format that is read in another channel order or palette shows up as changed pixels."""
    options = {"WEBP": {"lossless": True, "exact": True}}.get(kind, {})
    picture = PICTURE.quantize(16).convert("RGB") if kind == "GIF" else PICTURE
    loaded = load_image(encoded(picture, kind, **options), "x")
    assert loaded.dtype == np.uint8
    assert loaded.flags.writeable
    assert np.array_equal(loaded, np.asarray(picture))


def cmyk_without_adobe_marker() -> bytes:
    """Return a yellow CMYK JPEG of a writer that stores inks as they are.

    Pillow inverts them and adds the marker, so the inverse is given to it and the marker cut out.
    """
    plain = encoded(Image.new("CMYK", (16, 16), (255, 255, 0, 255)), "JPEG", quality=100)
    start = plain.index(b"\xff\xee")
    return plain[:start] + plain[start + 2 + int.from_bytes(plain[start + 2 : start + 4], "big") :]


REJECTED = {
    "empty": (b"", "empty_file"),
    "html": (b"<!doctype html>404", "not_an_image"),
    "words": (b"hello" * 50, "not_an_image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>", "not_an_image"),
    "half jpeg": (JPEG[: len(JPEG) // 2], "truncated"),
    "jpeg less 2": (JPEG[:-2], "truncated"),
    "jpeg header": (JPEG[:20], "corrupt"),
    "half png": (PNG[: len(PNG) // 2], "truncated"),
    "flipped png": (PNG[:3000] + bytes([PNG[3000] ^ 255]) + PNG[3001:], "corrupt"),
    "cut webp": (encoded(PICTURE, "WEBP")[:600], "truncated"),
    "cut gif": (encoded(PICTURE.convert("P"), "GIF")[:2000], "truncated"),
    "width 0": (png(0, 10, 8, 2, b""), "corrupt"),
    "65535 square": (png(65535, 65535, 8, 2, bytes(1000)), "too_many_pixels"),
    "2^31 square": (png(2**31 - 1, 2**31 - 1, 1, 0, b"\0"), "too_many_pixels"),
    "169 MP": (png(13000, 13000, 1, 0, bytes(1000)), "too_many_pixels"),
    "88 MP": (png(9400, 9400, 1, 0, bytes(1000)), "too_many_pixels"),
    "long side": (png(40000, 1251, 1, 0, bytes(1000)), "too_many_pixels"),
    "longer side": (png(33000, 1100, 1, 0, bytes(1000)), "side_too_long"),
    "1x1": (encoded(Image.new("RGB", (1, 1)), "PNG"), "too_small"),
    "7x9": (encoded(Image.new("RGB", (7, 9)), "PNG"), "too_small"),
    "narrow": (encoded(Image.new("RGB", (8, 300)), "PNG"), "aspect"),
    "text bomb": (
        png(8, 8, 8, 2, bytes(200), chunk(b"zTXt", b"k\0\0" + zlib.compress(b"A" * 80_000_000))),
        "metadata_bomb",
    ),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "format_not_allowed"),
    "pdf": (encoded(BLANK, "PDF"), "format_not_allowed"),
    "ico": (encoded(BLANK, "ICO"), "format_not_allowed"),
    "ppm": (encoded(BLANK, "PPM"), "format_not_allowed"),
    "jpeg 2000": (encoded(BLANK, "JPEG2000"), "format_not_allowed"),
    "tga": (encoded(BLANK, "TGA"), "not_an_image"),
    "float tiff": (encoded(Image.fromarray(np.ones((16, 16), np.float32)), "TIFF"), "mode"),
    "32-bit tiff": (encoded(Image.fromarray(np.ones((16, 16), np.int32)), "TIFF"), "mode"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_unusable_content_has_its_code(name: str) -> None:
    """Each kind once passed silently, hung, or escaped as some other exception in well-known projects."""
    content, code = REJECTED[name]
    with pytest.raises(ImageError) as caught:
        load_image(content, "file.jpg")
    assert caught.value.code == code
    assert "0x" not in str(caught.value)
    assert str(caught.value).startswith("file.jpg: ")


def test_bomb_is_refused_from_its_header() -> None:
    """Decoding 169 MP takes seconds and a gigabyte; the header takes a millisecond."""
    content = png(13000, 13000, 1, 0, bytes((13000 // 8 + 1) * 13000))
    start = time.perf_counter()
    with pytest.raises(ImageError, match="pixels"):
        load_image(content, "x")
    assert time.perf_counter() - start < 0.2


def test_byte_cap_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cap must hold for bytes that never came from a file."""
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    with pytest.raises(ImageError) as caught:
        load_image(PNG, "x")
    assert caught.value.code == "too_many_bytes"


def test_pixel_cap_can_be_lowered_for_a_server() -> None:
    """A server's own limit must win over the default."""
    with pytest.raises(ImageError) as caught:
        load_image(PNG, "x", max_pixels=48 * 64 - 1)
    assert caught.value.code == "too_many_pixels"
    assert load_image(PNG, "x", max_pixels=48 * 64).shape == (48, 64, 3)


def test_truncated_switch_of_another_package_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With LOAD_TRUNCATED_IMAGES set by a dependency, half a picture came back filled with grey."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ImageError) as caught:
        load_image(JPEG[: len(JPEG) // 2], "x")
    assert caught.value.code == "truncated"


UNDO = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}
"""Orientation -> how the upright picture lies in the file (EXIF 2.3, table of tag 0x0112)."""


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    """Phones store pictures lying; Pillow turns TIFF by itself, so a second turn must not follow."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(UNDO[orientation](PIXELS)))
    options = {"WEBP": {"lossless": True, "exact": True}}.get(kind, {})
    assert np.array_equal(load_image(encoded(stored, kind, exif=exif, **options), "x"), PIXELS)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM\0*" + b"\xff" * 54, b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\1\0\0\0\x63\0"]
)
def test_garbage_exif_is_ignored(exif: bytes) -> None:
    """A broken EXIF block must neither refuse the picture nor warn."""
    assert np.array_equal(load_image(encoded(PICTURE, "JPEG", quality=90, exif=exif), "x"), load_image(JPEG, "x"))


def test_alpha_is_laid_over_white() -> None:
    """`convert("RGB")` shows the hidden colours of transparent pixels."""
    clear, half = PICTURE.copy(), Image.new("RGBA", (16, 16), (200, 40, 0, 128))
    clear.putalpha(0)
    assert load_image(encoded(clear, "PNG"), "x").min() == 255
    assert np.abs(load_image(encoded(half, "PNG"), "x")[0, 0].astype(int) - [227, 147, 127]).max() <= 1
    grey = encoded(Image.new("LA", (16, 16), (0, 0)), "PNG")
    assert load_image(grey, "x").min() == 255


def test_transparent_palette_is_laid_over_white() -> None:
    """Transparency of a palette lives outside the pixels and was dropped, with a warning."""
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.paste(1, (8, 0, 16, 16))
    loaded = load_image(encoded(palette, "PNG", transparency=bytes([0, 255])), "x")
    assert loaded[0, 0].tolist() == [255, 255, 255]
    assert loaded[0, 15].tolist() == [200, 100, 50]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_upper_byte(kind: str) -> None:
    """Pillow's conversion clips at 255, which turned 99.6 % of the pixels white."""
    ramp = (np.arange(256, dtype=np.uint16).reshape(16, 16) * 257).astype(np.uint16)
    loaded = load_image(encoded(Image.fromarray(ramp), kind), "x")
    assert np.array_equal(loaded[..., 1], np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("mode", ["L", "1", "P", "LAB", "YCbCr"])
def test_other_modes_stay_close_to_the_picture(mode: str) -> None:
    """A mode that is read as another one shows wrong colours."""
    plain = Image.new("RGB", (32, 32), (255, 255, 255))
    loaded = load_image(encoded(plain.convert(mode), "TIFF" if mode in ("LAB", "YCbCr") else "PNG"), "x")
    assert np.abs(loaded.astype(int) - 255).max() <= 2


def test_cmyk_inks_follow_the_adobe_marker() -> None:
    """Adobe stores inverted inks; other writers do not, and their red came out black."""
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    adobe = load_image(encoded(red, "JPEG", quality=100), "x")
    assert np.abs(adobe[8, 8].astype(int) - [255, 0, 0]).max() <= 2
    plain = load_image(cmyk_without_adobe_marker(), "x")
    assert np.abs(plain[8, 8].astype(int) - [255, 255, 0]).max() <= 2


def test_first_frame_of_an_animation() -> None:
    """Walking through frames costs time, and the last frame is another picture."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.abs(load_image(content, "x")[8, 8].astype(int) - [255, 0, 0]).max() <= 6, kind


@pytest.mark.parametrize(("hint", "shape"), [(None, (600, 800, 3)), (100, (150, 200, 3)), (500, (600, 800, 3))])
def test_scaled_jpeg_never_falls_below_the_hint(hint: int | None, shape: tuple[int, ...]) -> None:
    """A decode that is smaller than the model's picture would be blown up again."""
    content = encoded(PICTURE.resize((800, 600), Image.Resampling.BICUBIC), "JPEG", quality=95)
    loaded = load_image(content, "x", max_side_px=hint)
    assert loaded.shape == shape
    full = resize_to(load_image(content, "x"), 100, 100, crop=True).astype(int)
    assert np.abs(full - resize_to(loaded, 100, 100, crop=True)).mean() < 2


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([JPEG, PNG, encoded(PICTURE, "WEBP"), encoded(PICTURE, "TIFF")]), st.data())
def test_mutants_are_loaded_or_refused(seed: bytes, data: st.DataObject) -> None:
    """Damaged files made Pillow raise SyntaxError, RuntimeError and others that callers did not catch."""
    content = bytearray(seed)
    for place in data.draw(st.lists(st.integers(0, len(seed) - 1), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    try:
        loaded = load_image(bytes(content[: data.draw(st.integers(1, len(content)))]), "x")
    except ImageError:
        return
    assert loaded.dtype == np.uint8
    assert loaded.ndim == 3
    assert loaded.shape[2] == 3


def test_reference_is_lazy_and_keyed_by_content(tmp_path: Path) -> None:
    """A copy under another name is the same picture; a reference must not need the file before it is asked."""
    first, copy, later = tmp_path / "a.png", tmp_path / "b", tmp_path / "later.png"
    reference = image_ref(later)
    for path in (first, copy, later):
        path.write_bytes(PNG)
    assert np.array_equal(reference.load(), PIXELS)
    assert image_ref(first).content_key() == image_ref(copy).content_key() == image_ref_from_bytes(PNG).content_key()
    assert image_ref_from_bytes(JPEG).content_key() != image_ref(first).content_key()
    assert image_ref(first).path == str(first)
    assert np.array_equal(pickle.loads(pickle.dumps(image_ref(first))).load(), PIXELS)  # noqa: S301


def test_files_that_are_none(tmp_path: Path) -> None:
    """Opening a pipe named .jpg waits for ever; folders and broken links raised bare errors."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
    names = {"pipe.jpg": "not_regular", "folder.jpg": "not_regular", "broken.jpg": "missing", "no.jpg": "missing"}
    for name, code in names.items():
        for action in (image_ref(tmp_path / name).load, image_ref(tmp_path / name).content_key):
            with pytest.raises(ImageError) as caught:
                action()
            assert caught.value.code == code, name


def test_array_key_covers_the_shape() -> None:
    """Pictures of 30x100 and 100x30 with equal bytes shared one cache entry elsewhere (CVE-2025-46722)."""
    wide = PIXELS.reshape(24, 128, 3)
    assert image_ref_from_array(PIXELS).content_key() != image_ref_from_array(wide).content_key()
    kept = PIXELS.copy()
    reference = image_ref_from_array(kept)
    key = reference.content_key()
    kept[:] = 0
    reference.load()[:] = 7
    assert reference.content_key() == key
    assert np.array_equal(reference.load(), PIXELS)


def test_error_survives_a_process_border() -> None:
    """An exception with its own arguments is lost on its way from a decoding process unless it says how to rebuild."""
    error = pickle.loads(pickle.dumps(ImageError("mode", "x")))  # noqa: S301
    assert (error.code, error.source, error.exit_code) == ("mode", "x", 2)
    assert isinstance(error, InputError)


def test_resize_to_a_square() -> None:
    """Crop and squash mixed up, or a crop off the middle, change what the model sees."""
    striped = np.zeros((40, 120, 3), np.uint8)
    striped[:, 40:80] = 255
    assert resize_to(striped, 20, 20, crop=True)[:, 2:18].min() == 255
    squashed = resize_to(striped, 30, 30, crop=False)
    assert squashed.shape == (30, 30, 3)
    assert squashed[:, 1:8].max() == 0
    assert squashed[:, 12:18].min() == 255
    tall = resize_to(striped.transpose(1, 0, 2), 20, 20, crop=True)
    assert tall.shape == (20, 20, 3)
    assert tall[2:18].min() == 255
    square = PIXELS[:, :48]
    assert resize_to(square, 48, 48, crop=True) is square
    for crop in (True, False):
        reference = Image.fromarray(square).resize((16, 16), Image.Resampling.BICUBIC)
        assert np.array_equal(resize_to(square, 16, 16, crop), np.asarray(reference))
    for bad in (square.astype(np.float32), square[..., 0], square[:0]):
        with pytest.raises(InputError, match="uint8"):
            resize_to(bad, 16, 16, crop=True)
    with pytest.raises(InputError, match="height_px is 0"):
        resize_to(square, 0, 0, crop=True)


def test_resize_to_keeps_or_squeezes_the_shape() -> None:
    """Guards against swapped sides, a stretched picture where shapes must stay, and a cut that is off the middle."""
    wide = np.zeros((100, 400, 3), np.uint8)
    wide[:, 190:210] = 255
    squeezed = resize_to(wide, 50, 100, crop=False)
    assert squeezed.shape == (50, 100, 3)
    assert squeezed[:, 49:51].min() > 200 and squeezed[:, :40].max() == 0, "the strip is squeezed to 5 pixels"
    cut = resize_to(wide, 50, 100, crop=True)
    assert cut.shape == (50, 100, 3)
    assert cut[:, 46:54].min() > 200 and cut[:, :40].max() == 0, "the strip keeps its 10 pixels, in the middle"
    tall = resize_to(wide.transpose(1, 0, 2), 100, 50, crop=True)
    assert np.array_equal(tall, cut.transpose(1, 0, 2))
    assert resize_to(wide, 100, 400, crop=True) is wide
    for crop in (True, False):
        reference = np.asarray(Image.fromarray(wide).resize((200, 50), Image.Resampling.BICUBIC))
        assert np.array_equal(resize_to(wide, 50, 200, crop), reference), "equal shapes leave nothing to cut"
    with pytest.raises(InputError, match="width_px 0"):
        resize_to(wide, 10, 0, crop=True)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "I;16"])
def test_strips_change_no_pixel(mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a seam, a lost palette or a wrong turn where a large picture becomes RGB piece by piece."""
    grey = Image.fromarray(np.random.default_rng(1).integers(0, 65536, (48, 64), dtype=np.uint16))
    picture = grey if mode == "I;16" else PICTURE.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(picture, "JPEG" if mode == "CMYK" else "PNG", exif=exif)
    whole = load_image(content, "a")
    monkeypatch.setattr(module, "STRIP_PIXELS", 64 * 5)
    assert np.array_equal(load_image(content, "a"), whole) and whole.flags.c_contiguous and whole.flags.writeable
