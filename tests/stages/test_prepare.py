import hashlib
import json
from collections import Counter
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from builders import (
    duke_files,
    encrypt,
    enormous_png,
    market_files,
    params,
    picture,
    real_archive,
    sixteen_bit_picture,
    viper_files,
    write_folder,
    write_zip,
)

from slsr.errors import InputError
from slsr.images.tables import LABELED, RANKED, TRAINING
from slsr.params.file import run_with_blocks
from slsr.stages import prepare

OUTPUTS = [f"{name}.parquet" for name in ("gallery", "multi_query", "query", "train", "validation")] + ["facts.json"]
TRAIN = "Market/bounding_box_train/"
GALLERY = "Market/bounding_box_test/"
QUERY = "Market/query/"
ONE_DIRECTION = {"directions": "one", "cameras": "known"}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """An empty project."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(files=None, archive="m.zip", dataset=None, **blocks):
    if files is not None:
        write_zip(prepare.DATA / archive, files)
    run_with_blocks(prepare.run, params({"archive": archive, **(dataset or {})}, **blocks))
    return json.loads((prepare.PREPARED / "facts.json").read_text())


def rows(name):
    return pq.read_table(prepare.PREPARED / f"{name}.parquet").to_pylist()


def digests():
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(prepare.PREPARED.iterdir())}


def test_tables_hold_the_bytes_of_the_archive():
    facts = run(market_files())
    assert sorted(path.name for path in prepare.PREPARED.iterdir()) == sorted(OUTPUTS)
    content = {name.rpartition("/")[2]: data for name, data in market_files().items() if "gt_bbox" not in name}
    for name, schema in (("train", TRAINING), ("validation", TRAINING), ("query", LABELED), ("gallery", LABELED)):
        assert pq.read_schema(prepare.PREPARED / f"{name}.parquet").equals(schema)
        assert [row["name"] for row in rows(name)] == sorted(row["name"] for row in rows(name))
        assert all(row["image"] == content[row["name"]] for row in rows(name))
    assert {(row["identity"], row["label"]) for row in rows("train")} == {(2, 0), (7, 1), (11, 2)}
    assert Counter(row["identity"] for row in rows("validation")) == {2: 1, 7: 1, 11: 1}
    assert [row["identity"] for row in rows("gallery")] == [-1, 0, 1, 1, 1, 5, 5, 5]
    assert [(row["identity"], row["camera"]) for row in rows("multi_query")] == [(1, 1), (1, 2), (5, 1), (5, 2)]
    assert facts["evaluation"] == {
        "protocol": "cross-camera",
        "directions": "one",
        "cameras": "known",
        "multi_query": True,
    }


def test_facts():
    files = market_files() | {
        QUERY + "0009_c1s1_000003_00.jpg": picture(77),
        TRAIN + "0099_c1s1_000001_01.jpg": picture(78),
        GALLERY + "0001_c6s1_000009_02.jpg": market_files()[TRAIN + "0002_c1s1_000001_01.jpg"],
        TRAIN + "0002_c3s1_000001_01.jpg": picture(79, 20, 50, mode="L"),
        TRAIN + "0007_c3s1_000001_01.jpg": market_files()[TRAIN + "0002_c2s1_000005_01.jpg"],
    }
    facts = run(files)
    train, gallery = facts["splits"]["train"], facts["splits"]["gallery"]
    images = train["images"] + facts["splits"]["validation"]["images"]
    assert images == 12
    assert (gallery["images"], gallery["identities"], gallery["junk"], gallery["distractors"]) == (9, 2, 1, 1)
    assert gallery["images_per_camera"] == {"1": 3, "2": 3, "3": 2, "6": 1}
    assert facts["splits"]["query"]["images_per_identity"] == {"min": 1, "max": 2, "mean": 1.67}
    sizes = [facts["splits"][name]["height"] for name in ("train", "validation")]
    assert max(size["max"] for size in sizes) == 50
    assert facts["training_identities"] == 4
    assert facts["identities_with_one_training_image"] == [99]
    assert facts["queries_without_match"] == {"count": 1, "examples": ["0009_c1s1_000003_00.jpg"]}
    [pair] = facts["duplicates"]["across_splits"].values()
    assert pair == {"count": 1, "examples": ["0002_c1s1_000001_01.jpg = 0001_c6s1_000009_02.jpg"]}
    assert facts["converted_to_rgb"] == {"L": 1}
    assert facts["ignored_files"] == {"*.txt": 1, "Thumbs.db": 1}
    assert facts["skipped_unreadable"] == {}


def test_a_query_without_multi_query_images_switches_that_evaluation_off():
    files = market_files()
    del files["Market/gt_bbox/0005_c2s1_000003_00.jpg"]
    facts = run(files)
    assert facts["evaluation"]["multi_query"] is False
    assert facts["queries_without_multi_query_images"] == 1


def test_two_identities_of_one_image_are_counted():
    files = market_files()
    files[TRAIN + "0007_c3s1_000001_01.jpg"] = files[TRAIN + "0002_c2s1_000005_01.jpg"]
    facts = run(files, dataset={"validation": "none"})
    assert facts["duplicates"]["of_two_identities"] == {
        "count": 1,
        "examples": ["0002_c2s1_000005_01.jpg = 0007_c3s1_000001_01.jpg (train)"],
    }
    assert facts["splits"]["validation"]["images"] == 0
    assert rows("validation") == []


def test_same_inputs_same_bytes():
    run(market_files())
    first = digests()
    run(market_files())
    assert digests() == first
    run(dict(reversed(market_files().items())), archive="other.zip")
    assert digests() == first
    run(market_files(), dataset={"seed": 4})
    assert digests()["validation.parquet"] != first["validation.parquet"]
    assert digests()["gallery.parquet"] == first["gallery.parquet"]


def test_unpacked_folder_gives_the_same():
    run(market_files())
    first = digests()
    write_folder(prepare.DATA / "unpacked", market_files())
    run(archive="unpacked")
    assert digests() == first


def test_identities_limit():
    facts = run(market_files(), dataset={"identities": 2})
    assert facts["training_identities"] == 2
    assert (facts["splits"]["gallery"]["junk"], facts["splits"]["gallery"]["distractors"]) == (0, 0)
    assert facts["left_out"]["identities beyond the first 2, junk and distractors"] == 3 + 2 + 2


def test_distractor_identities_of_duke():
    facts = run(duke_files(), dataset={"name": "dukemtmc"})
    assert facts["gallery_identities_without_query"] == 1
    assert facts["splits"]["gallery"]["width"]["min"] < facts["splits"]["gallery"]["width"]["max"]


def people_files(people=12):
    """Market-1501 with these training people, of two images by each of two cameras."""
    names = [f"{TRAIN}{i:04d}_c{c}s1_{f:06d}_01.jpg" for i in range(20, 20 + people) for c in (1, 2) for f in (1, 2)]
    files = {name: data for name, data in market_files().items() if not name.startswith(TRAIN)}
    return files | {name: picture(100 + number) for number, name in enumerate(names)}


def test_people_are_held_out_whole():
    facts = run(people_files(), dataset={"validation": "identities", "validation_share": 0.3})
    assert pq.read_schema(prepare.PREPARED / "validation.parquet").equals(RANKED)
    people = {row["identity"] for row in rows("validation")}
    assert len(people) == facts["splits"]["validation"]["identities"] == 4
    assert {row["identity"] for row in rows("train")} == set(range(20, 32)) - people
    assert [*dict.fromkeys(row["label"] for row in rows("train"))] == list(range(8))
    assert facts["training_identities"] == facts["splits"]["train"]["identities"] == 8
    asked = Counter((row["identity"], row["camera"], row["role"]) for row in rows("validation"))
    assert asked == {(i, c, role): 1 for i in people for c in (1, 2) for role in ("query", "gallery")}
    assert facts["splits"]["validation"]["queries"] == 8
    first = digests()
    run(people_files(), dataset={"validation": "identities", "validation_share": 0.3, "seed": 2})
    assert {row["identity"] for row in rows("validation")} != people
    assert digests()["gallery.parquet"] == first["gallery.parquet"]


def test_the_share_of_people_changes_nothing_where_nobody_is_held_out():
    run(people_files())
    first = digests()
    run(people_files(), dataset={"validation_share": 0.5})
    assert digests() == first


def test_people_of_one_camera_cannot_be_held_out():
    run(market_files())
    before = digests()
    files = {name: data for name, data in people_files().items() if not name.startswith(TRAIN) or "_c1s1" in name}
    with pytest.raises(InputError, match=r"0 of the 2 people held out have images of two cameras"):
        run(files, dataset={"validation": "identities"})
    assert digests() == before


def test_single_gallery_shot_of_viper():
    facts = run(viper_files(8), dataset={"name": "viper", "split": 2, "validation": "none"})
    assert facts["evaluation"] == {"protocol": "single-gallery-shot", "multi_query": False} | {
        "directions": "both",
        "cameras": "known",
    }
    assert [row["name"] for row in rows("query")] == [row["name"] for row in rows("gallery")]
    assert facts["duplicates"]["across_splits"] == {}


BAD_IMAGES = {
    "0 bytes": b"",
    "no image": b"<html>",
    "truncated": picture(3, 64, 128)[:-300],
    "bomb": enormous_png(),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_unreadable_image_is_named_or_skipped(kind):
    run(market_files())
    before = digests()
    name = TRAIN + "0007_c2s1_000005_01.jpg"
    files = market_files() | {name: BAD_IMAGES[kind]}
    with pytest.raises(InputError) as raised:
        run(files)
    assert "m.zip" in str(raised.value)
    assert name in str(raised.value)
    assert "dataset.unreadable_images: skip" in str(raised.value)
    assert digests() == before
    facts = run(files, dataset={"unreadable_images": "skip"})
    assert list(facts["skipped_unreadable"]) == [name]
    kept = {row["name"] for table in ("train", "validation") for row in rows(table)}
    assert len(kept) == 8
    assert Counter(row["identity"] for row in rows("validation")) == {2: 1, 7: 1, 11: 1}


def test_skipping_all_images_of_an_identity_leaves_no_gap_in_the_labels():
    files = market_files()
    files |= {name: b"" for name in files if name.startswith(TRAIN + "0007")}
    facts = run(files, dataset={"unreadable_images": "skip"})
    assert facts["training_identities"] == 2
    assert {(row["identity"], row["label"]) for row in rows("train")} == {(2, 0), (11, 1)}


def test_other_modes_are_kept_and_counted():
    files = market_files()
    names = sorted(name for name in files if name.startswith(TRAIN))
    modes = [picture(90, mode="CMYK"), picture(91, mode="P", form="PNG"), sixteen_bit_picture()]
    files |= dict(zip(names[1:4], modes, strict=True))
    facts = run(files)
    assert facts["converted_to_rgb"] == {"CMYK": 1, "I;16": 1, "P": 1}
    assert {row["image"] for table in ("train", "validation") for row in rows(table)} >= set(modes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), r"data/m\.zip: no such archive \(data/ is empty.*slsr data add"),
        (lambda path: path.rename(path.with_name("o.zip")), r"data/m\.zip: no such archive \(data/ has o\.zip\)"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), r"data/m\.zip: the zip is cut off"),
        (lambda path: path.write_bytes(b"GIF89a"), r"data/m\.zip: not a zip file"),
        (encrypt, r"data/m\.zip: protected by a password"),
        (
            lambda path: write_zip(path, {"a/b.jpg": picture(0)}),
            r"data/m\.zip: not the layout of Market-1501: .*found a/",
        ),
        (lambda path: write_zip(path, market_files() | {"../x.jpg": b""}), "leaves the archive's folder"),
        (
            lambda path: write_zip(path, market_files() | {TRAIN + "a.jpg": b""}),
            r"the name .*train/a\.jpg does not give",
        ),
        (
            lambda path: write_zip(path, market_files() | {GALLERY + "0007_c1s1_000001_09.jpg": picture(0)}),
            "identity 7 is both in training and test",
        ),
    ],
)
def test_bad_archive_leaves_earlier_outputs(change, message):
    run(market_files())
    before = digests()
    change(prepare.DATA / "m.zip")
    with pytest.raises(InputError, match=message):
        run()
    assert digests() == before
    assert [path.name for path in prepare.PREPARED.parent.iterdir()] == ["prepared"]


def test_no_room(monkeypatch):
    run(market_files())
    before = digests()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=5000))
    with pytest.raises(InputError, match="artifacts: 0 MB are needed there and 0 MB are free; free some space"):
        run()
    assert digests() == before


@pytest.mark.real_data
def test_first_identities_of_the_real_archive(project):
    prepare.DATA.mkdir()
    (prepare.DATA / "m.zip").symlink_to(real_archive())
    facts = run(dataset={"identities": 20})
    assert facts["training_identities"] == facts["splits"]["validation"]["images"] == 20
    assert facts["splits"]["query"]["identities"] == facts["splits"]["gallery"]["identities"] == 20
    assert facts["splits"]["train"]["height"] == {"min": 128, "max": 128, "mean": 128.0}
    assert facts["queries_without_match"]["count"] == 0


@pytest.mark.real_data
def test_the_whole_real_archive(project):
    prepare.DATA.mkdir()
    (prepare.DATA / "m.zip").symlink_to(real_archive())
    facts = run()
    images = {name: counts["images"] for name, counts in facts["splits"].items()}
    assert images == {"train": 12936 - 751, "validation": 751, "query": 3368, "gallery": 19732, "multi_query": 0}
    assert facts["training_identities"] == 751
    assert facts["splits"]["query"]["identities"] == 750
    assert facts["splits"]["gallery"]["junk"] == 3819
    assert facts["splits"]["gallery"]["distractors"] == 2798
    table = pq.read_table(prepare.PREPARED / "gallery.parquet", columns=["identity", "camera"]).to_pylist()
    matches = [
        sum(row["identity"] == query["identity"] and row["camera"] != query["camera"] for row in table)
        for query in rows("query")[:100]
    ]
    assert min(matches) >= 1


def folders_without_cameras():
    places = [("train", 1, "a"), ("train", 1, "b"), ("train", 2, "a"), ("query", 3, "q"), ("query", 4, "q")]
    places += [("gallery", 3, "g"), ("gallery", 4, "g"), ("gallery", 4, "h"), ("multi_query", 3, "m")]
    return {f"{part}/{who}/{name}.jpg": picture(number) for number, (part, who, name) in enumerate(places)}


UNKNOWN = {"name": "folder", "cameras": "unknown"}


def test_unknown_cameras_are_refused_until_accepted(caplog):
    with pytest.raises(
        InputError, match=r"nothing says the camera of 6 test images of 6, .* dataset\.cameras: unknown acc"
    ):
        run(folders_without_cameras(), dataset={"name": "folder"})
    facts = run(folders_without_cameras(), dataset=UNKNOWN)
    assert facts["evaluation"] == {
        "protocol": "cross-camera",
        "directions": "one",
        "cameras": "unknown",
        "multi_query": False,
    }
    assert {row["camera"] for name in ("train", "query", "gallery") for row in rows(name)} == {-1}
    assert rows("multi_query") == [], "it would hold images of all cameras"
    assert facts["splits"]["gallery"]["cameras"] == 0
    assert facts["queries_without_match"]["count"] == 0
    assert "warning: Cameras are unknown" in caplog.text
    assert "only 5 query and gallery images: re-ranking compares at most 4 neighbors" in caplog.text


def test_known_cameras_cannot_be_called_unknown():
    with pytest.raises(InputError, match=r"dataset\.cameras: unknown, but the camera of every test image is known"):
        run(market_files(), dataset={"cameras": "unknown"})


def test_unknown_cameras_of_training_images_do_not_matter():
    files = {name: content for name, content in folders_without_cameras().items() if name.startswith("train/")}
    files |= {"query/3/0003_c1s1_1_1.jpg": picture(50), "gallery/3/0003_c2s1_1_1.jpg": picture(51)}
    assert run(files, dataset={"name": "folder"})["evaluation"]["cameras"] == "known"


def test_without_cameras_a_query_may_not_be_in_the_gallery():
    files = folders_without_cameras()
    files["gallery/3/copy.jpg"] = files["query/3/q.jpg"]
    with pytest.raises(InputError, match=r"1 image both in query and gallery \(query/3/q\.jpg = gallery/3/copy\.jpg\)"):
        run(files, dataset=UNKNOWN)


def test_what_is_left_out_is_in_the_facts(caplog):
    files = market_files() | {TRAIN + "0002_c1s1_000002_01.heic": b"x", "Market/extra/0002_c1s1_000002_01.jpg": b"x"}
    facts = run(files)
    left_out = [
        "left out: 1 images that are in no part of the data set, for example Market/extra/0002_c1s1_000002_01.jpg",
        "left out: 1 files in a format that is not read (convert them to PNG or JPEG), for example "
        f"{TRAIN}0002_c1s1_000002_01.heic",
    ]
    assert sorted(note for note in facts["notes"] if note.startswith("left out")) == sorted(left_out)
    assert all(f"warning: {line}" in caplog.text for line in left_out)


def test_an_identity_with_one_group_has_more_than_one_image():
    table = ["path,identity,camera,split,group"]
    groups = {1: ["a", "a"], 2: ["b"], 3: ["c", "d"]}
    table += [f"p/{who}{n}.jpg,{who},1,train,{group}" for who, found in groups.items() for n, group in enumerate(found)]
    table += ["p/90.jpg,9,1,query,", "p/91.jpg,9,2,gallery,"]
    names = [line.split(",")[0] for line in table[1:]]
    files = {"people.csv": "\n".join(table).encode()} | {name: picture(n) for n, name in enumerate(names)}
    facts = run(files, dataset={"name": "table"})
    assert facts["identities_with_one_training_image"] == [2]
    assert facts["identities_with_one_training_group"] == [1]
