"""Decode images, also damaged and hostile ones, and resize them to one uint8 array."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
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
# What shows through transparent pixels: the mean color of ImageNet, which is also what erased pixels become.
BACKGROUND = (124, 116, 104)
LARGEST_16_BIT, LARGEST_12_BIT = 65_535, 4095
BITS_PER_SAMPLE, WHITE_OR_BLACK, WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF, and a value of the second
TWELVE_BITS = (
    f"{{}} of 16 bits, but no value is above {LARGEST_12_BIT:,}, as if it had 12 bits; multiply the values by 16, or "
    "save it with 8 bits"
)
TRANSPARENT_COLOR = "a PNG of 16 bits with one transparent color; save it with 8 bits, or with an alpha channel"
GRAY_STEPS = {"L;2": 85, "L;4": 17}  # PNG: Pillow scales the pixels to 8 bits, but not the value that is transparent
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
        `MAXIMUM_SIDE` pixels, or its depth is unclear; the message has `name`.
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
        stored_as = image.tile[0].args if isinstance(image, ImageFile.ImageFile) and image.tile else None
        _scale_transparent_gray(image, stored_as)
        image.load()
        if reason := _unclear_depth(image, stored_as):
            raise InputError(f"{name}: {reason}")
    return image


def is_image_content(file: IO[bytes]) -> bool:
    """Say whether a file begins like an image that can be read, whatever its name is."""
    start = file.read(PNM_HEADER_BYTES)
    if start[:1] == b"P" and not PNM_HEADER.match(start):
        return False
    file.seek(0)
    try:
        with _decoding(""):
            Image.open(file, formats=FORMATS)
    except InputError:
        return False
    return True


def _scale_transparent_gray(image: Image.Image, stored_as: Any) -> None:
    """Scale the one transparent value of a PNG with 4 or 16 levels of gray as Pillow scales its pixels."""
    if isinstance(stored_as, str) and stored_as in GRAY_STEPS and "transparency" in image.info:
        image.info["transparency"] *= GRAY_STEPS[stored_as]


def _unclear_depth(image: Image.Image, stored_as: Any) -> str | None:
    """Say why color of 16 bits, of which Pillow keeps 8, has no certain meaning, and the remedy; None if it has one.

    Gray of 16 bits is whole, and `to_rgb` looks at it, but for PNM: the maximum in its header is known only here.
    """
    stored = stored_as if isinstance(stored_as, tuple) else (stored_as,)
    sixteen = ";16" in str(stored[0]) or stored[1:] == (LARGEST_16_BIT,)
    if not sixteen or image.format not in ("PNG", "TIFF", "PPM") or image.mode not in ("RGB", "RGBA", "I"):
        return None
    if stored[0] == "RGB;16B" and "transparency" in image.info:
        return TRANSPARENT_COLOR
    if image.mode == "I" and image.format != "PPM":
        return None
    highest = np.array(image.getextrema()).reshape(-1, 2)[:3, 1].max()  # not of an alpha channel
    if image.mode == "I":
        return TWELVE_BITS.format("gray") if highest <= LARGEST_12_BIT else None
    limit = round(LARGEST_12_BIT / 257) if image.format == "PPM" else LARGEST_12_BIT >> 8  # as Pillow scales it
    return TWELVE_BITS.format("color") if highest <= limit else None


def open_rgb(encoded: bytes, name: str) -> Image.Image:
    """Decode one image completely, in RGB, upright as its EXIF orientation says; errors as `open_image`."""
    return upright_rgb(open_image(encoded, name), name)


def upright_rgb(picture: Image.Image, name: str) -> Image.Image:
    """Convert a decoded picture to RGB and turn it upright; then remove the metadata that would turn it again."""
    turn = TURNS.get(_orientation(picture))
    picture = to_rgb(picture, name)
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


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert any mode to 8-bit RGB, always by the same rules.

    Transparent pixels are composed onto `BACKGROUND`, whatever is stored under them. Gray of 16 bits is divided by 257,
    gray of 12 bits in a TIFF that says so by 4095/255. CMYK becomes (255 - C)(255 - K) / 255 and so on. Color profiles
    are not applied.

    Raises
    ------
    InputError
        The mode does not say what its values mean, or the colors cannot be converted; the message has `name`.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    with _decoding(name):
        if reason := _undefined(image):
            raise InputError(f"{name}: {reason}")
        if image.mode == "I" or image.mode.startswith("I;16"):
            image = _eight_bit_gray(image, name)
        if not image.has_transparency_data:
            return image.convert("RGB")
        shown = image.convert("RGBA")
        whole = Image.new("RGB", image.size, BACKGROUND)
        whole.paste(shown, mask=shown)
        return whole


def _undefined(image: Image.Image) -> str | None:
    """Say why the values of a mode have no certain meaning, and the remedy; None if they have one."""
    transparent = image.info.get("transparency")
    if image.mode == "F":
        return "pixels of floating point, whose range is not known; save it with 8 bits, or as gray with 16 bits"
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        return "a CMYK JPEG without Adobe's marker, whose inks may be inverted; save it as RGB"
    if image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 255:
        return TRANSPARENT_COLOR
    return None


def _eight_bit_gray(image: Image.Image, name: str) -> Image.Image:
    """Scale 12-bit or 16-bit gray to L, or to LA if one value is transparent; tile by tile, which saves memory."""
    tags = getattr(image, "tag_v2", {})
    largest = LARGEST_12_BIT if tags.get(BITS_PER_SAMPLE) == (12,) else LARGEST_16_BIT
    inverted = tags.get(WHITE_OR_BLACK) == WHITE_IS_ZERO  # Pillow inverts up to 8 bits, but not 16
    transparent = image.info.get("transparency")
    gray, alpha = Image.new("L", image.size), None if transparent is None else Image.new("L", image.size)
    lowest, highest = np.inf, -np.inf
    for top, left in itertools.product(range(0, image.height, TILE), range(0, image.width, TILE)):
        box = (left, top, min(left + TILE, image.width), min(top + TILE, image.height))
        values = np.asarray(image.crop(box), dtype=np.float64)
        lowest, highest = min(lowest, values.min()), max(highest, values.max())
        scaled = np.rint(np.clip((largest - values if inverted else values) / largest, 0, 1) * 255)
        gray.paste(Image.fromarray(scaled.astype(np.uint8)), box)
        if alpha is not None:
            alpha.paste(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)), box)
    if lowest < 0 or highest > largest:
        raise InputError(f"{name}: gray values outside 0 to {largest:,}; save it with 8 bits, or as gray with 16 bits")
    if largest == LARGEST_16_BIT and highest <= LARGEST_12_BIT and image.format != "PPM":  # Pillow scaled a PPM
        raise InputError(f"{name}: {TWELVE_BITS.format('gray')}")
    return gray if alpha is None else Image.merge("LA", (gray, alpha))


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
