"""Decode images, also damaged and hostile ones, and resize them to one uint8 array."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from tqdm import tqdm

from slsr.errors import InputError

Pixels = NDArray[np.uint8]

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MAXIMUM_PIXELS = 50_000_000
MAXIMUM_SIDE = 65_535  # the limit of JPEG; resizing needs 32 bytes for every pixel of a side
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF")
# Only binary PNM with a short header: Pillow reads text and comments byte by byte, which may take minutes.
PNM_HEADER = re.compile(rb"(?:P4(?:GAP\d+){2}|P[56](?:GAP\d+){3})\s".replace(b"GAP", rb"(?:\s|#[^\r\n]*[\r\n])+"))
PNM_HEADER_BYTES = 1024
TILE = 1024
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(encoded: bytes, name: str) -> Image.Image:
    """Decode one image completely, in the mode it was stored in.

    Raises
    ------
    InputError
        The bytes are no image or are cut off, or the image has more than `MAXIMUM_PIXELS` pixels or a side of more than
        `MAXIMUM_SIDE` pixels; the message has `name`.
    """
    if not encoded:
        raise InputError(f"{name}: an empty file (0 bytes); replace or remove it")
    if encoded[:1] == b"P" and not PNM_HEADER.match(encoded[:PNM_HEADER_BYTES]):
        raise InputError(
            f"{name}: not an image, or a PNM image as text or with long comments; replace it, or save it as PNG"
        )
    with _decoding(name):
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        if image.width * image.height > MAXIMUM_PIXELS:
            raise _too_large(name)
        if max(image.size) > MAXIMUM_SIDE:
            raise InputError(
                f"{name}: {image.width}x{image.height} pixels; crop it to the person, at most {MAXIMUM_SIDE:,} pixels "
                "a side"
            )
        image.load()
    return image


def open_rgb(encoded: bytes, name: str) -> Image.Image:
    """Decode one image completely, in RGB, upright as its EXIF orientation says; errors as `open_image`."""
    return upright_rgb(open_image(encoded, name), name)


def upright_rgb(picture: Image.Image, name: str) -> Image.Image:
    """Convert a decoded picture to RGB and turn it upright; then remove the metadata that would turn it again."""
    turn = TURNS.get(_orientation(picture))
    picture = _tiled_to_rgb(picture, name)
    if turn is None:
        return picture
    turned = picture.transpose(turn)
    turned.info.clear()
    return turned


def _orientation(picture: Image.Image) -> int:
    """Read the orientation, as EXIF numbers it; 1 (upright) if it is missing or the metadata are damaged."""
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception:  # damaged metadata raise many kinds of errors, and the pixels are good without them
        return 1


def _tiled_to_rgb(picture: Image.Image, name: str) -> Image.Image:
    """Call `to_rgb`; for 16-bit gray, which needs 24 bytes per pixel there, tile by tile."""
    if picture.mode != "I" and not picture.mode.startswith("I;16"):
        return to_rgb(picture, name)
    whole = Image.new("RGB", picture.size)
    for top, left in itertools.product(range(0, picture.height, TILE), range(0, picture.width, TILE)):
        box = (left, top, min(left + TILE, picture.width), min(top + TILE, picture.height))
        whole.paste(to_rgb(picture.crop(box), name), box)
    return whole


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert any mode to 8-bit RGB; 16-bit gray is scaled, transparency is dropped.

    Raises
    ------
    InputError
        The colors cannot be converted to RGB; the message has `name`.
    """
    if image.mode == "RGB":
        return image
    with _decoding(name):
        if image.mode.startswith("I;16") or image.mode == "I":
            gray = np.asarray(image, dtype=np.float64) / 257.0
            image = Image.fromarray(np.clip(np.rint(gray), 0, 255).astype(np.uint8))
        return image.convert("RGB")


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn the errors that Pillow raises for damaged bytes, of some fifteen kinds, into InputError."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not an image ({', '.join(FORMATS)} can be read); replace or remove it") from error
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name}: does not decode as an image ({reason}); replace or remove it") from error


def _too_large(name: str) -> InputError:
    return InputError(f"{name}: more than {MAXIMUM_PIXELS:,} pixels; crop it to the person or make it smaller")


def decode_resized(
    encoded: Sequence[bytes],
    height: int,
    width: int,
    interpolation: str = "bicubic",
    names: Sequence[str] | None = None,
) -> Pixels:
    """Decode, turn upright and resize images, in order, on all cores.

    Returns
    -------
    uint8 [N, height, width, 3], RGB.

    Raises
    ------
    InputError
        An image cannot be decoded; the message has its name, or its row number if `names` is not given.
    """
    pixels = np.empty((len(encoded), height, width, 3), dtype=np.uint8)

    def decode(row: int) -> None:
        image = open_rgb(encoded[row], names[row] if names is not None else f"image in row {row}")
        if image.size != (width, height):
            image = image.resize((width, height), FILTERS[interpolation])
        pixels[row] = np.asarray(image)

    with ThreadPoolExecutor() as pool:
        done = pool.map(decode, range(len(encoded)))
        for _ in tqdm(done, "decode", len(encoded), unit="image", leave=False, disable=None):
            pass
    return pixels


def encode_jpeg(pixels: Pixels, quality: int) -> bytes:
    """Encode one image, uint8 [H, W, 3], as JPEG without chroma subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
