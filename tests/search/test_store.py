"""An index on disk: interruptions leave it whole, and nothing else than an index is ever replaced."""

import json
import multiprocessing
import os
import signal
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from trained import ORIGIN, drawn_features, named

from slsr.embedding.files import Origin, read_features, write_features
from slsr.errors import InputError
from slsr.files import replaced_file
from slsr.search import kinds, store
from slsr.search.kinds import KINDS

GALLERY, MORE, QUERIES = (drawn_features(count, seed=seed) for seed, count in enumerate((600, 50, 5)))
SIZES = {"flat": 40, "hnsw": 300, "ivf-pq": 600}


def exact(gallery, count):
    return np.argsort(-(QUERIES @ gallery.T), axis=1, kind="stable")[:, :count]


@pytest.fixture(params=KINDS)
def built(request, tmp_path):
    """An index of each kind, and its gallery."""
    gallery = GALLERY[: SIZES[request.param]]
    store.build(tmp_path / "index", ORIGIN, [named(gallery)], kind=request.param)
    return tmp_path / "index", gallery


def test_what_was_built_is_found_again(built):
    path, gallery = built
    index = store.open_index(path)
    scores, rows = index.search(QUERIES, 5)
    found = np.mean([np.isin(one, other).mean() for one, other in zip(rows, exact(gallery, 5), strict=True)])
    assert found >= (1 if index.kind == "flat" else 0.9)
    np.testing.assert_allclose(scores, (QUERIES[:, None] * gallery[rows]).sum(axis=2), atol=2e-3)
    assert index.names.column("name")[7].as_py() == "image-7"
    assert index.names.column("identity")[27].as_py() == 7
    assert index.origin == ORIGIN
    np.testing.assert_allclose(index.features[np.array([3, 1])], gallery[[3, 1]], atol=1e-3)


def test_more_than_there_are_is_all_there_are(built):
    path, gallery = built
    scores, rows = store.open_index(path).search(QUERIES, 10**6)
    assert scores.shape == rows.shape == (5, len(gallery))


def test_what_is_added_is_found_and_adding_again_adds_nothing(built):
    path, gallery = built
    grown, known = store.add(path, ORIGIN, [named(MORE, "more")])
    assert (len(grown), known) == (len(gallery) + 50, 0)
    _, rows = grown.search(MORE[:5], 1)
    assert rows[:, 0].tolist() == [len(gallery) + number for number in range(5)]
    assert grown.names.column("name")[int(rows[3, 0])].as_py() == "more-3"
    before = path.read_bytes()
    again, known = store.add(path, ORIGIN, [named(MORE, "more")])
    assert (len(again), known) == (len(grown), 50)
    assert path.read_bytes() == before


def test_a_flat_index_that_grew_is_the_one_built_at_once(tmp_path):
    store.build(tmp_path / "grown", ORIGIN, [named(GALLERY)])
    store.add(tmp_path / "grown", ORIGIN, [named(MORE, "more")])
    store.build(tmp_path / "whole", ORIGIN, [named(GALLERY), named(MORE, "more")])
    grown, whole = (store.open_index(tmp_path / name).search(QUERIES, 20) for name in ("grown", "whole"))
    np.testing.assert_array_equal(grown, whole)


def test_a_known_name_with_another_feature_is_refused(built):
    path, _ = built
    before = path.read_bytes()
    with pytest.raises(InputError, match="image-0 is in the index with another feature"):
        store.add(path, ORIGIN, [named(MORE)])
    assert path.read_bytes() == before


@pytest.mark.parametrize("other", [Origin("b" * 64, True, "b"), Origin("a" * 64, False, "a")])
def test_features_of_another_model_are_refused(built, other):
    path, _ = built
    before = path.read_bytes()
    with pytest.raises(InputError, match="need one model"):
        store.add(path, other, [named(MORE, "more")])
    assert path.read_bytes() == before


def test_an_index_is_replaced_only_when_asked_to(built):
    path, _ = built
    before = path.read_bytes()
    with pytest.raises(InputError, match="--force"):
        store.build(path, ORIGIN, [named(MORE)])
    assert path.read_bytes() == before
    assert len(store.build(path, ORIGIN, [named(MORE)], force=True)) == 50
    assert list(path.parent.iterdir()) == [path]


def _a_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.jpg", "years of work")


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("write", [Path.touch, lambda path: path.write_text("years of work"), _a_zip])
def test_a_file_that_is_not_an_index_is_left_alone(tmp_path, write, force):
    path = tmp_path / "mine"
    write(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="something else is there"):
        store.build(path, ORIGIN, [named(MORE)], force=force)
    for change in (store.open_index, lambda path: store.add(path, ORIGIN, [named(MORE)])):
        with pytest.raises(InputError, match="not an index; build one with"):
            change(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("force", [True, False])
def test_a_folder_is_left_alone(tmp_path, force):
    (tmp_path / "generation-1").mkdir()
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="something else is there"):
        store.build(tmp_path, ORIGIN, [named(MORE)], force=force)
    with pytest.raises(InputError, match="is a folder; an index is one file"):
        store.open_index(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generation-1", "manifest.json"]


def test_no_such_index(tmp_path):
    for change in (store.open_index, lambda path: store.add(path, ORIGIN, [named(MORE)])):
        with pytest.raises(InputError, match="no such index; build one with"):
            change(tmp_path / "missing")
    assert not list(tmp_path.iterdir())


def test_an_index_is_made_in_folders_that_are_not_there_yet(tmp_path):
    assert len(store.build(tmp_path / "a" / "b" / "index", ORIGIN, [named(MORE)])) == 50


def _described(path, text):
    """Write an index again with another description."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (entries | {store.DESCRIPTION_ENTRY: text}).items():
            archive.writestr(name, content)


DESCRIPTIONS = {
    "half": lambda description: "{",
    "nothing": lambda description: "",
    "a list": lambda description: "[]",
    "older": lambda description: json.dumps(description | {"version": 1}),
    "kind": lambda description: json.dumps(description | {"kind": "lsh"}),
    "another kind": lambda description: json.dumps(description | {"kind": "ivf-pq"}),
    "recall": lambda description: json.dumps(description | {"recall": {"at_10": "good", "effort": 0, "sample": 0}}),
    "origin": lambda description: json.dumps(description | {"origin": {"fingerprint": 3, "flip": True, "model": "x"}}),
    "built_for": lambda description: json.dumps(description | {"built_for": None}),
}


def _refused_until_built_again(path):
    before = path.read_bytes()
    for change in (store.open_index, lambda path: store.add(path, ORIGIN, [named(GALLERY, "gallery")])):
        with pytest.raises(InputError, match=f"build it again with .* -o {path} --force") as caught:
            change(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="--force replaces it"):
        store.build(path, ORIGIN, [named(MORE)])
    assert path.read_bytes() == before
    assert len(store.build(path, ORIGIN, [named(GALLERY[:40])], force=True)) == 40
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("describe", DESCRIPTIONS.values(), ids=DESCRIPTIONS.keys())
def test_an_index_of_another_version_is_built_again_as_the_message_says(tmp_path, describe):
    path = tmp_path / "index"
    store.build(path, ORIGIN, [named(MORE)])
    with zipfile.ZipFile(path) as archive:
        description = json.loads(archive.read(store.DESCRIPTION_ENTRY))
    _described(path, describe(description))
    _refused_until_built_again(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["cut", "half", "names", "index"])
def test_a_damaged_index_is_built_again_as_the_message_says(tmp_path, kind, damage):
    path = tmp_path / "index"
    store.build(path, ORIGIN, [named(GALLERY[: SIZES[kind]])], kind=kind)
    whole = path.read_bytes()
    if damage in ("cut", "half"):
        path.write_bytes(whole[:-9] if damage == "cut" else whole[: len(whole) // 2])
    else:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo({"names": store.NAMES_ENTRY, "index": store.FAISS_ENTRY}[damage])
        middle = entry.header_offset + entry.file_size // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    _refused_until_built_again(path)


STEPS = ("write_index", "write_table", "fsync", "replace")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("change", ["add", "build"])
@pytest.mark.parametrize("first", [True, False])
def test_an_interruption_at_any_step_leaves_the_index_as_it_was(tmp_path, monkeypatch, step, change, first):
    path = tmp_path / "index"
    store.build(path, ORIGIN, [named(GALLERY[:40])])
    if first and change == "build":
        path.unlink()
    before = path.read_bytes() if path.exists() else None

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    def make_change():
        if change == "add":
            return len(store.add(path, ORIGIN, [named(MORE, "more")])[0])
        return len(store.build(path, ORIGIN, [named(MORE, "more")], force=True))

    place = {"write_index": store.faiss, "write_table": store.pq, "fsync": os, "replace": Path}[step]
    with monkeypatch.context() as patched:
        patched.setattr(place, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_change()
    assert (path.read_bytes() if path.exists() else None) == before
    assert list(tmp_path.iterdir()) == ([path] if before else [])
    assert make_change() == {"add": 90, "build": 50}[change]
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    def full(*arguments):
        raise RuntimeError("no space")

    monkeypatch.setattr(store.faiss, "write_index", full)
    with pytest.raises(InputError, match=r"cannot be written; .* MB are free there \(no space\)"):
        store.build(tmp_path / "index", ORIGIN, [named(MORE)])
    assert not list(tmp_path.iterdir())


def _add_for_ever(path):
    for number in range(10**6):
        store.add(path, ORIGIN, [named(drawn_features(10, seed=number), f"added-{number}")])


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(tmp_path):
    """SIGKILL while images are added: the index opens, and holds a whole number of additions, no fewer than before."""
    path = tmp_path / "index"
    store.build(path, ORIGIN, [named(GALLERY)])
    random, size = np.random.default_rng(0), 600
    context = multiprocessing.get_context("fork")
    for attempt in range(30):
        process = context.Process(target=_add_for_ever, args=(path,))
        process.start()
        time.sleep(random.uniform(0.02, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        index = store.open_index(path)
        assert len(index) >= size, f"attempt {attempt}"
        assert (len(index) - 600) % 10 == 0
        assert len(index.names) == len(index)
        size = len(index)
    assert size > 600


def test_two_changes_at_once_are_refused(tmp_path):
    path = tmp_path / "index"
    store.build(path, ORIGIN, [named(GALLERY[:40])])
    with pytest.raises(InputError, match="another process is writing it"), replaced_file(path):
        store.add(path, ORIGIN, [named(MORE, "more")])
    assert len(store.open_index(path)) == 40


def test_a_change_that_was_overtaken_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "index"
    store.build(path, ORIGIN, [named(GALLERY[:40])])
    add_to, overtaken = kinds.add, []

    def add_then_change(index, features, title="index"):
        if not overtaken:
            overtaken.append(True)
            store.add(path, ORIGIN, [named(GALLERY[40:60], "other")])
        add_to(index, features, title)

    monkeypatch.setattr(kinds, "add", add_then_change)
    with pytest.raises(InputError, match="another process has just changed this index; run again"):
        store.add(path, ORIGIN, [named(MORE, "more")])
    assert len(store.open_index(path)) == 60
    assert len(store.add(path, ORIGIN, [named(MORE, "more")])[0]) == 110


def test_an_open_index_is_searched_while_it_is_replaced(built):
    path, gallery = built
    index = store.open_index(path)
    expected = index.search(QUERIES, 5)
    store.build(path, ORIGIN, [named(MORE)], force=True)
    np.testing.assert_array_equal(index.search(QUERIES, 5), expected)
    np.testing.assert_allclose(index.features[np.array([3, 1])], gallery[[3, 1]], atol=1e-3)


def test_the_same_features_make_the_same_file(tmp_path):
    files = [tmp_path / name for name in ("one", "two")]
    for path in files:
        store.build(path, ORIGIN, [named(GALLERY)], kind="ivf-pq")
    assert files[0].read_bytes() == files[1].read_bytes()


def test_other_programs_can_read_the_parts(tmp_path):
    path = tmp_path / "index"
    store.build(path, ORIGIN, [named(GALLERY)], kind="ivf-pq")
    np.testing.assert_allclose(np.load(path)["features"], GALLERY, atol=1e-3)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "parts")
    assert store.faiss.read_index(str(tmp_path / "parts/index.faiss")).ntotal == 600
    assert store.pq.read_table(tmp_path / "parts/names.parquet").num_rows == 600


def test_a_name_that_is_given_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match="'image-0'"):
        store.build(tmp_path / "index", ORIGIN, [named(MORE), named(GALLERY[:1])])
    assert not (tmp_path / "index").exists()


def test_dimensions_that_differ_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"\[16, 24\]"):
        store.build(tmp_path / "index", ORIGIN, [named(MORE), named(drawn_features(9, 24), "x")])
    store.build(tmp_path / "index", ORIGIN, [named(MORE)])
    with pytest.raises(InputError, match="24"):
        store.add(tmp_path / "index", ORIGIN, [named(drawn_features(9, 24), "x")])
    with pytest.raises(InputError, match="16"):
        store.open_index(tmp_path / "index").search(drawn_features(9, 24), 3)


def test_mapped_files_are_built_from_and_added(tmp_path):
    for name, features in (("gallery", GALLERY), ("more", MORE)):
        write_features(tmp_path / f"{name}.npz", ORIGIN, {"gallery": [named(features, name)]})
    gallery, more = (read_features(tmp_path / f"{name}.npz") for name in ("gallery", "more"))
    index = store.build(tmp_path / "index", ORIGIN, [gallery, more], kind="ivf-pq")
    np.testing.assert_allclose(index.features, np.concatenate([GALLERY, MORE]), atol=1e-3)
    assert isinstance(index.half, np.memmap)


def test_an_index_that_outgrew_its_kind_says_so(tmp_path, monkeypatch):
    index = store.build(tmp_path / "index", ORIGIN, [named(GALLERY[:40])])
    assert store.advice(index) is None
    monkeypatch.setattr(kinds, "FLAT_UP_TO", 39)
    assert "build it again" in store.advice(index)
    coded = store.build(tmp_path / "coded", ORIGIN, [named(GALLERY)], kind="ivf-pq")
    assert store.advice(coded) is None
    monkeypatch.setattr(store, "REBUILD_AT", 0.5)
    assert "learned from 600" in store.advice(coded)
