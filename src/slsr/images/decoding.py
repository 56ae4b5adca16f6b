"""Encoded images to one uint8 array of a fixed size, decoded once and kept."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from slsr.errors import InputError

Pixels = NDArray[np.uint8]

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MAXIMUM_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF")


def open_image(encoded: bytes, name: str) -> Image.Image:
    """Decode one image completely, in the mode it was stored in.

    Raises
    ------
    InputError
        The bytes are no image, are cut off, or decode to more than `MAXIMUM_PIXELS` pixels; the message names `name`.
    """
    if not encoded:
        raise InputError(f"{name}: an empty file (0 bytes); replace or remove it")
    with _decoding(name):
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        if image.width * image.height > MAXIMUM_PIXELS:
            raise _too_large(name)
        image.load()
    return image


def open_rgb(encoded: bytes, name: str) -> Image.Image:
    """Decode one image completely and convert it to RGB; errors as `open_image`."""
    return to_rgb(open_image(encoded, name), name)


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert any mode to 8-bit RGB; 16-bit grey is scaled, transparency is dropped.

    Raises
    ------
    InputError
        The image's colours have no meaning as RGB; the message names `name`.
    """
    if image.mode == "RGB":
        return image
    with _decoding(name):
        if image.mode.startswith("I;16") or image.mode == "I":
            grey = np.asarray(image, dtype=np.float64) / 257.0
            image = Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))
        return image.convert("RGB")


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Whatever a decoder makes of damaged bytes (Pillow's raise some fifteen kinds of errors) as one InputError."""
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
    """Decode and resize images, in order, on all cores.

    Returns
    -------
    uint8 [N, height, width, 3], RGB.

    Raises
    ------
    InputError
        An image does not decode; the message has its name (its row number where `names` is not given).
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
    """One image, uint8 [H, W, 3], as JPEG without chroma subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
