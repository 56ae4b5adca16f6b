import hashlib
import json
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from builders import (
    market_files,
    np_files,
    picture,
    small_cells,
    variant,
    viper_files,
    viper_names,
    write_cuhk03_mat,
    write_folder,
    write_zip,
)

from slsr.datasets.adding import add_archive, next_steps
from slsr.datasets.opening import open_collection, recognize
from slsr.errors import InputError
from slsr.project.doctor.clone import working_links

TABLE = b"path,identity,camera,split\n" + b"".join(
    b"p/%s.jpg,%d,%d,%s\n" % row
    for row in [(b"a", 1, 1, b"train"), (b"b", 2, 1, b"train"), (b"c", 3, 1, b"query"), (b"d", 3, 2, b"gallery")]
)
TABLE_FILES = {"people.csv": TABLE, "notes.txt": b"private", **{f"p/{n}.jpg": picture(ord(n)) for n in "abcdz"}}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A project with a DVC repository, a remote in it, and a tracked archive."""
    root = tmp_path_factory.mktemp("template") / "project"
    (root / ".dvc").mkdir(parents=True)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    (root / ".dvc/config").write_text("[core]\n    remote = seed\n['remote \"seed\"']\n    url = ../.dvcstore\n")
    write_zip(root / "data/sample.zip", {"a.txt": b"sample"})
    run_dvc(root, "add", "-q", "data")
    annotate(root, remote="seed", push=False)
    return root


@pytest.fixture
def root(template, tmp_path):
    """A copy of the project."""
    return Path(shutil.copytree(template, tmp_path / "project"))


@pytest.fixture
def bare(tmp_path):
    """A project of which `add` needs no real DVC repository."""
    root = tmp_path / "bare"
    (root / ".dvc").mkdir(parents=True)
    (root / "data").mkdir()
    (root / "data.dvc").write_text("outs:\n- path: data\n  push: false\n")
    return root


def add(source, root, **options):
    """Add an archive without running DVC."""
    commands = []
    added = add_archive(source, root, **options, dvc=lambda root, *arguments: commands.append(arguments))
    assert commands == [("add", "data")]
    return added


def run_dvc(root, *arguments):
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, check=True, capture_output=True)


def annotate(root, **values):
    content = yaml.safe_load((root / "data.dvc").read_text())
    content["outs"][0] |= values
    (root / "data.dvc").write_text(yaml.safe_dump(content))


def tracked(root):
    return yaml.safe_load((root / "data.dvc").read_text())["outs"][0]


def test_added_archive_is_tracked_and_never_pushed(root, tmp_path):
    before = tracked(root)
    source = write_zip(tmp_path / "mine.zip", market_files())
    added = add_archive(source, root)
    assert added.target == root / "data/mine.zip"
    assert added.target.read_bytes() == source.read_bytes()
    after = tracked(root)
    assert after["nfiles"] == 2
    assert after["md5"] != before["md5"]
    assert (after["remote"], after["push"]) == ("seed", False)
    run_dvc(root, "push", "-q")
    assert not (root / ".dvcstore").exists()
    assert added.warning is None, "the survey shows already that the counts differ"
    assert added.survey.differences()["train"] == ["images 9 instead of 12,936", "identities 3 instead of 751"]


def test_push_is_switched_off(root, tmp_path):
    annotate(root, push=True)
    add_archive(write_zip(tmp_path / "mine.zip", market_files()), root)
    assert tracked(root)["push"] is False


def test_missing_data_is_pulled_first(root, tmp_path):
    shutil.rmtree(root / "data")
    add_archive(write_zip(tmp_path / "mine.zip", market_files()), root)
    assert sorted(path.name for path in (root / "data").iterdir()) == ["mine.zip", "sample.zip"]


def test_data_is_unchanged_if_dvc_fails(root, tmp_path):
    (root / "data.dvc").write_text("no: yaml: [")
    with pytest.raises(InputError, match=r"`dvc add data` failed"):
        add_archive(write_zip(tmp_path / "mine.zip", market_files()), root)
    assert [path.name for path in (root / "data").iterdir()] == ["sample.zip"]


def test_outside_a_project(tmp_path):
    with pytest.raises(InputError, match="not a DVC repository; run this in the root of the project"):
        add_archive(write_zip(tmp_path / "mine.zip", market_files()), tmp_path)


def test_same_file_again_is_not_copied(bare, tmp_path):
    source = write_zip(tmp_path / "mine.zip", market_files())
    add(source, bare)
    before = (bare / "data/mine.zip").stat().st_mtime_ns
    add(source, bare)
    assert (bare / "data/mine.zip").stat().st_mtime_ns == before


def test_another_file_is_never_overwritten(bare, tmp_path):
    (bare / "data/mine.zip").write_bytes(b"precious")
    source = write_zip(tmp_path / "mine.zip", market_files())
    with pytest.raises(InputError, match=r"data/mine\.zip: another file has this name; .*--name"):
        add(source, bare)
    assert (bare / "data/mine.zip").read_bytes() == b"precious"
    assert add(source, bare, name="other.zip").target.name == "other.zip"


@pytest.mark.parametrize("name", ["../x.zip", "a/b.zip", "/tmp/x.zip"])
def test_name_stays_in_data(bare, tmp_path, name):
    with pytest.raises(InputError, match="must be a file name, without folders"):
        add(write_zip(tmp_path / "mine.zip", market_files()), bare, name=name)


def test_an_archive_with_the_published_counts_gets_the_published_name(bare, tmp_path):
    files = dict.fromkeys(viper_names(632), picture(0, 4, 8, form="BMP"))
    added = add(write_zip(tmp_path / "download.zip", files), bare)
    assert added.target.name == "VIPeR.v1.0.zip"
    assert added.warning.startswith("md5 ")
    assert next_steps(added, "viper", "VIPeR.v1.0.zip") == [
        "slsr preset viper",
        "git add data.dvc params.yaml",
        "make repro",
    ]


def test_link_shares_the_file_with_the_project_and_its_cache(root, tmp_path):
    """Where the file system has no reflinks, by one file with three names."""
    source = write_zip(tmp_path / "mine.zip", market_files())
    target = add_archive(source, root, link=True).target
    digest = hashlib.md5(source.read_bytes()).hexdigest()
    stored = root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    assert target.read_bytes() == stored.read_bytes() == source.read_bytes()
    if "reflink" in working_links(stored.parent, tmp_path):
        assert source.stat().st_nlink == 1, "the blocks are shared, which cannot be seen here"
        return
    assert source.samefile(target) and source.samefile(stored)
    assert not source.stat().st_mode & stat.S_IWUSR, "DVC protects what it tracks"
    configured = subprocess.run(
        [sys.executable, "-m", "dvc", "config", "cache.type"], cwd=root, check=True, capture_output=True, text=True
    )
    assert configured.stdout.strip() == "reflink,hardlink,symlink,copy"


def test_data_as_a_symbolic_link_is_refused_before_anything_is_read(bare, tmp_path):
    (bare / "data").rmdir()
    (tmp_path / "big").mkdir()
    (bare / "data").symlink_to(tmp_path / "big")
    source = tmp_path / "m.zip"
    source.write_bytes(b"not read")
    with pytest.raises(InputError, match=r"data: a symbolic link, which DVC does not track; .* dvc cache dir --local"):
        add(source, bare)
    assert not list((tmp_path / "big").iterdir())


def test_a_folder_beside_the_archive_is_told(bare, tmp_path, caplog):
    write_folder(bare / "data/loose", {"a.jpg": picture(1)})
    add(write_zip(tmp_path / "mine.zip", market_files()), bare)
    assert "data/loose is a folder, whose files DVC tracks one by one" in caplog.text


def test_a_packed_table_stays_a_table(bare, tmp_path):
    """Its images are in the folders of Market-1501, and the table gives other identities."""
    names = [name for name in market_files("") if name.endswith(".jpg") and "gt_bbox" not in name]
    rows = ["path,identity,camera,split"]
    for number, name in enumerate(names):
        split = "train" if "train" in name else "query" if "query" in name else "gallery"
        person = 100 + number if split == "train" else 500 + number % 2
        rows.append(f"{name},{person},{1 if split == 'query' else 2},{split}")
    files = market_files("") | {"people.csv": "\n".join(rows).encode()}
    folder = write_folder(tmp_path / "own", files)
    added = add(folder / "people.csv", bare)
    assert recognize(added.target) == recognize(folder) == added.survey.variant == variant("table")
    with zipfile.ZipFile(added.target) as packed:
        packed.extractall(tmp_path / "unpacked")
    assert recognize(tmp_path / "unpacked") == variant("table")
    assert add(added.target, bare).survey.facts == added.survey.facts
    with (
        pytest.raises(InputError, match=r"packed this as table, and not as market1501; set dataset\.name: table"),
        open_collection(added.target, variant("market1501"), tmp_path),
    ):
        pass


@pytest.mark.parametrize("split", [1, 3])
def test_a_packed_folder_says_what_it_is(bare, tmp_path, split):
    added = add(write_folder(tmp_path / "VIPeR", viper_files()), bare)
    with zipfile.ZipFile(added.target) as packed:
        assert json.loads(packed.read("slsr-dataset.json"))["name"] == "viper"
    assert recognize(added.target) == variant("viper", split=1)
    with open_collection(added.target, variant("viper", split=split), tmp_path) as collection:
        assert len(collection.entries) == 8 + 2 * 8


def test_a_damaged_marker_is_named(tmp_path):
    path = write_zip(tmp_path / "m.zip", market_files() | {"slsr-dataset.json": b'{"name": "other"}'})
    with pytest.raises(InputError, match=r"slsr-dataset\.json in it names no data set"):
        recognize(path)


def test_unknown_cameras_are_among_the_next_steps(bare, tmp_path):
    places = [("train", "1"), ("train", "2"), ("query", "3"), ("gallery", "3")]
    files = {f"{part}/{who}/{part}.jpg": picture(n) for n, (part, who) in enumerate(places)}
    added = add(write_folder(tmp_path / "own", files), bare)
    assert any(step.startswith("    cameras: unknown") for step in next_steps(added, None, None))


def test_a_table_is_packed_with_the_images_it_names(bare, tmp_path):
    folder = write_folder(tmp_path / "own", TABLE_FILES)
    added = add(folder / "people.csv", bare)
    with zipfile.ZipFile(added.target) as packed:
        assert packed.namelist() == ["p/a.jpg", "p/b.jpg", "p/c.jpg", "p/d.jpg", "people.csv", "slsr-dataset.json"]
        assert packed.read("p/a.jpg") == TABLE_FILES["p/a.jpg"]
    again = add(folder / "people.csv", bare)
    assert again.target == added.target, "the same bytes each time, so that nothing is overwritten"
    assert next_steps(added, None, None) == [
        "slsr preset market1501",
        "in params.yaml, block dataset:",
        "    name: table",
        "    archive: people.zip",
        "git add data.dvc params.yaml",
        "make repro",
    ]
    with pytest.raises(InputError, match="cannot be linked; leave out --link"):
        add(folder / "people.csv", bare, name="linked.zip", link=True)


def test_an_unpacked_folder_is_packed(bare, tmp_path):
    folder = write_folder(tmp_path / "Market", market_files(""))
    added = add(folder, bare)
    assert added.target == bare / "data/Market.zip"
    assert add(added.target, bare, name="Market.zip").survey.facts == added.survey.facts


def test_mat_and_np_keep_their_own_names(bare, tmp_path):
    cells = {boxes: small_cells() for boxes in ("detected", "labeled")}
    folder = tmp_path / "cuhk03_release"
    folder.mkdir()
    write_cuhk03_mat(folder / "cuhk-03.mat", cells, [[(1, 1)]] * 20)
    assert add(folder / "cuhk-03.mat", bare).target.name == "cuhk-03.mat"
    assert add(folder, bare).target.name == "cuhk-03.mat"
    added = add(write_zip(tmp_path / "np.zip", np_files()), bare)
    assert added.target.name == "cuhk03-np.zip"
    assert next_steps(added, "cuhk03", "cuhk03_release.zip")[1:6] == [
        "in params.yaml, block dataset:",
        "    archive: cuhk03-np.zip",
        "    protocol: np",
        "    boxes: detected",
        "    split: null",
    ]


def test_unreadable_images_are_added_only_if_allowed(bare, tmp_path):
    files = market_files() | {"Market/bounding_box_train/0002_c2s1_000009_01.jpg": b"no image"}
    source = write_zip(tmp_path / "mine.zip", files)
    with pytest.raises(InputError, match=r"1 unreadable image, for example .*000009_01\.jpg.*--allow-unreadable"):
        add(source, bare)
    assert not list((bare / "data").iterdir())
    added = add(source, bare, allow_unreadable=True)
    assert "    unreadable_images: skip" in next_steps(added, "market1501", "x.zip")


def test_a_leak_is_never_added(bare, tmp_path):
    files = market_files() | {"Market/bounding_box_test/0002_c1s1_000001_09.jpg": picture(0)}
    with pytest.raises(InputError, match=r"identity 2 is both in training and test.*nothing was added"):
        add(write_zip(tmp_path / "mine.zip", files), bare)
    assert not list((bare / "data").iterdir())


def test_no_room(bare, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10})())
    with pytest.raises(InputError, match=r"needed \(the file and DVC's copy\)"):
        add(write_zip(tmp_path / "mine.zip", market_files()), bare)
    assert not list((bare / "data").iterdir())
