"""The gallery page as an HTML parser reads it."""

import base64
import io
from html.parser import HTMLParser

import pytest
from PIL import Image

from slsr.errors import InputError
from slsr.reporting.gallery_page import GalleryImage, GalleryRow, gallery_page


class Reader(HTMLParser):
    """Collects tags with their attributes, and the text below each kind of tag."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.text = [], [], {}
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def encoded(color, kind="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 16), color).save(buffer, kind)
    return buffer.getvalue()


ROWS = [
    GalleryRow(
        GalleryImage(encoded("red"), "0001.png\nidentity 1, camera 2"),
        [GalleryImage(encoded("green", "PNG"), "1\n0.912", "right"), GalleryImage(encoded("blue"), "2", "wrong")],
    ),
    GalleryRow(GalleryImage(encoded("white"), "mine"), [GalleryImage(encoded("black"), "1")]),
]


def test_every_image_is_in_the_page_byte_by_byte_in_order():
    page = Reader(gallery_page("Two queries", ROWS))
    images = [image for row in ROWS for image in (row.query, *row.results)]
    sources = [image["src"] for image in page.all("img")]
    assert [source.split(";")[0] for source in sources] == [
        f"data:image/{kind}" for kind in ("jpeg", "png", "jpeg", "jpeg", "jpeg")
    ]
    assert [base64.b64decode(source.split(",")[1]) for source in sources] == [image.encoded for image in images]
    assert page.text["figcaption"] == [image.caption for image in images]
    assert [image["alt"] for image in page.all("img")] == ["query 1", "result 1", "result 2", "query 2", "result 1"]


def test_marks_are_words_and_frames():
    page = Reader(gallery_page("Two queries", ROWS))
    assert [figure["class"] for figure in page.all("figure")] == ["query", "right", "wrong", "query", ""]
    assert page.text["span"] == ["✓ right", "✗ wrong"]


def test_the_page_is_whole_and_asks_for_nothing():
    text = gallery_page("Two queries", ROWS)
    page = Reader(text)
    assert page.open == []
    assert text.startswith("<!doctype html>")
    assert not page.all("script")
    assert not page.all("link")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert all(image["src"].startswith("data:") for image in page.all("img"))
    assert "http://" not in text
    assert "https://" not in text
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a & b </figure>"])
def test_text_is_escaped(hostile):
    image = GalleryImage(encoded("red"), hostile)
    page = Reader(gallery_page(hostile, [GalleryRow(image, [image])]))
    assert page.open == []
    assert page.text["title"] == page.text["h1"] == [hostile]
    assert page.text["figcaption"] == [hostile, hostile]
    assert len(page.all("img")) == 2
    assert not page.all("script")


def test_other_formats_are_refused_by_name():
    with pytest.raises(InputError, match="'mine': neither JPEG nor PNG"):
        gallery_page("x", [GalleryRow(GalleryImage(encoded("red", "GIF"), "mine"), [])])


def test_without_rows_there_is_a_heading():
    assert Reader(gallery_page("Nothing", [])).text["h1"] == ["Nothing"]
