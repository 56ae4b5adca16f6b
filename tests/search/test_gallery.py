"""Pictures of ranked lists: found by name, made small, marked as the labels say."""

import io
from pathlib import Path

import numpy as np
import pytest
from builders import picture
from PIL import Image

from slsr.embedding.files import NamedFeatures
from slsr.embedding.sources import find_images
from slsr.errors import InputError
from slsr.images.tables import LABELED, table_writer
from slsr.reporting.gallery_page import gallery_page
from slsr.search.gallery import SHOWN_SIZE, find_pictures, gallery_rows, mark_of
from slsr.search.ranked_lists import Match


def match(identity, camera, name="a.jpg"):
    return Match(0, name, 0.5, None, identity, camera)


@pytest.mark.parametrize(
    ("identity", "camera", "mark"),
    [
        (7, 2, "right"),
        (8, 2, "wrong"),
        (0, 2, "wrong"),  # a distractor
        (7, 1, None),  # the camera of the query: evaluations leave it out
        (-1, 2, None),  # junk
        (None, None, None),
    ],
)
def test_marks_are_those_of_the_evaluation(identity, camera, mark):
    assert mark_of(match(identity, camera), 7, 1) == mark
    assert mark_of(match(identity, camera), None, None) is None


@pytest.mark.parametrize("identity", [-1, 0])
def test_a_query_that_is_junk_or_a_distractor_has_no_marks(identity):
    others = [match(other, 2) for other in (identity, 7, 0, -1)]
    assert [mark_of(one, identity, 1) for one in others] == [None] * 4


def test_unknown_cameras_differ():
    assert mark_of(match(7, -1), 7, -1) == "right"
    assert mark_of(match(7, None), 7, None) == "right"


def pixels(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"), float)


def test_images_are_found_in_tables_at_other_places_and_at_their_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, name, number in (("here", "a.jpg", 1), ("moved", "b.jpg", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(picture(number))
    with table_writer(tmp_path / "t.parquet", LABELED) as table:
        table.append({"image": picture(3), "name": "c", "identity": 1, "camera": 1})
    names = ["here/a.jpg", "gone/b.jpg", "c"]
    found = find_pictures(names, find_images(["moved", "t.parquet"]))
    for name, number in zip(names, (1, 2, 3), strict=True):
        assert np.abs(pixels(found[name]) - pixels(picture(number))).mean() < 6, "JPEG again, and nothing else"
    with pytest.raises(InputError, match=r"c: no such image \(2 are missing\); .* --images"):
        find_pictures(names, None)


def test_a_file_name_that_two_images_have_finds_neither(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "a.jpg").write_bytes(picture(1))
    with pytest.raises(InputError, match="2 are missing"):
        find_pictures(["one/a.jpg", "two/a.jpg"], find_images(["moved"]))


def test_captions_do_not_tell_the_folders_of_the_user(tmp_path):
    names = [str(tmp_path / "customer" / name) for name in ("a.jpg", "b.jpg")]
    (tmp_path / "customer").mkdir()
    for number, name in enumerate(names):
        Path(name).write_bytes(picture(number))
    queries = NamedFeatures(np.eye(1, 4, dtype=np.float32), names[:1], None, None)
    (row,) = gallery_rows(queries, [[match(None, None, names[1])]], None, None)
    assert (row.query.caption, row.results[0].caption) == ("a.jpg", "1: 0.5000\nb.jpg")
    assert "customer" not in gallery_page("found", [row])


def test_the_row_of_a_query_has_its_small_pictures_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    large = Image.fromarray(np.zeros((900, 300, 3), np.uint8))
    large.save("large.png")
    (tmp_path / "b.jpg").write_bytes(picture(2))
    queries = NamedFeatures(np.eye(1, 4, dtype=np.float32), ["large.png"], np.array([7]), np.array([1]))
    lists = [[match(7, 2, "b.jpg"), match(8, 3, "large.png")]]
    (row,) = gallery_rows(queries, lists, None, None)
    assert Image.open(io.BytesIO(row.query.encoded)).size == (85, 256)
    assert SHOWN_SIZE[0] >= 85 and row.query.mark is None
    assert [image.mark for image in row.results] == ["right", "wrong"]
    assert row.query.caption == "large.png\nidentity 7, camera 1"
    captions = [image.caption for image in row.results]
    assert captions == ["1: 0.5000\nb.jpg\nidentity 7, camera 2", "2: 0.5000\nlarge.png\nidentity 8, camera 3"]
