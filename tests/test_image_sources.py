"""Files, folders, patterns and tables as one stream of images."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import picture

from slsr.errors import InputError
from slsr.image_sources import find_images
from slsr.records import GENERATED, LABELLED, table_writer


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """shots/ with two images, one below, a hidden one and a text; run in its parent."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(["b.jpg", "a.PNG", "deeper/c.jpeg", ".hidden.jpg", "notes.txt"]):
        path = tmp_path / "shots" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return tmp_path / "shots"


def write_rows(path, count, schema=LABELLED):
    more = {"cluster": 0, "label_index": [0], "label_weight": [1.0]} if schema is GENERATED else {}
    with table_writer(path, schema) as table:
        for number in range(count):
            row = {"image": picture(number), "name": f"row-{number}", "identity": number % 3, "camera": 1} | more
            table.append({key: row[key] for key in schema.names})
    return path


def listed(*arguments):
    return [source.name for source in find_images(arguments)]


def test_a_folder_is_read_at_any_depth_by_name(folder):
    assert listed("shots") == ["shots/a.PNG", "shots/b.jpg", "shots/deeper/c.jpeg"]


def test_a_pattern_and_an_image_named_twice(folder):
    assert listed("shots/*.jpg", "shots", "shots/notes.txt") == [
        "shots/b.jpg",
        "shots/a.PNG",
        "shots/deeper/c.jpeg",
        "shots/notes.txt",
    ]


def test_a_table_gives_bytes_and_labels(folder, tmp_path):
    write_rows(tmp_path / "gallery.parquet", 130)
    sources = find_images(["gallery.parquet"])
    assert (sources.count, sources.labelled) == (130, True)
    rows = list(sources)
    assert [row.name for row in rows] == [f"row-{number}" for number in range(130)]
    assert rows[7].image == picture(7)
    assert (rows[7].identity, rows[7].camera) == (1, 1)


def test_generated_images_have_no_labels(folder, tmp_path):
    write_rows(tmp_path / "generated.parquet", 3, GENERATED)
    write_rows(tmp_path / "gallery.parquet", 2)
    assert not find_images(["generated.parquet"]).labelled
    both = find_images(["gallery.parquet", "generated.parquet", "shots"])
    assert (both.count, both.labelled) == (8, False)


def test_a_name_that_is_no_text_can_still_be_printed(folder):
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(picture(0))
    assert "shots/caf\\xe9.jpg" in listed("shots")


def test_what_names_no_images_is_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    write_rows(tmp_path / "tables" / "gallery.parquet", 1)
    write_rows(tmp_path / "none.parquet", 0)
    (tmp_path / "text.parquet").write_text("no table")
    pq.write_table(pa.table({"name": ["x"]}), tmp_path / "other.parquet")
    for argument, message in {
        "missing.jpg": "no such file or folder",
        "missing/*.jpg": "no file has such a name",
        "empty": "a folder without images",
        "tables": "name those you mean: gallery.parquet",
        "none.parquet": "no rows",
        "text.parquet": "not a readable Parquet table",
        "other.parquet": "no column image",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            find_images([argument])
        assert argument in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_damaged_table_says_so_when_it_is_read(folder, tmp_path):
    path = write_rows(tmp_path / "gallery.parquet", 20)
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"gallery.parquet: damaged"):
        list(find_images([path]))
