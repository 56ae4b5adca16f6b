import hashlib
import io
import threading

import pytest
from builders import enormous_png, picture, sixteen_bit_picture
from PIL import Image

from slsr.datasets.collection import Entry
from slsr.datasets.inspection import Inspection, Unreadable, inspect_images, map_in_order


def inspect(content):
    entry = Entry("train", "a.jpg", 1, 1, "train/a.jpg", len(content))
    [(_, encoded, found)] = inspect_images([entry], lambda source: content)
    return encoded, found


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        (picture(1), "RGB"),
        (picture(1, mode="L"), "L"),
        (picture(1, mode="CMYK"), "CMYK"),
        (picture(1, mode="P", form="PNG"), "P"),
        (picture(1, mode="RGBA", form="PNG"), "RGBA"),
        (sixteen_bit_picture(), "I;16"),
    ],
)
def test_what_an_image_is(content, mode):
    encoded, found = inspect(content)
    assert encoded == content
    assert found == Inspection(16, 32, mode, hashlib.sha256(content).digest()[:16])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "train/a.jpg: an empty file (0 bytes)"),
        (b"no image", "train/a.jpg: not an image"),
        (picture(1, 64, 128)[:-400], "train/a.jpg: does not decode as an image"),
        (picture(1, form="PNG")[:200], "train/a.jpg: does not decode as an image"),
        (enormous_png(), "train/a.jpg: more than 50,000,000 pixels; crop it"),
        (enormous_png(8000, 8000), "train/a.jpg: more than 50,000,000 pixels; crop it"),
    ],
)
def test_why_an_image_is_unreadable(content, reason):
    _, found = inspect(content)
    assert isinstance(found, Unreadable)
    assert found.reason.startswith(reason)


def test_an_image_whose_values_have_no_certain_meaning_is_unreadable():
    buffer = io.BytesIO()
    Image.new("F", (8, 16), 0.5).save(buffer, "TIFF")
    _, found = inspect(buffer.getvalue())
    assert found.reason.startswith("train/a.jpg: pixels of floating point, whose range is not known")


def test_an_image_that_cannot_become_rgb_is_unreadable(monkeypatch):
    def fail(self, *arguments):
        raise ValueError("conversion from LAB to RGB not supported")

    content = picture(1, mode="L")
    monkeypatch.setattr(Image.Image, "convert", fail)
    _, found = inspect(content)
    assert found == Unreadable(
        "train/a.jpg: does not decode as an image (conversion from LAB to RGB not supported); replace or remove it"
    )


def test_order_is_kept():
    entries = [Entry("train", f"{n:03d}.jpg", 1, 1, str(n), 0) for n in range(101)]
    found = list(inspect_images(entries, lambda source: picture(int(source)), workers=3))
    assert [entry for entry, _, _ in found] == entries
    assert [encoded for _, encoded, _ in found] == [picture(n) for n in range(101)]


def test_map_runs_a_bounded_number_ahead():
    started = []
    results = map_in_order(lambda item: started.append(item) or item, range(1000), workers=2, ahead=3)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    results.close()
    assert len(started) <= 5 + 6


def test_an_error_ends_the_map_and_its_threads():
    def fail(item):
        if item == 3:
            raise ValueError("three")
        return item

    before = threading.active_count()
    with pytest.raises(ValueError, match="three"):
        list(map_in_order(fail, range(100), workers=2))
    assert threading.active_count() == before


def test_large_images_are_read_a_few_at_a_time():
    entries = [Entry("train", f"{n:03d}.jpg", 1, 1, str(n), 2**21) for n in range(200)]
    read = []
    results = inspect_images(entries, lambda source: read.append(source) or picture(1), workers=2)
    next(results)
    results.close()
    assert len(read) <= 2 * 4 + 1
