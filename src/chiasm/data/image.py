"""The one image loader: bytes from anywhere -> uint8 [h, w, 3] RGB, or one fixed reason why not.

Training, evaluation, indexing and serving all decode here, so an image has the same pixels everywhere. The
content decides the format, never the file's name; sizes are judged on the header, before any pixel is decoded.

Rules by kind: alpha and transparent palettes are laid over white; the EXIF orientation is applied; of an animation
the first frame counts; 16-bit grey keeps its upper byte (Pillow's own conversion saturates it to white); CMYK of a
JPEG is read as inverted ink only where the Adobe marker says so; floating-point and 32-bit pixels have no agreed
range and are refused.
"""

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageChops, ImageFile, UnidentifiedImageError

from chiasm.core.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
"""Endings, in lower case, by which image files are found in folders; the content alone decides the format."""
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 50_000_000
MIN_SIDE_PX = 8
MAX_SIDE_PX = 32_768
MAX_ASPECT = 32
"""Longer side over shorter side."""

REASONS = {
    "missing": ("there is no such file", "a path that exists", "check the path"),
    "not_regular": ("this is a folder, pipe or device", "a regular file", "give an image file"),
    "unreadable": ("the file cannot be opened for reading", "a readable file", "check its permissions"),
    "empty_file": ("the file has no bytes", "an image", "fetch the file again"),
    "too_many_bytes": ("the file is too large", f"at most {MAX_BYTES} bytes", "re-encode the image"),
    "not_an_image": ("the content is no image", ", ".join(FORMATS), "look at the file; it may be an error page"),
    "format_not_allowed": ("the image's format is not accepted", ", ".join(FORMATS), "convert it to PNG"),
    "corrupt": ("the content is damaged", "an image that decodes without error", "fetch the file again"),
    "truncated": ("the content ends too early", "a complete image", "fetch the file again"),
    "too_many_pixels": ("the image has too many pixels", f"at most {MAX_PIXELS} pixels", "scale it down"),
    "side_too_long": ("a side is too long", f"at most {MAX_SIDE_PX} px a side", "scale or cut it"),
    "too_small": ("a side is too short", f"at least {MIN_SIDE_PX} px a side", "leave it out"),
    "aspect": ("the image is too narrow", f"sides that differ by at most {MAX_ASPECT}:1", "cut it"),
    "mode": ("its kind of pixel has no agreed range", "8-bit pixels, or 16-bit grey", "convert it to 8 bits"),
    "metadata_bomb": ("its metadata unpack to too many bytes", "modest metadata", "remove the metadata"),
}
"""code -> what was given, what is allowed, what to do. The texts are fixed: no decoder message reaches the reader."""

_MAGIC: tuple[bytes, ...] = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FOREIGN_MAGIC: tuple[bytes, ...] = (
    b"%!PS",
    b"\xc5\xd0\xd3\xc6",
    b"%PDF",
    b"SIMPLE  =",
    b"8BPS",
    b"\0\0\0\x0cjP",
    b"\xff\x4f\xff\x51",
)
_FOREIGN_MAGIC += (b"\0\0\1\0", b"P1\n", b"P2\n", b"P3\n", b"P4\n", b"P5\n", b"P6\n", b"gimp xcf", b"DDS ")
STRIP_PIXELS = 2**20
"""An image becomes RGB in strips of about so many pixels, so that no second copy of a large one is ever whole."""
_UPRIGHT: dict[int, tuple[int, int, bool]] = {
    2: (1, -1, False),
    3: (-1, -1, False),
    4: (-1, 1, False),
    5: (1, 1, True),
    6: (-1, 1, True),
    7: (-1, -1, True),
    8: (1, -1, True),
}
"""EXIF orientation -> steps along the stored rows and columns, and whether rows become columns."""
_ORIENTATION_TAG = 0x0112
_warnings_lock = threading.Lock()


class ImageError(InputError):
    """An image that is not used; `code` is a key of `REASONS`, the same in the ledger and in a served answer.

    Args:
        code: a key of `REASONS`.
        source: what the image is called in the message (a path, "upload").
    """

    def __init__(self, code: str, source: str) -> None:
        self.code, self.source = code, source
        given, allowed, do = REASONS[code]
        super().__init__(f"{source}: {given}", allowed, do)

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return ImageError, (self.code, self.source)


def load_image(content: bytes, source: str, max_side_px: int | None = None, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image.

    Args:
        content: the file's bytes.
        source: what to call the image in an error.
        max_side_px: side of the square that the image will be resized to. A larger JPEG is then decoded at 1/2,
            1/4 or 1/8 of its size (scaled DCT), never with a shorter side below this number; pixels may differ a
            little from a full decode, so training and serving must pass the same hint.
        max_pixels: largest width times height, checked on the header.

    Returns:
        uint8 [h, w, 3] RGB, writable, upright.

    Raises:
        ImageError: for everything that cannot be used, with a code of `REASONS`.
        MemoryError: there is not enough; a decoder needs up to 12 bytes for a pixel, and most need 7.
    """
    if not content:
        raise ImageError("empty_file", source)
    if len(content) > MAX_BYTES:
        raise ImageError("too_many_bytes", source)
    try:
        with _open(content) as image:
            _check_size(image.size, max_pixels, source)
            if max_side_px is not None and image.format in ("JPEG", "MPO"):
                image.draft(None, (max_side_px, max_side_px))
            # Another package may have switched this on; a half image filled with grey is never wanted here.
            ImageFile.LOAD_TRUNCATED_IMAGES = False
            image.load()
            try:
                return _pixels(image, source)
            finally:
                image.close()  # its pixels would stay until the next garbage collection
    except (ImageError, MemoryError):
        raise
    # A damaged file makes Pillow raise nearly any type (SyntaxError, RuntimeError, struct.error, ...).
    except Exception as error:
        raise ImageError(_code_of(error, content), source) from error


def read_image_bytes(path: str) -> bytes:
    """Read the bytes of an image file, at most `MAX_BYTES`, without decoding them.

    Raises:
        ImageError: missing, no regular file (a pipe is not waited for), unreadable, or too large.
    """
    try:
        # O_NONBLOCK keeps the opening of a pipe from waiting for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError("missing", path) from None
    except (OSError, ValueError):
        raise ImageError("unreadable", path) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not_regular", path)
        if status.st_size > MAX_BYTES:
            raise ImageError("too_many_bytes", path)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def resize_to(image: np.ndarray, height_px: int, width_px: int, crop: bool) -> np.ndarray:
    """Resize uint8 [h, w, 3] to uint8 [height_px, width_px, 3] with Pillow's antialiased bicubic filter.

    Args:
        image: RGB pixels; returned as they are where they have the size already.
        height_px: target height, at least 1.
        width_px: target width, at least 1.
        crop: True keeps the shapes: the image is scaled until it covers the target and the middle is cut out. False
            keeps the whole image: both sides are squeezed.
    """
    height, width = checked_pixels(image).shape[:2]
    if min(height_px, width_px) < 1:
        raise InputError(
            f"height_px is {height_px}, width_px {width_px}", "sides of at least 1", "choose the model's image size"
        )
    if (height, width) == (height_px, width_px):
        return image
    pil_image = Image.fromarray(image)
    if not crop:
        return np.array(pil_image.resize((width_px, height_px), Image.Resampling.BICUBIC))
    scale = max(height_px / height, width_px / width)
    size = (max(width_px, round(width * scale)), max(height_px, round(height * scale)))
    left, top = (size[0] - width_px) // 2, (size[1] - height_px) // 2
    resized = pil_image.resize(size, Image.Resampling.BICUBIC)
    return np.array(resized.crop((left, top, left + width_px, top + height_px)))


def resize_and_crop(
    image: np.ndarray, resize_px: tuple[int, ...], crop_px: tuple[int, ...], resample: int
) -> np.ndarray:
    """Resize, then cut out the middle, to the very pixel as the preprocessing of transformers does with Pillow.

    `resize_to` rounds the longer side and scales until the target is covered; pre-trained weights were made with this
    one, which rounds it down.

    Args:
        image: RGB pixels, uint8 [h, w, 3].
        resize_px: length of the shorter side, or height and width; empty leaves the image as it is.
        crop_px: height and width of the crop; empty cuts nothing. An image that is smaller gets a black border.
        resample: Pillow's number of the filter.
    """
    height, width = checked_pixels(image).shape[:2]
    if len(resize_px) == 1:
        short, long = resize_px[0], int(resize_px[0] * max(height, width) / min(height, width))
        size = (short, long) if height <= width else (long, short)
    else:
        size = (resize_px[0], resize_px[1]) if resize_px else (height, width)
    if resize_px:
        resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling(resample))
        image = np.array(resized)
    if not crop_px:
        return image
    border = [
        (max(0, -(-(crop - side) // 2)), max(0, (crop - side) // 2)) for crop, side in zip(crop_px, size, strict=True)
    ]
    image = np.pad(image, [*border, (0, 0)])
    top, left = ((side - crop) // 2 for side, crop in zip(image.shape, crop_px, strict=False))
    return image[top : top + crop_px[0], left : left + crop_px[1]]


def resize_within(image: np.ndarray, shorter_px: int, longest_px: int, divisor: int, resample: int) -> np.ndarray:
    """Resize by the shorter side, keep the shape, and cut sides to whole multiples, as ViLT was trained.

    Args:
        image: RGB pixels, uint8 [h, w, 3].
        shorter_px: the shorter side, before it is cut; less where the longer side would pass its bound.
        longest_px: bound of the longer side.
        divisor: what sides are multiples of.
        resample: Pillow's number of the filter.
    """
    height, width = checked_pixels(image).shape[:2]
    scale = shorter_px / min(height, width)
    if height < width:
        tall, wide = float(shorter_px), scale * width
    else:
        tall, wide = scale * height, float(shorter_px)
    over = longest_px / max(tall, wide)
    tall, wide = (tall * over, wide * over) if over < 1 else (tall, wide)
    size = tuple(max(int(side + 0.5) // divisor, 1) * divisor for side in (wide, tall))
    return np.array(Image.fromarray(image).resize((size[0], size[1]), Image.Resampling(resample)))


def checked_pixels(image: np.ndarray) -> np.ndarray:
    """The image, if it is uint8 [h, w, 3].

    Raises:
        InputError: says what it is.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"pixels of {image.dtype} {list(image.shape)}", "uint8 [h, w, 3] RGB", "convert the array")
    return image


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's remarks on odd headers. The filter list is global to the process, hence the lock."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open(content: bytes) -> ImageFile.ImageFile:
    with _quiet():
        return Image.open(io.BytesIO(content), formats=FORMATS)


def _check_size(size: tuple[int, int], max_pixels: int, source: str) -> None:
    short, long = sorted(size)
    if short * long > max_pixels:
        raise ImageError("too_many_pixels", source)
    if short < MIN_SIDE_PX:
        raise ImageError("too_small", source)
    if long > MAX_SIDE_PX:
        raise ImageError("side_too_long", source)
    if long > MAX_ASPECT * short:
        raise ImageError("aspect", source)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 where there is none or it is garbage.

    It is asked after decoding, because Pillow turns a TIFF upright itself and then removes the tag.
    """
    with _quiet():
        try:
            return int(image.getexif().get(_ORIENTATION_TAG, 1))
        except MemoryError:
            raise
        # Garbage makes the EXIF reader raise nearly any type; such an image is used as it lies.
        except Exception:
            return 1


def _pixels(image: ImageFile.ImageFile, source: str) -> np.ndarray:
    """A decoded image -> uint8 [h, w, 3] RGB, upright."""
    width, height = image.size
    rows, columns, is_turned = _UPRIGHT.get(_orientation(image), (1, 1, False))
    pixels = np.empty((width, height, 3) if is_turned else (height, width, 3), dtype=np.uint8)
    stored = (pixels.swapaxes(0, 1) if is_turned else pixels)[::rows, ::columns]
    step = max(1, STRIP_PIXELS // width)
    for top in range(0, height, step):
        bottom = min(height, top + step)
        part = image if step >= height else image.crop((0, top, width, bottom))
        stored[top:bottom] = np.asarray(_to_rgb(part, image.format, source))
    return pixels


def _to_rgb(image: Image.Image, kind: str | None, source: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "CMYK" and kind in ("JPEG", "MPO") and "adobe" not in image.info:
        # Pillow inverts the inks of every CMYK JPEG; only Adobe's are stored inverted.
        return ImageChops.invert(image).convert("RGB")
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PNG"):
        return _grey16_to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    if image.mode in ("RGB", "L", "1", "P", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        return image.convert("RGB")
    raise ImageError("mode", source)


def _grey16_to_rgb(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    grey = (values >> 8).astype(np.uint8)
    hidden = image.info.get("transparency")
    if isinstance(hidden, int):
        grey[values == hidden] = 255
    return Image.fromarray(grey).convert("RGB")


def _code_of(error: Exception, content: bytes) -> str:
    """Choose the code for what a decoder raised; the order goes from the surest sign to the vaguest."""
    if isinstance(error, Image.DecompressionBombError):
        return "too_many_pixels"
    if isinstance(error, ValueError) and "MAX_TEXT" in str(error):
        return "metadata_bomb"
    if isinstance(error, UnidentifiedImageError):
        if content.startswith(_FOREIGN_MAGIC) or content[4:8] == b"ftyp":
            return "format_not_allowed"
        if not content.startswith(_MAGIC):
            return "not_an_image"
    return "truncated" if "truncated" in str(error).lower() or _is_cut_short(content) else "corrupt"


def _is_cut_short(content: bytes) -> bool:
    """True where the container itself says that bytes are missing at the end."""
    if content.startswith(b"RIFF"):
        return len(content) < int.from_bytes(content[4:8], "little") + 8
    if content.startswith(b"GIF8"):
        return not content.rstrip(b"\0").endswith(b";")
    return False
