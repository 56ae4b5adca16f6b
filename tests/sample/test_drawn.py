"""The drawn sample has the layout of Market-1501, and people can be told from each other by their looks."""

import io
import re
import zipfile
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from slsr.datasets.archive import open_archive
from slsr.datasets.readers.market1501 import read_market1501
from slsr.errors import InputError
from slsr.sample import ROOT, draw_archive
from slsr.sample.camera import CAMERAS, Moment, expose
from slsr.sample.figure import person_solids
from slsr.sample.identity import draw_identities
from slsr.sample.paint import Canvas, Light, Solid, paint, plain
from slsr.sample.scene import backdrop
from slsr.sample.shapes import View
from slsr.sample.shot import Box, Shot, Visit, take
from slsr.sample.skeleton import Pose

PEOPLE = 3
STILL = Moment(1.0, (1.0, 1.0, 1.0), 0.0, 0)
NAME = re.compile(r"(-1|\d{4})_c([1-4])s([1-6])_\d{6}_\d\d\.jpg(\.jpg)?")


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    path = tmp_path_factory.mktemp("drawn") / "sample.zip"
    return path, draw_archive(path, seed=3, people=PEOPLE)


@pytest.fixture(scope="module")
def entries(sample):
    """(folder, name) -> bytes of every file."""
    with zipfile.ZipFile(sample[0]) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        return {tuple(name.removeprefix(f"{ROOT}/").rpartition("/")[::2]): archive.read(name) for name in names}


def images(entries, folder):
    """(identity, camera, name, bytes) of a folder's images."""
    found = [(NAME.fullmatch(name), content) for (place, name), content in entries.items() if place == folder]
    return [(int(match[1]), int(match[2]), match[0], content) for match, content in found if match]


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=float)


def test_folders_and_names_are_those_of_market1501(entries):
    folders = Counter(folder for folder, _ in entries)
    assert set(folders) == {"", "bounding_box_train", "bounding_box_test", "query", "gt_bbox"}
    strange = sorted(f"{folder}/{name}" for folder, name in entries if not NAME.fullmatch(name))
    assert strange == ["/readme.txt", "bounding_box_test/Thumbs.db", "bounding_box_train/Thumbs.db"]
    doubled = [folder for folder, name in entries if name.endswith(".jpg.jpg")]
    assert sorted(doubled) == ["bounding_box_test", "gt_bbox", "query"]
    assert b"drawn" in entries["", "readme.txt"] and b"nobody" in entries["", "readme.txt"]


def test_the_reader_counts_what_was_drawn(sample):
    path, counts = sample
    with open_archive(path) as archive:
        found = read_market1501(archive).entries
    splits = Counter(entry.split for entry in found)
    assert splits == {
        "train": counts.train,
        "query": counts.query,
        "gallery": counts.gallery,
        "multi_query": counts.boxes,
    }
    assert sum(entry.identity == -1 for entry in found) == counts.junk > 0
    assert sum(entry.identity == 0 for entry in found) == counts.distractors > 0
    assert {entry.identity for entry in found if entry.identity < 1 and entry.split != "gallery"} == set()


def test_people_are_split_without_overlap_and_numbered_with_gaps(entries):
    train = {identity for identity, *_ in images(entries, "bounding_box_train")}
    test = {identity for identity, *_ in images(entries, "query")}
    assert len(train) == len(test) == PEOPLE and not train & test
    assert {identity for identity, *_ in images(entries, "gt_bbox")} == test
    assert {identity for identity, *_ in images(entries, "bounding_box_test")} - {-1, 0} == test


def test_every_query_has_a_match_from_another_camera(entries):
    seen = defaultdict(set)
    for identity, camera, *_ in images(entries, "bounding_box_test"):
        seen[identity].add(camera)
    queries = [(identity, camera) for identity, camera, *_ in images(entries, "query")]
    assert len(queries) == len(set(queries)) >= 3 * PEOPLE
    assert all(seen[identity] - {camera} for identity, camera in queries)
    boxes = Counter((identity, camera) for identity, camera, *_ in images(entries, "gt_bbox"))
    assert all(boxes[query] >= 2 for query in queries)


def test_sizes(entries):
    for folder in ("bounding_box_train", "bounding_box_test", "query"):
        assert {Image.open(io.BytesIO(content)).size for *_, content in images(entries, folder)} == {(64, 128)}
    assert len({Image.open(io.BytesIO(content)).size for *_, content in images(entries, "gt_bbox")}) > PEOPLE


def test_no_two_images_are_the_same(entries):
    drawn = [content for (_, name), content in entries.items() if NAME.fullmatch(name)]
    assert len(set(drawn)) == len(drawn)


def test_training_people_have_several_images_from_several_cameras(entries):
    cameras = defaultdict(Counter)
    for identity, camera, *_ in images(entries, "bounding_box_train"):
        cameras[identity][camera] += 1
    assert all(len(seen) >= 3 and min(seen.values()) >= 2 for seen in cameras.values())


def test_cameras_show_the_same_moment_differently():
    someone = draw_identities(1, np.random.default_rng(1))[0]
    box = Box(-0.5, -0.1, 1.0, 2.0)
    backdrops = tuple(backdrop(camera.place, np.random.default_rng(0)) for camera in CAMERAS)
    visits = [Visit(number, 1, 0.0, 10.0, 0.5, STILL) for number in (1, 2, 3, 4)]
    views = [take(Shot(visit, box, STILL, someone, Pose(0.5)), backdrops, (64, 128)) for visit in visits]
    means = [np.asarray(view, dtype=float).mean(axis=(0, 1)) for view in views]
    assert min(np.abs(means[one] - means[other]).max() for one in range(4) for other in range(one)) > 5.0


def test_same_seed_same_bytes_and_another_seed_others(entries, tmp_path):
    for name in ("one.zip", "two.zip"):
        draw_archive(tmp_path / name, seed=4, people=2)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as other:
        drawn = {other.read(name) for name in other.namelist() if name.endswith(".jpg")}
    assert len(drawn) > 50 and not drawn & set(entries.values())


def test_the_full_sample_stays_under_four_megabytes(sample):
    path, counts = sample
    drawn = counts.train + counts.query + counts.gallery + counts.boxes
    assert path.stat().st_size / drawn * 1500 < 4e6


@pytest.mark.parametrize(
    ("arguments", "named"), [({"people": 1}, "identities: 1"), ({"people": 501}, "501"), ({"seed": -1}, "seed: -1")]
)
def test_refuses_what_it_cannot_draw(tmp_path, arguments, named):
    with pytest.raises(InputError, match=named):
        draw_archive(tmp_path / "sample.zip", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["sample", "sample.txt"])
def test_a_file_that_is_not_named_zip_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"a name that ends in \.zip"):
        draw_archive(tmp_path / name, people=2)


def test_a_file_is_only_replaced_with_force(tmp_path, run_slsr):
    target = tmp_path / "sample.zip"
    target.write_bytes(b"precious")
    code, _, message = run_slsr("sample", target, "--identities", 2)
    assert code == 2 and "exists already; use another name, or --force to replace the file" in message
    assert target.read_bytes() == b"precious"
    code, text, _ = run_slsr("sample", target, "--identities", 2, "--force")
    assert code == 0 and zipfile.is_zipfile(target)
    assert re.fullmatch(
        r"wrote \S+sample\.zip: 2 people for training and 2 for testing; \d+ training images, \d+ queries, "
        r"\d+ gallery images \(4 junk, 6 distractors\), \d+ multi-query images\n",
        text,
    )


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        draw_archive(tmp_path / "nowhere" / "sample.zip", people=2)


def test_people_in_the_same_colors_differ_otherwise():
    people = draw_identities(12, np.random.default_rng(0), alike=3)
    for first in range(0, 12, 3):
        group = people[first : first + 3]
        assert len({(person.top_color, person.bottom_color) for person in group}) == 1
        for one in group:
            for other in group:
                assert one is other or sum(a != b for a, b in zip(one.looks(), other.looks(), strict=True)) >= 5
    assert len({(person.top_color, person.bottom_color) for person in people}) == 4


def painted(person, yaw):
    canvas = Canvas(np.full((128, 64, 3), 0.5, dtype=np.float32), -0.525, 2.0, 128 / 2.1)
    paint(canvas, person_solids(person, Pose(0.4), View(yaw)), Light())
    return canvas.pixels


def test_a_backpack_hides_the_back_and_not_the_front():
    someone = replace(draw_identities(1, np.random.default_rng(5))[0], bag="none", girth=1.0, hair="short", hat="none")
    carrying = replace(someone, bag="backpack", bag_color=(1.0, 0.0, 1.0))
    front, back = (np.abs(painted(carrying, yaw) - painted(someone, yaw)).max(axis=2) > 0.1 for yaw in (0.0, np.pi))
    assert back.sum() > 2 * front.sum() > 0


def test_a_solid_covers_its_area_and_no_more():
    canvas = Canvas(np.zeros((100, 100, 3), dtype=np.float32), -1.0, 1.0, 50.0)
    flat = np.array([0.3, 0.3])
    paint(
        canvas,
        [Solid((0.0, 0.5), (0.0, -0.5), np.array([0.0, 1.0]), flat, plain((1 / 1.12,) * 3))],
        Light(ambient=1.12),
    )
    covered = canvas.pixels[..., 0]
    assert covered.sum() / 50.0**2 == pytest.approx(0.6 * 1.0, rel=0.01)
    assert covered[:, :34].max() == covered[:24].max() == 0


def test_the_nearer_solid_hides_the_farther():
    canvas = Canvas(np.zeros((20, 20, 3), dtype=np.float32), -1.0, 1.0, 10.0)
    far, near = (
        Solid((0.0, 0.8), (0.0, -0.8), np.array([0.0, 1.0]), np.array([0.5, 0.5]), plain(color), depth)
        for color, depth in (((1.0, 0.0, 0.0), 0.0), ((0.0, 1.0, 0.0), 1.0))
    )
    paint(canvas, [near, far], Light())
    assert canvas.pixels[10, 10, 0] == 0 and canvas.pixels[10, 10, 1] > 0.5


def test_white_balance_and_exposure_act_in_their_direction():
    gray = np.full((64, 32, 3), 0.4, dtype=np.float32)
    plainest = replace(CAMERAS[0], gains=(1.0, 1.0, 1.0), exposure=1.0, contrast=1.0, haze=0.0, noise=0.0, blur=0.0)

    def mean(camera):
        return np.asarray(expose(gray, camera, STILL, (32, 64)), dtype=float).mean(axis=(0, 1))

    warm = mean(replace(plainest, gains=(1.3, 1.0, 0.7)))
    assert warm[0] > mean(plainest)[0] + 5 and warm[2] < mean(plainest)[2] - 5
    assert (mean(replace(plainest, exposure=0.5)) < mean(plainest) - 10).all()
