"""Decoding: every mode against arithmetic on the stored values, every kind of damage against one message."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from builders import enormous_png
from PIL import Image
from tiny import encode, noise

from slsr.errors import InputError
from slsr.images.decoding import BACKGROUND, FORMATS, MAXIMUM_PIXELS, decode_resized, encode_jpeg, open_image, open_rgb


def decoded(encoded, name="x.png"):
    image = open_rgb(encoded, name)
    assert image.mode == "RGB"
    return np.asarray(image)


def saved(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def channel(seed=0, height=6, width=5, top=256):
    return np.random.default_rng(seed).integers(0, top, (height, width)).astype(np.uint8)


def test_rgb_is_exact():
    pixels = noise(1, 7, 5)[0]
    for form in ("PNG", "BMP", "TIFF", "PPM"):
        np.testing.assert_array_equal(decoded(encode(pixels, form)), pixels)
    np.testing.assert_array_equal(decoded(encode(pixels, "WEBP", lossless=True)), pixels)


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP"])
def test_a_palette_gives_its_colors(form):
    palette, index = noise(1, 1, 16)[0, 0], channel(1, top=16)
    image = Image.fromarray(index, "L").convert("P")
    image.putpalette(palette.ravel().tolist())
    image.putdata(index.ravel().tolist())
    np.testing.assert_array_equal(decoded(saved(image, form)), palette[index])


def composed(colors, alpha):
    """Colors [H, W, 3] over the background, by alpha [H, W] of 255."""
    share = alpha[..., None] / 255
    return colors * share + np.array([124, 116, 104]) * (1 - share)


def assert_composed(found, colors, alpha):
    """Equal where alpha is 0 or 255, and within one level elsewhere."""
    expected = composed(colors.astype(float), alpha.astype(float))
    assert np.abs(found - expected).max() <= 1
    certain = (alpha == 0) | (alpha == 255)
    np.testing.assert_array_equal(found[certain], expected[certain])


def test_the_background_is_the_mean_color_of_imagenet():
    np.testing.assert_array_equal(BACKGROUND, np.rint(np.array([0.485, 0.456, 0.406]) * 255))


def cut_out(seed=2):
    """Alpha of every kind: 0, 255 and between."""
    alpha = channel(seed)
    alpha[:2], alpha[2:4] = 0, 255
    return alpha


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_what_lies_under_transparent_pixels_is_not_seen(form):
    alpha, options = cut_out(), {"lossless": True, "exact": True} if form == "WEBP" else {}
    pictures = []
    for hidden in (noise(1, 6, 5, seed=1)[0], np.zeros((6, 5, 3), np.uint8), np.full((6, 5, 3), 255, np.uint8)):
        colors = np.where(alpha[..., None] > 0, noise(1, 6, 5)[0], hidden)
        pictures.append(decoded(encode(np.dstack([colors, alpha]), form, **options)))
        assert_composed(pictures[-1], colors, alpha)
    np.testing.assert_array_equal(pictures[0], pictures[1])
    np.testing.assert_array_equal(pictures[0], pictures[2])


def test_gray_with_alpha_is_composed():
    gray, alpha = channel(3), cut_out(4)
    found = decoded(saved(Image.fromarray(np.dstack([gray, alpha]), "LA")))
    assert_composed(found, np.repeat(gray[..., None], 3, axis=2), alpha)


def test_an_opaque_alpha_channel_changes_nothing():
    pixels = noise(1, 6, 5)[0]
    np.testing.assert_array_equal(decoded(encode(np.dstack([pixels, np.full((6, 5), 255, np.uint8)]))), pixels)


def palette_image(palette, index):
    image = Image.new("P", index.shape[::-1])
    image.putpalette(palette.ravel().tolist())
    image.putdata(index.ravel().tolist())
    return image


def test_a_palette_with_transparency_is_composed():
    palette, index = noise(1, 1, 16)[0, 0], channel(1, top=16)
    image = palette_image(palette, index)
    for form in ("PNG", "GIF"):
        assert_composed(decoded(saved(image, form, transparency=3)), palette[index], np.where(index == 3, 0, 255))
    alphas = channel(2, 1, 16)[0]
    assert_composed(decoded(saved(image, transparency=alphas.tobytes())), palette[index], alphas[index])


def test_one_transparent_color_is_composed():
    pixels, gray = noise(1, 6, 5)[0], channel(5, top=4)
    pixels[2:4] = (7, 8, 9)
    alpha = np.full((6, 5), 255)
    alpha[2:4] = 0
    assert_composed(decoded(saved(Image.fromarray(pixels), transparency=(7, 8, 9))), pixels, alpha)
    transparent = np.where(gray == 3, 0, 255)
    assert_composed(decoded(saved(Image.fromarray(gray), transparency=3)), np.dstack([gray] * 3), transparent)
    deep = gray.astype(np.uint16) * 21_000
    found = decoded(saved(Image.fromarray(deep), transparency=63_000))
    assert_composed(found, np.dstack([np.rint(deep / 257.0)] * 3), transparent)
    bits = channel(6, top=2)
    found = decoded(saved(Image.fromarray(bits * 255).convert("1"), transparency=1))
    assert_composed(found, np.dstack([bits * 255] * 3), np.where(bits == 1, 0, 255))


def png(width, height, bits, kind, rows, transparent=None):
    """A PNG, with tRNS if one value is transparent, put together by hand."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)),
        (b"tRNS", transparent),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
        if content is not None
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("bits", "row"), [(4, b"\x03\xf3"), (2, b"\x63")])
def test_a_transparent_value_of_few_gray_levels_is_scaled_like_the_pixels(bits, row):
    """Level 0, 3, 15, 3 of 15, or 1, 2, 0, 3 of 3; level 3 is transparent."""
    levels = np.array([0, 3, 15, 3] if bits == 4 else [1, 2, 0, 3])
    found = decoded(png(4, 1, bits, 0, [row], b"\0\3"))
    colors = np.dstack([levels[None] * 255 // (2**bits - 1)] * 3)
    assert_composed(found, colors, np.where(levels == 3, 0, 255)[None])


def test_one_transparent_color_of_sixteen_bits_is_refused():
    """Pillow keeps 8 of the bits, so that other colors would be taken for it."""
    for color in (b"\x40\1\x40\2\x40\3", b"\0\xc8\0\xc8\0\xc8"):
        encoded = png(1, 1, 16, 2, [b"\xc8\xc8\xc8\xc8\xc8\xc8"], color)
        with pytest.raises(InputError, match=r"^a\.png: a PNG of 16 bits with one transparent color; save it with"):
            open_rgb(encoded, "a.png")


def test_pixels_of_floating_point_are_refused():
    encoded = saved(Image.fromarray(np.linspace(0, 1, 30, dtype=np.float32).reshape(6, 5)), "TIFF")
    with pytest.raises(InputError, match=r"^ir/1\.tif: pixels of floating point, .* save it with 8 bits"):
        open_rgb(encoded, "ir/1.tif")


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_twelve_bits_in_sixteen_are_refused_not_shown_black(form):
    gray = np.random.default_rng(7).integers(0, 4096, (6, 5)).astype(np.uint16)
    with pytest.raises(InputError, match=r"^ir\.x: gray of 16 bits, but no value is above 4,095.* multiply .* by 16"):
        open_rgb(saved(Image.fromarray(gray), form), "ir.x")
    found = decoded(saved(Image.fromarray(gray * 16), form))
    np.testing.assert_array_equal(found, np.dstack([np.rint(gray * 16.0 * 255 / 65535)] * 3))


def deep(form, values):
    """Encode values [H, W, channels] of 16 bits; an alpha channel, if there is one, is opaque."""
    big = values.astype(">u2")
    if form in ("P5", "P6"):
        return f"{form} {values.shape[1]} {values.shape[0]} 65535\n".encode() + big.tobytes()
    if form in ("LA", "RGBA"):
        big[..., -1] = 65535
    kind = {"RGB": 2, "LA": 4, "RGBA": 6}[form]
    return png(values.shape[1], values.shape[0], 16, kind, [row.tobytes() for row in big])


@pytest.mark.parametrize(("form", "channels"), [("P5", 1), ("P6", 3), ("RGB", 3), ("LA", 2), ("RGBA", 4)])
def test_twelve_bits_in_sixteen_are_refused_in_color_too(form, channels):
    values = np.random.default_rng(7).integers(0, 4096, (6, 5, channels))
    values[0, 0] = 4095
    with pytest.raises(InputError, match=r"^ir\.x: (gray|color) of 16 bits, but no value is above 4,095"):
        open_rgb(deep(form, values), "ir.x")
    colors = values[..., :3] if channels > 2 else values[..., :1]
    assert np.abs(decoded(deep(form, values * 16)) - colors * 16 / 257).max() <= 1


def test_a_tiff_of_sixteen_bits_whose_white_is_zero_is_inverted():
    gray = np.random.default_rng(7).integers(0, 65536, (6, 5)).astype(np.uint16)
    found = decoded(saved(Image.fromarray(gray), "TIFF", tiffinfo={262: 0}))
    np.testing.assert_array_equal(found, np.dstack([np.rint((65535.0 - gray) / 257)] * 3))


def test_a_tiff_that_says_it_has_twelve_bits_is_scaled_by_them():
    gray = np.array([[0, 1, 4095, 2048], [16, 800, 4000, 9]])
    packed = bytearray()
    for first, second in gray.reshape(-1, 2):
        packed += bytes([first >> 4, (first & 15) << 4 | second >> 8, second & 255])
    entries = [(256, 4, 4), (257, 4, 2), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 0), (277, 3, 1), (278, 4, 2)]
    entries.append((279, 4, len(packed)))
    offset = 8 + 2 + 12 * len(entries) + 4
    table = b"".join(
        struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", offset if tag == 273 else value)
        for tag, kind, value in entries
    )
    encoded = struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + table + bytes(4) + packed
    np.testing.assert_array_equal(decoded(encoded), np.dstack([np.rint(gray * 255 / 4095)] * 3))


def test_a_pgm_of_twelve_bits_is_scaled_by_its_header():
    gray = np.array([[4095, 16, 800]])
    encoded = b"P5 3 1 4095\n" + gray.astype(">u2").tobytes()
    np.testing.assert_array_equal(decoded(encoded), np.dstack([np.rint(gray * 255 / 4095)] * 3))
    dark = np.array([[100, 16, 8]])
    np.testing.assert_array_equal(
        decoded(b"P5 3 1 4095\n" + dark.astype(">u2").tobytes()), np.dstack([[[6, 1, 0]]] * 3)
    )


@pytest.mark.parametrize("value", [-1, 70_000])
def test_gray_outside_sixteen_bits_is_refused(value):
    gray = np.full((2, 2), 5000, np.int32)
    gray[0, 1] = value
    with pytest.raises(InputError, match=r"^x\.tif: gray values outside 0 to 65,535; save it"):
        open_rgb(saved(Image.fromarray(gray), "TIFF"), "x.tif")


def test_gray_and_black_and_white_fill_three_channels():
    gray = channel(5)
    np.testing.assert_array_equal(decoded(encode(gray)), np.dstack([gray] * 3))
    bits = channel(6, top=2)
    image = Image.fromarray(bits * 255).convert("1", dither=Image.Dither.NONE)
    np.testing.assert_array_equal(decoded(saved(image)), np.dstack([bits * 255] * 3))


@pytest.mark.parametrize("order", ["<u2", ">u2"])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_gray_is_scaled_not_clipped(form, order):
    gray = np.random.default_rng(7).integers(0, 65536, (6, 5)).astype(order)
    gray[0, :3] = 0, 65535, 256
    mode = "I;16" if order == "<u2" else "I;16B"
    image = Image.frombytes(mode, (5, 6), gray.tobytes())
    expected = np.rint(gray.astype(float) * 255 / 65535).astype(np.uint8)
    np.testing.assert_array_equal(decoded(saved(image, form)), np.dstack([expected] * 3))


def test_cmyk_follows_its_definition():
    inks = np.dstack([channel(seed) for seed in range(4)])
    light = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    found = decoded(saved(Image.fromarray(inks, "CMYK"), "TIFF"))
    assert np.abs(found - light).max() <= 1
    flat = np.tile(np.array([30, 90, 160, 20], np.uint8), (16, 16, 1))
    found = decoded(saved(Image.fromarray(flat, "CMYK"), "JPEG", quality=100))
    assert np.abs(found - (255 - flat[..., :3].astype(float)) * 235 / 255).max() <= 6


def test_a_cmyk_jpeg_without_adobes_marker_is_refused():
    """Adobe's programs store inks inverted, and only the marker says so."""
    encoded = saved(Image.new("CMYK", (16, 16), (30, 90, 160, 20)), "JPEG")
    at = encoded.index(b"\xff\xee")
    length = int.from_bytes(encoded[at + 2 : at + 4], "big")
    with pytest.raises(InputError, match=r"^x\.jpg: a CMYK JPEG without Adobe's marker, .*; save it as RGB"):
        open_rgb(encoded[:at] + encoded[at + 2 + length :], "x.jpg")


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_the_first_of_several_pictures_counts(form):
    first, second = (Image.fromarray(pixels) for pixels in noise(2, 6, 5))
    options = {"lossless": True} if form == "WEBP" else {}
    encoded = saved(first, form, save_all=True, append_images=[second], **options)
    assert Image.open(io.BytesIO(encoded)).n_frames == 2
    np.testing.assert_array_equal(decoded(encoded), np.asarray(first))


def test_the_first_picture_of_an_animation_counts():
    first, second = (Image.fromarray(pixels).quantize(8) for pixels in noise(2, 6, 5))
    encoded = saved(first, "GIF", save_all=True, append_images=[second])
    np.testing.assert_array_equal(decoded(encoded), np.asarray(first.convert("RGB")))


def test_the_stored_mode_is_kept_where_asked():
    assert open_image(encode(channel()), "x").mode == "L"
    assert open_image(encode(np.dstack([noise(1, 6, 5)[0], channel()])), "x").mode == "RGBA"


PICTURE = noise(1, 40, 20)[0]
WHOLE = {form: encode(PICTURE, form) for form in FORMATS}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMATS)
def test_a_truncated_file_is_refused_by_name(form):
    whole = WHOLE[form]
    decoded(whole)
    for share in (0.02, 0.1, 0.5, 0.9):
        with pytest.raises(InputError, match=r"^train/0002_c1\.jpg: .*(replace or remove it)"):
            open_rgb(whole[: max(1, int(share * len(whole)))], "train/0002_c1.jpg")


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"\0" * 100, b"\xff\xd8\xff", b"%PDF-1.4\n", b"GIF89a"])
def test_what_is_no_image_is_refused_by_name(content):
    with pytest.raises(InputError, match=r"^a/b\.jpg: (not an image|does not decode)"):
        open_rgb(content, "a/b.jpg")


def test_an_empty_file_is_refused_by_name():
    with pytest.raises(InputError, match=r"^a/b\.jpg: an empty file"):
        open_rgb(b"", "a/b.jpg")


def test_formats_that_run_programs_are_not_tried():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"
    with pytest.raises(InputError, match="not an image"):
        open_rgb(postscript, "x.jpg")


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (7072, 7071), (65_000, 1000)])
def test_a_bomb_is_refused_before_it_is_decoded(width, height):
    assert width * height > MAXIMUM_PIXELS
    with pytest.raises(InputError, match=r"^bomb\.png: more than 50,000,000 pixels; crop it to the person") as caught:
        open_rgb(enormous_png(width, height), "bomb.png")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("width", "height"), [(100_000, 1), (1, 65_536)])
def test_a_thin_image_is_refused_before_it_is_decoded(width, height):
    """Resizing would take gigabytes for it."""
    with pytest.raises(InputError, match=f"x.png: {width}x{height} pixels; crop it to the person, at most 65,535"):
        open_image(enormous_png(width, height), "x.png")


@pytest.mark.parametrize("content", [
    b"P3\n7000 7000\n255\n" + b"#\n" * 2_000_000,
    b"P6\n" + b"#\n" * 2_000_000 + b"2 2\n255\n" + bytes(12),
    b"P6\n2 2\n" + b"#\n" * 2_000_000 + b"255\n" + bytes(12),
    b"P2\n2 2\n255\n1 2 3 4\n",
    b"P" * 2_000_000,
], ids=["text", "comments before", "comments between", "small text", "letters"])  # fmt: skip
def test_pnm_that_would_be_read_byte_by_byte_is_refused_unread(content, monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(InputError, match=r"x\.ppm: not an image, or a PNM image as text or with long comments"):
        open_image(content, "x.ppm")


@pytest.mark.parametrize("comment", [b"", b"# made by hand\n", b"#\r"])
def test_binary_pnm_is_read_with_a_comment_too(comment):
    pixels = noise(1, 3, 5)[0]
    content = b"P6\n" + comment + b"5 3 255\n" + pixels.tobytes()
    np.testing.assert_array_equal(np.asarray(open_rgb(content, "x")), pixels)
    gray = b"P5 " + comment + b"5 3\n" + comment + b"255\n" + pixels[..., 0].tobytes()
    np.testing.assert_array_equal(np.asarray(open_image(gray, "x")), pixels[..., 0])
    black = b"P4\n" + comment + b"8 1\n\xf0"
    assert np.asarray(open_image(black, "x")).tolist() == [[False] * 4 + [True] * 4]


def test_a_large_image_is_no_bomb():
    with pytest.raises(InputError, match="does not decode"):  # the file is cut off, the size is not what is wrong
        open_rgb(enormous_png(7000, 7000), "large.png")


KINDS = {
    **WHOLE,
    "JPEG, progressive": encode(PICTURE, "JPEG", progressive=True),
    "JPEG, CMYK": saved(Image.fromarray(PICTURE).convert("CMYK"), "JPEG"),
    "PNG, palette, transparent": saved(Image.fromarray(PICTURE).quantize(16), "PNG", transparency=3),
    "PNG, 16 bits": encode(np.random.default_rng(8).integers(0, 65536, (20, 20)).astype(np.uint16)),
    "BMP, palette": saved(Image.fromarray(PICTURE).quantize(16), "BMP"),
    "TIFF, LZW": encode(PICTURE, "TIFF", compression="tiff_lzw"),
    "TIFF, JPEG": encode(PICTURE, "TIFF", compression="jpeg"),
    "TIFF, deflate": encode(PICTURE, "TIFF", compression="tiff_adobe_deflate"),
    "WEBP, lossless": encode(PICTURE, "WEBP", lossless=True),
    "WEBP, animated": saved(
        Image.fromarray(PICTURE), "WEBP", save_all=True, append_images=[Image.new("RGB", (20, 40))]
    ),
    "GIF, animated": saved(Image.fromarray(PICTURE), "GIF", save_all=True, append_images=[Image.new("RGB", (20, 40))]),
    "PPM, gray": encode(PICTURE[..., 0], "PPM"),
}


def damage(whole, generator):
    """Cut off, bytes changed at the start or anywhere, a piece lost, doubled or filled."""
    damaged = bytearray(whole)
    for _ in range(generator.randrange(1, 4)):
        place = generator.randrange(min(len(damaged), generator.choice([30, 200, 10_000])))
        length = generator.randrange(1, 1 + generator.choice([4, 64]))
        match generator.randrange(6):
            case 0:
                del damaged[max(1, place) :]
            case 1:
                del damaged[max(1, place) : place + length]
            case 2:
                damaged[place:place] = damaged[place : place + length]
            case 3:
                damaged[place : place + length] = bytes([generator.choice([0, 1, 127, 128, 255])]) * length
            case _:
                damaged[place] = generator.randrange(256)
    return bytes(damaged)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_damage_ends_in_an_image_or_in_the_one_error(kind):
    generator = random.Random(kind)
    refused = 0
    for _ in range(250):
        try:
            assert open_rgb(damage(KINDS[kind], generator), "x.jpg").mode == "RGB"
        except InputError as error:
            assert str(error).startswith("x.jpg: ")
            assert len(str(error).splitlines()) == 1
            refused += 1
    assert refused > 25


@pytest.mark.parametrize(
    "error", [IndexError("list index"), KeyError(7), TypeError("an\ninteger"), OverflowError(), ZeroDivisionError()]
)
@pytest.mark.parametrize("method", ["load", "convert"])
def test_no_error_of_a_decoder_escapes(error, method, monkeypatch):
    def fail(self, *arguments):
        raise error

    encoded = encode(channel())
    monkeypatch.setattr(Image.Image, method, fail)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", Image.Image.load)
    with pytest.raises(InputError, match=r"^x\.png: does not decode as an image \([^\n]+\); replace or remove it$"):
        open_rgb(encoded, "x.png")


def test_memory_that_is_short_is_not_taken_for_damage(monkeypatch):
    def fail(self):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(MemoryError):
        open_rgb(encode(channel()), "x.png")


def test_order_is_kept():
    count = 64
    encoded = [encode(np.full((4 + 9 * (n % 7), 5, 3), n, np.uint8)) for n in range(count)]
    pixels = decode_resized(encoded, 6, 4)
    assert pixels.shape == (count, 6, 4, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.arange(count)[:, None, None, None] * np.ones((1, 6, 4, 3)))


@pytest.mark.parametrize(
    ("name", "method"), [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)]
)
def test_resizing_is_pillows(name, method):
    pixels = noise(3, 40, 20)
    found = decode_resized([encode(one) for one in pixels], 16, 24, name)
    expected = [np.asarray(Image.fromarray(one).resize((24, 16), method)) for one in pixels]
    np.testing.assert_array_equal(found, expected)


def test_gray_is_resized_after_it_became_rgb():
    found = decode_resized([encode(channel(0, 9, 9))], 4, 4)
    assert (found[..., :1] == found).all()


def test_an_image_of_the_right_size_is_untouched():
    pixels = noise(2, 12, 6)
    np.testing.assert_array_equal(decode_resized([encode(one) for one in pixels], 12, 6), pixels)


def test_the_image_that_does_not_decode_is_named():
    good = encode(PICTURE)
    encoded = [good, good, good[:200], good, b"junk"]
    with pytest.raises(InputError, match=r"^c\.png: "):
        decode_resized(encoded, 4, 4, names=["a.png", "b.png", "c.png", "d.png", "e.png"])
    with pytest.raises(InputError, match=r"^image in row 2: "):
        decode_resized(encoded, 4, 4)


def test_no_images_are_no_pixels():
    assert decode_resized([], 8, 4).shape == (0, 8, 4, 3)


def test_jpeg_without_subsampling_the_same_bytes_twice():
    pixels = PICTURE
    encoded = encode_jpeg(pixels, 95)
    assert encoded == encode_jpeg(pixels.copy(), 95)
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.format == "JPEG"
        assert {layer[1:3] for layer in image.layer} == {(1, 1)}, "no channel is subsampled"
        assert np.abs(np.asarray(image).astype(int) - pixels).mean() < 6
    assert len(encode_jpeg(pixels, 60)) < len(encoded)
