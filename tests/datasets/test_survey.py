import zipfile

import pytest
from builders import golden, market_files, picture, real_archive, variant, viper_names, write_folder, write_zip

from slsr.datasets.opening import choose, recognize
from slsr.datasets.survey import render_list, render_survey, survey
from slsr.errors import InputError
from slsr.sample import draw_archive

TRAIN = "Market/bounding_box_train/"
GALLERY = "Market/bounding_box_test/"


def check(path, tmp_path, **split):
    return survey(path, choose(recognize(path), **split), tmp_path)


def test_counts_and_differences(tmp_path):
    found = check(write_zip(tmp_path / "m.zip", market_files()), tmp_path)
    assert found.images_per_identity == {"train": [3, 3, 3], "gallery": [3, 3]}
    assert found.differences()["query"] == ["images 4 instead of 3,368", "identities 2 instead of 750"]
    assert not found.is_published()
    assert not found.problems
    text = render_survey(found)
    assert "✗ query: images 4 instead of 3,368, identities 2 instead of 750" in text
    assert "images per training identity: 3 to 3, mean 3.0" in text
    assert "no image is in two parts of the split" in text


def test_a_drawn_archive_is_not_compared_with_the_published_counts(tmp_path):
    draw_archive(tmp_path / "drawn.zip", people=2)
    found = check(tmp_path / "drawn.zip", tmp_path)
    assert found.differences() == {} and not found.is_published()
    text = render_survey(found)
    assert "drawn by `slsr sample`, in the layout of Market-1501" in text and "✗" not in text
    zipfile.ZipFile(tmp_path / "drawn.zip").extractall(tmp_path / "data/unpacked")
    assert "drawn (layout of Market-1501)" in render_list(tmp_path / "data", None)


def test_problems_are_shown_beside_the_rest(tmp_path):
    files = market_files() | {
        GALLERY + "0007_c1s1_000001_09.jpg": market_files()[TRAIN + "0002_c1s1_000001_01.jpg"],
        TRAIN + "0002_c2s1_000009_01.jpg": b"",
        TRAIN + "0011_c2s1_000009_01.jpg": picture(1, mode="L"),
    }
    found = check(write_zip(tmp_path / "m.zip", files), tmp_path)
    assert list(found.unreadable) == [TRAIN + "0002_c2s1_000009_01.jpg"]
    assert found.problems == [
        "identity 7 is both in training and test, so that the results would be invalid; move each identity to one side"
    ]
    text = render_survey(found)
    for line in (
        "PROBLEM: identity 7 is both",
        "PROBLEM: 1 unreadable image; replace them, or set dataset.unreadable_images: skip",
        "  Market/bounding_box_train/0002_c2s1_000009_01.jpg: an empty file (0 bytes)",
        "the same image in train and gallery: 1, for example 0002_c1s1_000001_01.jpg = 0007_c1s1_000001_09.jpg",
        "1 image of mode L, converted to RGB when used",
    ):
        assert line in text


def test_histogram_has_every_identity(tmp_path):
    files = market_files("") | {
        f"bounding_box_train/{identity:04d}_c1s1_{image:06d}_01.jpg": picture(identity)
        for identity in range(100, 140)
        for image in range(identity - 95)
    }
    found = check(write_folder(tmp_path / "m", files), tmp_path)
    text = render_survey(found).split("images per training identity")[1].split("\n\n")[0]
    lines = text.splitlines()
    assert lines[0] == ": 3 to 44, mean 23.0"
    assert sum(int(line.split()[-1]) for line in lines[1:]) == 43
    assert len(lines) == 1 + 7, "42 values in bins of 6"


def test_published_counts_of_viper_are_met(tmp_path):
    files = dict.fromkeys(viper_names(632), picture(0, 4, 8, form="BMP"))
    found = check(write_zip(tmp_path / "v.zip", files), tmp_path, split=7)
    assert found.is_published()
    assert "✓ query: images 632, identities 316" in render_survey(found)
    assert "split 7" in render_survey(found)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"protocol": "np"}, "protocol np means nothing for name: viper"),
        ({"boxes": "labeled"}, "boxes labeled means nothing for name: viper"),
        ({"split": 11}, "split 11, but name: viper has the splits 1 to 10"),
        ({"split": 0}, "split 0, but"),
    ],
)
def test_split_that_the_data_set_lacks(split, message):
    with pytest.raises(InputError, match=message):
        choose(variant("viper", split=1), **split)


def test_np_has_no_split_number():
    assert choose(variant("cuhk03", "classic", "detected", 1), protocol="np") == variant("cuhk03", "np", "detected")
    with pytest.raises(InputError, match="protocol new, but name: cuhk03 needs classic or np"):
        choose(variant("cuhk03", "classic", "detected", 1), protocol="new")


def test_list(tmp_path):
    write_zip(tmp_path / "data/m.zip", market_files())
    (tmp_path / "data/notes.txt").write_text("x")
    text = render_list(tmp_path / "data", "m.zip")
    assert "* m.zip" in text
    assert "Market-1501" in text.splitlines()[-2]
    assert "not recognized" in text
    assert "withdrawn by its authors" in text
    assert text.count("show real people") == 1
    assert "is empty; `dvc pull data.dvc`" in render_list(tmp_path / "none", None)


@pytest.mark.real_data
def test_real_archive_meets_the_published_counts(tmp_path):
    golden("README.md")
    found = check(real_archive(), tmp_path)
    assert found.is_published()
    assert not found.problems
    assert not found.unreadable
    assert found.facts["duplicates"]["across_splits"] == {}
