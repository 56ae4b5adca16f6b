import io

import numpy as np
import pytest
from builders import golden, picture, variant, viper_files, write_zip
from PIL import Image

from slsr.datasets.collection import EvaluationProtocol
from slsr.datasets.opening import open_collection, recognize
from slsr.datasets.readers.viper import split_identities
from slsr.errors import InputError


def test_halves_and_both_cameras(tmp_path):
    path = write_zip(tmp_path / "v.zip", viper_files(8))
    assert recognize(path) == variant("viper", split=1)
    with open_collection(path, variant("viper", split=3), tmp_path) as collection:
        entries = collection.entries
        assert collection.evaluation == EvaluationProtocol("single-gallery-shot", "both")
        assert collection.read(entries[0].source) == viper_files(8)[entries[0].source]
    people = {
        split: {entry.identity for entry in entries if entry.split == split} for split in ("train", "query", "gallery")
    }
    assert people["query"] == people["gallery"] == split_identities(range(1, 9), 3)
    assert people["train"] == set(range(1, 9)) - people["query"]
    assert len(entries) == 8 + 8 + 8
    for entry in entries:
        number, camera = int(entry.name[6:9]), entry.name[4]
        assert (entry.identity, entry.camera) == (number + 1, 1 if camera == "a" else 2)


def test_ten_halves_of_632_are_random_and_fixed():
    people = list(range(1, 633))
    halves = [split_identities(people, split) for split in range(1, 11)]
    assert all(len(half) == 316 for half in halves)
    overlaps = [len(one & other) for n, one in enumerate(halves) for other in halves[:n]]
    assert all(abs(overlap - 158) < 40 for overlap in overlaps)  # hypergeometric, mean 158, deviation 6.3
    assert sorted(halves[0])[:5] == [3, 4, 5, 9, 11], "published numbers depend on these halves"


def test_half_does_not_depend_on_order():
    assert split_identities([3, 1, 2, 9], 1) == split_identities([9, 2, 1, 3], 1)


def test_a_person_with_one_camera_is_left_out_and_counted(tmp_path):
    path = write_zip(tmp_path / "v.zip", viper_files(4) | {"VIPeR/cam_a/100_0.bmp": picture(0, form="BMP")})
    with open_collection(path, variant("viper", split=1), tmp_path) as collection:
        assert 101 not in {entry.identity for entry in collection.entries}
        assert collection.notes == ["people seen by one camera only, left out: 1"]


def test_a_name_without_person_and_angle_is_refused(tmp_path):
    path = write_zip(tmp_path / "v.zip", viper_files(4) | {"VIPeR/cam_a/front.bmp": picture(0, form="BMP")})
    with (
        pytest.raises(InputError, match=r"VIPeR/cam_a/front\.bmp does not give person and angle"),
        open_collection(path, variant("viper", split=1), tmp_path),
    ):
        pass


def test_wrong_layout(tmp_path):
    path = write_zip(tmp_path / "v.zip", {"cam_a/000_45.bmp": b"", "cam_c/000_45.bmp": b""})
    with (
        pytest.raises(InputError, match="not the layout of VIPeR"),
        open_collection(path, variant("viper", split=1), tmp_path),
    ):
        pass


@pytest.mark.real_data
def test_a_real_pair_keeps_its_pixels(tmp_path):
    pair = {camera: golden(f"000_45_{camera}.bmp").read_bytes() for camera in "ab"}
    files = viper_files(3) | {f"VIPeR/cam_{camera}/000_45.bmp": content for camera, content in pair.items()}
    del files["VIPeR/cam_b/000_135.bmp"]
    with open_collection(write_zip(tmp_path / "v.zip", files), variant("viper", split=1), tmp_path) as collection:
        for camera, content in pair.items():
            encoded = collection.read(f"VIPeR/cam_{camera}/000_45.bmp")
            assert encoded == content
            assert np.asarray(Image.open(io.BytesIO(encoded))).shape == (128, 48, 3)
