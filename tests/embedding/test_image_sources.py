"""Files, folders, patterns and tables as one stream of images."""

import errno
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import picture

from slsr.embedding.sources import find_images
from slsr.errors import InputError
from slsr.images.tables import GENERATED, LABELED, table_writer


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """shots/ with two images, one below, a hidden one and a text; run in its parent."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(["b.jpg", "a.PNG", "deeper/c.jpeg", ".hidden.jpg", "notes.txt"]):
        path = tmp_path / "shots" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return tmp_path / "shots"


def write_rows(path, count, schema=LABELED):
    label = {
        f"{kind}_{part}": [value] for kind in ("label", "nearest") for part, value in (("index", 0), ("weight", 1.0))
    }
    more = {"cluster": 0} | label if schema is GENERATED else {}
    with table_writer(path, schema) as table:
        for number in range(count):
            row = {"image": picture(number), "name": f"row-{number}", "identity": number % 3, "camera": 1} | more
            table.append({key: row[key] for key in schema.names})
    return path


def listed(*arguments):
    return [source.name for source in find_images(arguments)]


def test_a_folder_is_read_at_any_depth_by_name(folder):
    assert listed("shots") == ["shots/a.PNG", "shots/b.jpg", "shots/deeper/c.jpeg"]


def test_hidden_files_and_folders_are_left_out(folder):
    before = listed("shots")
    (folder / ".trash" / "deeper").mkdir(parents=True)
    for hidden in (folder / ".b.jpg", folder / ".trash" / "b.jpg", folder / ".trash" / "deeper" / "b.jpg"):
        hidden.write_bytes((folder / "b.jpg").read_bytes())
    assert listed("shots") == before
    assert listed("shots/.trash") == ["shots/.trash/b.jpg", "shots/.trash/deeper/b.jpg"], "where it is named itself"


def test_a_folder_that_cannot_be_read_is_not_passed_over(folder, monkeypatch):
    """Its images would be missing, and nobody told."""
    original = os.scandir

    def scandir(place):
        if str(place).endswith("deeper"):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return original(place)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"shots/deeper: cannot be read \(Permission denied\)"):
        find_images(["shots"])


def test_a_pattern_and_an_image_named_twice(folder):
    assert listed("shots/*.jpg", "shots", "shots/notes.txt") == [
        "shots/b.jpg",
        "shots/a.PNG",
        "shots/deeper/c.jpeg",
        "shots/notes.txt",
    ]


def test_an_image_is_taken_once_by_whatever_path(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    (folder / "mine.jpg").symlink_to(folder / "b.jpg")
    write_rows(tmp_path / "gallery.parquet", 2)
    names = listed("shots", folder, "shots/../shots/b.jpg", "link/deeper", str(tmp_path / "s*s" / "*.jpg"))
    assert names == ["shots/a.PNG", "shots/b.jpg", "shots/deeper/c.jpeg", "shots/mine.jpg"]
    assert find_images(["gallery.parquet", tmp_path / "gallery.parquet"]).count == 2
    assert listed(folder / "b.jpg", "shots/b.jpg") == [str(folder / "b.jpg")]


def test_a_table_gives_bytes_and_labels(folder, tmp_path):
    write_rows(tmp_path / "gallery.parquet", 130)
    sources = find_images(["gallery.parquet"])
    assert (sources.count, sources.labeled) == (130, True)
    rows = list(sources)
    assert [row.name for row in rows] == [f"row-{number}" for number in range(130)]
    assert rows[7].image == picture(7)
    assert (rows[7].identity, rows[7].camera) == (1, 1)


def test_generated_images_have_no_labels(folder, tmp_path):
    write_rows(tmp_path / "generated.parquet", 3, GENERATED)
    write_rows(tmp_path / "gallery.parquet", 2)
    assert not find_images(["generated.parquet"]).labeled
    both = find_images(["gallery.parquet", "generated.parquet", "shots"])
    assert (both.count, both.labeled) == (8, False)


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
        "missing/*.jpg": "no file matches this pattern",
        "empty": "a folder without images",
        "tables": "give its tables by name: gallery.parquet",
        "none.parquet": "the tables are empty",
        "text.parquet": "not a readable Parquet table",
        "other.parquet": "no column image",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            find_images([argument])
        assert argument in str(caught.value)
        assert "\n" not in str(caught.value)


NO_TEXT = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"\xff\xfe"))


def with_columns(path, **columns):
    whole = {"image": [picture(0), picture(1)], "name": ["a", "b"], "identity": [1, 2], "camera": [1, 1]} | columns
    pq.write_table(pa.table({name: values for name, values in whole.items() if values is not None}), path)
    return path


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": ["/etc/hostname", "b.jpg"]}, "column image is string; it must be binary"),
        ({"name": [1, 2]}, "column name is int64; it must be a string"),
        ({"name": ["a", None]}, "column name has rows without a value"),
        ({"name": NO_TEXT}, "Invalid UTF8"),
        ({"identity": ["one", "two"]}, "column identity is string; it must be whole numbers"),
        ({"identity": [1.5, 2.5]}, "column identity is double; it must be whole numbers"),
        ({"identity": [True, False]}, "column identity is bool"),
        (
            {"identity": pa.array([2**64 - 1, 2], pa.uint64())},
            "column identity has numbers beyond 64 bits",
        ),
        ({"camera": [1, None]}, "column camera has rows without a value"),
        ({"camera": pa.nulls(2)}, "column camera is null"),
    ],
)
def test_a_table_of_other_types_is_refused_before_any_work(folder, tmp_path, columns, message):
    path = with_columns(tmp_path / "odd.parquet", **columns)
    with pytest.raises(InputError, match=rf"odd.parquet: .*{message}") as caught:
        find_images([path])
    assert "\n" not in str(caught.value)


def test_types_that_hold_the_same_are_taken(folder, tmp_path):
    columns = {"name": pa.array(["a", "b"], pa.large_string()), "image": pa.array([b"x", None], pa.large_binary())}
    path = with_columns(tmp_path / "wide.parquet", identity=pa.array([7, 8], pa.uint16()), **columns)
    assert [(row.name, row.image, row.identity) for row in find_images([path])] == [("a", b"x", 7), ("b", b"", 8)]


def test_a_label_without_the_other_is_not_read(folder, tmp_path):
    sources = find_images([with_columns(tmp_path / "half.parquet", identity=["one", "two"], camera=None)])
    assert not sources.labeled
    assert {row.identity for row in sources} == {None}


def test_a_damaged_table_says_so_when_it_is_read(folder, tmp_path):
    path = write_rows(tmp_path / "gallery.parquet", 20)
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"gallery.parquet: damaged"):
        list(find_images([path]))


def test_a_linked_folder_is_read_and_other_formats_are_counted(folder, tmp_path, caplog):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for number, name in enumerate(["d.jfif", "e.JPE", "f.pgm"]):
        (elsewhere / name).write_bytes(picture(number))
    (folder / "linked").symlink_to(elsewhere)
    (folder / "loop").symlink_to(folder)
    for name in ("x.heic", "y.avif", "z.zip"):
        (folder / name).write_bytes(b"x")
    assert listed("shots")[3:] == ["shots/linked/d.jfif", "shots/linked/e.JPE", "shots/linked/f.pgm"]
    for line in (
        "left out: 2 files in a format that is not read (convert them to PNG or JPEG), for example x.heic",
        "left out: 1 archives inside (unpack them), for example z.zip",
        "left out: 1 links to a folder that they are in, for example loop/",
        "left out: 1 hidden images or folders, for example .hidden.jpg",
    ):
        assert f"shots: {line}" in caplog.text


def test_unknown_cameras_of_a_table_are_counted(folder, tmp_path):
    with table_writer(tmp_path / "t.parquet", LABELED) as table:
        for number, camera in enumerate([1, -1, -1]):
            table.append({"image": picture(number), "name": str(number), "identity": 1, "camera": camera})
    assert find_images(["t.parquet"]).unknown_cameras == 2
